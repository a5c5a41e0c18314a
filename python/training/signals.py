"""Handling of SIGINT and SIGTERM: deferred until a training step is complete, raised as Interrupted, ignored, or
ending one of several processes at once, while they start."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from ..errors import Interrupted

PASSED_ON_SECONDS = 1.0  # within which torchrun's launcher repeats a Ctrl-C that the terminal has sent to all processes


class Stop:
    """Whether a signal has asked the run to stop. received: its number, or None."""

    def __init__(self) -> None:
        self.received: int | None = None


def _current_handlers() -> dict[int, Any]:
    """The handlers of both signals, by number. None outside the main thread, where Python allows no other handlers:
    signals keep their usual effect there."""
    if threading.current_thread() is not threading.main_thread():
        return {}
    return {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}


def _install(handlers: dict[int, Any]) -> None:
    for number, handler in handlers.items():
        signal.signal(number, handler)


@contextmanager
def defer_signals() -> Iterator[Stop]:
    """Context manager: the first SIGINT or SIGTERM is recorded in the yielded Stop, and a second one has its usual
    effect. Without effect outside the main thread.

    In a process that torchrun or `launch` started, a second one within PASSED_ON_SECONDS has no effect: after Ctrl-C,
    the terminal sends SIGINT to every process, and the launcher sends it again.
    """
    # Read before the new handlers are installed: a signal may call those immediately.
    stop, before = Stop(), _current_handlers()
    grace = PASSED_ON_SECONDS if "TORCHELASTIC_RUN_ID" in os.environ else 0.0
    first = 0.0

    def record(number: int, frame: object) -> None:
        nonlocal first
        if stop.received is None:
            stop.received, first = number, time.monotonic()
            if not grace:
                _install(before)
        elif time.monotonic() - first > grace:
            _install(before)
            signal.raise_signal(number)

    _install(dict.fromkeys(before, record))
    try:
        yield stop
    finally:
        _install(before)


@contextmanager
def ignore_signals() -> Iterator[None]:
    """Context manager: SIGINT and SIGTERM have no effect. Without effect outside the main thread."""
    before = _current_handlers()
    _install(dict.fromkeys(before, signal.SIG_IGN))
    try:
        yield
    finally:
        _install(before)


def end_quietly() -> None:
    """For a process that is about to end: SIGINT no longer interrupts code that is called at exit, which would print a
    traceback (torch imports modules there). One of several processes, whose work is complete, ignores SIGINT and
    SIGTERM, so that its exit code is that of its work. Without effect outside the main thread."""
    if _current_handlers():
        if "TORCHELASTIC_RUN_ID" in os.environ:
            _install(dict.fromkeys((signal.SIGINT, signal.SIGTERM), signal.SIG_IGN))
        else:
            signal.signal(signal.SIGINT, signal.SIG_DFL)


def _nothing(number: int, frame: object) -> None:
    pass


@contextmanager
def raise_on_signal(message: str | Callable[[], str]) -> Iterator[None]:
    """Context manager: SIGINT and SIGTERM raise Interrupted with this message, or with its result at that time, also
    within `call_on_ctrl_c`. Without effect outside the main thread."""
    before = _current_handlers()
    woken = signal.set_wakeup_fd(-1) if before else -1

    def interrupt(number: int, _: object) -> None:
        raise Interrupted(message if isinstance(message, str) else message(), number)

    _install(dict.fromkeys(before, interrupt))
    try:
        yield
    finally:
        _install(before)
        if before:
            signal.set_wakeup_fd(woken)


@contextmanager
def call_on_ctrl_c(end: Callable[[], object]) -> Iterator[None]:
    """Context manager: SIGINT calls `end` in another thread, at once. Without effect outside the main thread.

    Python's own handler would wait until the main thread returns to Python, which takes minutes while it waits for
    other processes to connect, and code that is importing a module may drop the KeyboardInterrupt.
    """
    if not (before := _current_handlers()):
        yield
        return
    reader, writer = os.pipe()
    os.set_blocking(writer, False)

    def watch() -> None:
        while number := os.read(reader, 1):
            if number[0] == signal.SIGINT:
                end()

    thread = threading.Thread(target=watch, daemon=True)
    thread.start()
    woken = signal.set_wakeup_fd(writer)
    signal.signal(signal.SIGINT, _nothing)
    try:
        yield
    finally:
        if signal.getsignal(signal.SIGINT) is _nothing:  # not after `end_quietly`
            _install(before)
        signal.set_wakeup_fd(woken)
        os.close(writer)
        thread.join()
        os.close(reader)
