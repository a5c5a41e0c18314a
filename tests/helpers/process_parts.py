"""What processes of test_processes.py do, by name."""

import time
from pathlib import Path

from mmssl_trainer.errors import Interrupted


def wait_for(path, seconds=60):
    deadline = time.monotonic() + seconds
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} has not come"
        time.sleep(0.02)


def meet(dataset, config, place, own, other):
    """Ends where another process is at work at the same time."""
    (Path(place) / own).touch()
    wait_for(Path(place) / other)


def leave_when_asked(dataset, config, place, own):
    """Works until it is asked to leave, then cleans up."""
    path = Path(place) / own
    path.touch()
    try:
        wait_for(Path(place) / "never")
    except Interrupted:
        path.with_suffix(".left").touch()
        raise


def end(dataset, config, place, own):
    """Ends at once, after the process of that name has begun."""
    wait_for(Path(place) / own)


def missing_file(dataset, config, place):
    (Path(place) / "nothing").read_text()


def mistake(dataset, config, place):
    print("a line on stdout")
    raise ZeroDivisionError("by mistake")


def bits(dataset, config, count):
    print("x" * count)  # to stderr, not among the answers
