"""How many threads a process uses, and how they wait for one another.

torch's OpenMP runtime reads both from the environment while torch is being imported. So this module imports neither
torch nor NumPy, and `configure` comes before them:

    from mmssl_trainer import threads
    threads.configure()
    import torch, mmssl_fast
"""

from __future__ import annotations

import math
import os
import re
import time
from collections.abc import Iterator, MutableMapping
from pathlib import Path

WAIT_SETTINGS = ("OMP_WAIT_POLICY", "GOMP_SPINCOUNT", "KMP_BLOCKTIME", "KMP_LIBRARY")
WINDOW = 0.1  # seconds between two looks at the processors; the kernel counts in steps of 0.01
IDLE = 0.25  # of a processor: what a desktop and this look itself use


def configure(jobs: int = 1, environ: MutableMapping[str, str] = os.environ) -> str:
    """Set OMP_NUM_THREADS and OMP_WAIT_POLICY for this process and those that it starts, before torch is imported.

    What the user has set stays: OMP_NUM_THREADS, and OMP_WAIT_POLICY or another runtime's setting of the same kind.
    Otherwise the number is `choose()`. Threads that wait for others sleep at once, unless all processors are idle now
    and this process may use them all: spinning first then saves the time of waking them.

    Args:
        jobs: processes among which the threads are divided, at least one each.
        environ: the environment to change.

    Returns:
        One sentence if fewer threads were chosen because other work keeps processors busy, otherwise "".
    """
    note, asked = "", _first_number(environ.get("OMP_NUM_THREADS", ""))
    busy = busy_processors(_affinity())
    if not environ.get("OMP_NUM_THREADS"):
        most, asked = available(), choose(busy)
        if asked < most:
            note = f"{asked} of {most} threads, since other work keeps processors busy; --threads sets another number"
        environ["OMP_NUM_THREADS"] = str(max(1, asked // jobs))
    elif jobs > 1 and asked:
        environ["OMP_NUM_THREADS"] = str(max(1, asked // jobs))
    shared = jobs > 1 or busy >= IDLE or available() < len(_affinity())
    if shared and not any(environ.get(name) for name in WAIT_SETTINGS):
        environ["OMP_WAIT_POLICY"] = "PASSIVE"
    return note


def choose(busy: float | None = None) -> int:
    """The number of threads for a new process: `available()`, or its fair share of busy processors.

    With n processors of which t are busy, a process of n threads gets n² / (n + t) of them, and more threads than that
    mostly wait for one another. Two are used nevertheless: on busy processors they have been faster than one, for the
    same processor time, because the scheduler divides time among threads.

    The number of busy processors is the smaller of those that are busy now and the load average of the last minute, so
    that neither the last second of a compiler nor a host's other processors take threads from a run of hours.

    Args:
        busy: processors that are busy now, by default `busy_processors` of the affinity.
    """
    affinity = _affinity()
    busy = busy_processors(affinity) if busy is None else busy
    n, busy = len(affinity), min(busy, _load_average())
    return min(available(), max(2, round(n * n / (n + busy))))


def available(root: Path = Path("/")) -> int:
    """Processors that this process may use: those of its affinity, or fewer if a cgroup grants less time.

    A quota of 1.5 processors makes 1: the kernel stops all threads of a group that has used up its time.
    """
    return max(1, min(len(_affinity()), math.floor(min(cgroup_quota(root), 1 << 20))))


def cgroup_quota(root: Path = Path("/")) -> float:
    """Processors' worth of time that the process's control groups grant, inf without a limit.

    Both versions of cgroups are read. Groups are nested, and the tightest on the path from the process's own to the
    mounted root applies.
    """
    return min((_group_quota(folder) for folder in _group_folders(root)), default=math.inf)


def busy_processors(processors: set[int], root: Path = Path("/"), window: float = WINDOW) -> float:
    """How many of the processors others keep busy, by two looks at /proc/stat; 0 where there is no such file.

    Time at low priority (nice) counts as idle, time that a hypervisor gave to others (steal) as busy. Pressure stall
    information would not do: two spinning processes on two processors make nobody wait until a third one comes.
    """
    before = _processor_times(root)
    time.sleep(window)
    after = _processor_times(root)
    busy = 0.0
    for processor in processors & before.keys() & after.keys():
        total, idle = (now - then for now, then in zip(after[processor], before[processor], strict=True))
        busy += max(0.0, 1 - idle / total) if total > 0 else 0.0
    return busy


def _affinity() -> set[int]:
    if hasattr(os, "sched_getaffinity"):
        return os.sched_getaffinity(0)
    return set(range(os.cpu_count() or 1))


def _load_average() -> float:
    try:
        return os.getloadavg()[0]
    except (OSError, AttributeError):
        return 0.0


def _first_number(text: str) -> int:
    """Of OMP_NUM_THREADS, which may be a list of one number a nesting level; 0 if it is none."""
    number = text.partition(",")[0].strip()
    return int(number) if number.isdecimal() else 0


def _group_folders(root: Path) -> Iterator[Path]:
    """The folders of the process's groups and of those above them that this process can see."""
    paths = {}  # of this process's group, by controller; "" is the one tree of version 2
    for line in _lines(root / "proc/self/cgroup"):
        _, controllers, path = line.split(":", 2)
        paths |= dict.fromkeys(controllers.split(","), path)
    for line in _lines(root / "proc/self/mountinfo"):
        mount, _, filesystem = line.partition(" - ")
        top, point = (_unescaped(field) for field in mount.split()[3:5])
        kind, _, options = filesystem.split()[:3]
        controller = "" if kind == "cgroup2" else "cpu" if kind == "cgroup" and "cpu" in options.split(",") else None
        if controller not in paths:
            continue
        mounted = root / point.lstrip("/")
        yield mounted
        path = Path(paths[controller])
        # In a container the mount may begin at the container's own group, or the group may be outside of the mount.
        inside = path.relative_to(top) if path.is_relative_to(top) else Path()
        for part in inside.parts if ".." not in inside.parts else ():
            mounted = mounted / part
            yield mounted


def _group_quota(folder: Path) -> float:
    """The limit of one group; inf if it has none."""
    version_2 = " ".join(_lines(folder / "cpu.max"))
    version_1 = " ".join(_lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us"))
    for text in (version_2, version_1):
        if match := re.fullmatch(r"(\d+) (\d+)", text):  # without a limit the first is "max" or -1
            quota, period = map(int, match.groups())
            return quota / period if period else math.inf
    return math.inf


def _processor_times(root: Path) -> dict[int, tuple[int, int]]:
    """{processor: (ticks since boot, of them idle)}."""
    times = {}
    for line in _lines(root / "proc/stat"):
        if match := re.match(r"cpu(\d+) (.*)", line):
            user, nice, system, idle, waiting, *rest = map(int, match[2].split()[:8])
            times[int(match[1])] = (user + nice + system + idle + waiting + sum(rest), nice + idle + waiting)
    return times


def _unescaped(field: str) -> str:
    return re.sub(r"\\([0-7]{3})", lambda match: chr(int(match[1], 8)), field)


def _lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8", errors="surrogateescape").splitlines()
    except OSError:
        return []
