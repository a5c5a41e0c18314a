"""The processes of a launcher that do not end after one of them has ended."""

from __future__ import annotations

import os
import signal
import threading
import time
from contextlib import suppress
from pathlib import Path

GRACE_SECONDS = 6.0  # for the other ranks of a machine to end after the first; those that hang never do


def kill_stragglers(size: int, ended: threading.Event) -> None:
    """Until `ended`: whenever one of `size` child processes has ended, kill the others GRACE_SECONDS later.

    torch sends SIGTERM to the others and kills them after 30 seconds. A stopped process does not get SIGTERM. Only on
    Linux, and only child processes, whose ids cannot belong to other processes before this one has waited for them.
    """
    complete, since = False, 0.0
    while not ended.wait(0.2):
        running = _running_children()
        if len(running) >= size:
            complete, since = True, 0.0
        elif complete and running:
            since = since or time.monotonic()
            if time.monotonic() - since > GRACE_SECONDS:
                for process in running:
                    with suppress(ProcessLookupError):
                        os.kill(process, signal.SIGKILL)
        elif not running:
            complete = False


def _running_children() -> list[int]:
    found = []
    for path in Path("/proc/self/task").glob("*/children"):
        with suppress(OSError):
            found += [int(child) for child in path.read_text().split()]
    return [child for child in found if not _is_zombie(child)]


def _is_zombie(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] == "Z"
    except (OSError, IndexError):
        return True
