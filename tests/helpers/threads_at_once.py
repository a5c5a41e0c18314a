"""Runs a function in several threads at once."""

import threading
from collections.abc import Callable, Iterable
from typing import Any


def in_threads(work: Callable[..., Any], arguments: Iterable[tuple[Any, ...]] = ((),) * 4) -> None:
    """work(*one) in a thread of its own for each of `arguments`; returns when all have ended."""
    threads = [threading.Thread(target=work, args=one) for one in arguments]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
