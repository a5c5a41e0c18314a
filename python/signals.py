"""SIGINT and SIGTERM, kept until the step under way is done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from .errors import Interrupted


class Stop:
    """Whether somebody asked the run to end. received: the signal's number, None while nobody has."""

    def __init__(self) -> None:
        self.received: int | None = None


@contextmanager
def kept() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM is only noted in the Stop that is yielded; the next one of either kind acts
    as it did before. To be used in the main thread."""
    stop = Stop()
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def note(number, _) -> None:
        stop.received = number
        restore()

    def restore() -> None:
        for number, handler in before.items():
            signal.signal(number, handler)

    for number in before:
        signal.signal(number, note)
    try:
        yield stop
    finally:
        restore()


@contextmanager
def told(message: str) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise Interrupted with this message, at once. To be used in the main thread."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}

    def end(number, _) -> None:
        raise Interrupted(message, number)

    for number in before:
        signal.signal(number, end)
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
