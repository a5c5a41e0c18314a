"""SIGINT and SIGTERM, kept until the step under way is done."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from contextlib import contextmanager

from ..errors import Interrupted


class Stop:
    """Whether somebody asked the run to end. received: the signal's number, None while nobody has."""

    def __init__(self) -> None:
        self.received: int | None = None


def _now() -> dict:
    """The handlers of both, by number: to be read before others come, which a signal may call at once."""
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _install(handlers: dict) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[Stop]:
    """Inside, the first SIGINT or SIGTERM is only noted in the Stop that is yielded; the next one of either kind acts
    as it did before. To be used in the main thread."""
    stop, before = Stop(), _now()

    def note(number, _) -> None:
        stop.received = number
        _install(before)

    _install(dict.fromkeys(before, note))
    try:
        yield stop
    finally:
        _install(before)


@contextmanager
def raise_on_signal(message: str) -> Iterator[None]:
    """Inside, SIGINT and SIGTERM raise Interrupted with this message, at once. To be used in the main thread."""
    before = _now()

    def end(number, _) -> None:
        raise Interrupted(message, number)

    _install(dict.fromkeys(before, end))
    try:
        yield
    finally:
        _install(before)
