"""The number of threads of a process, and whether waiting threads spin or sleep. See docs/threads.md.

The OpenMP runtime reads both from the environment when torch is imported. Therefore this module imports neither torch
nor NumPy, and `configure` must be called before torch is imported:

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
WINDOW = 0.1  # seconds over which the load is measured; the kernel counts in steps of 0.01 s
_chosen = False  # whether `configure` has set OMP_NUM_THREADS, so that it is not the user's
IDLE = 0.25  # processors that may be busy on an idle machine, with a desktop and this measurement


class Load:
    """The load of this machine since the object was created, without this process. 0 if there is no /proc/stat."""

    def __init__(self, root: Path = Path("/")) -> None:
        self.root, self.started, self.own = root, time.perf_counter(), time.process_time()
        self.before = _processor_times(root)

    def busy(self, processors: set[int], window: float = WINDOW) -> float:
        """How many of the processors others keep busy, measured over at least `window` seconds. If less time has
        passed, this waits.

        Time at low priority (nice) counts as idle, and time that the hypervisor gave to other machines (steal) as busy.
        Pressure stall information is not suitable: it stays at 0 until more processes want to run than there are
        processors.
        """
        time.sleep(max(0.0, window - (time.perf_counter() - self.started)))
        after, busy = _processor_times(self.root), 0.0
        for processor in processors & self.before.keys() & after.keys():
            total, idle = (now - then for now, then in zip(after[processor], self.before[processor], strict=True))
            busy += max(0.0, 1 - idle / total) if total > 0 else 0.0
        own = (time.process_time() - self.own) / max(time.perf_counter() - self.started, 1e-9)
        return max(0.0, busy - own)


def configure(jobs: int = 1, environ: MutableMapping[str, str] = os.environ, load: Load | None = None) -> str:
    """Set OMP_NUM_THREADS and OMP_WAIT_POLICY for this process and its child processes, before torch is imported.

    Settings of the user are not changed: OMP_NUM_THREADS, and the variables in WAIT_SETTINGS. Otherwise the number of
    threads is `choose()`. Waiting threads sleep immediately, unless all processors are idle and this process may use
    all of them. In that case they spin first, which saves the time of waking them.

    Args:
        jobs: number of processes among which the threads are divided. Each gets at least one.
        environ: environment to change.
        load: a measurement that has begun. None: this call takes the 0.1 seconds of a new one.

    Returns:
        A sentence if fewer threads were chosen because of other load, otherwise "".
    """
    global _chosen
    note, threads = "", _first_number(environ.get("OMP_NUM_THREADS", ""))
    busy = (load or Load()).busy(_affinity())
    if not environ.get("OMP_NUM_THREADS"):
        most, threads = available(), choose(busy)
        if threads < most:
            note = f"using {threads} of {most} processors, because others are busy; to change this, give --threads"
        environ["OMP_NUM_THREADS"] = str(max(1, threads // jobs))
        _chosen = _chosen or environ is os.environ
    elif jobs > 1 and threads:
        environ["OMP_NUM_THREADS"] = str(max(1, threads // jobs))
    if jobs > 1 or busy >= IDLE or available() < len(_affinity()):
        let_waiting_threads_sleep(environ)
    return note


def divide(processes: int) -> None:
    """Set the environment for processes of this machine that wait for each other.

    The number of threads that `configure` has chosen is divided among them. A number that the user has set is the
    number of each process. Waiting threads sleep, because another process of the group needs the processor.
    """
    if _chosen:
        os.environ["OMP_NUM_THREADS"] = str(max(1, _first_number(os.environ["OMP_NUM_THREADS"]) // processes))
    elif not os.environ.get("OMP_NUM_THREADS"):
        os.environ["OMP_NUM_THREADS"] = str(max(1, choose() // processes))
    let_waiting_threads_sleep(os.environ)


def let_waiting_threads_sleep(environ: MutableMapping[str, str]) -> None:
    """Set OMP_WAIT_POLICY, unless the user has set how threads wait."""
    if not any(environ.get(name) for name in WAIT_SETTINGS):
        environ["OMP_WAIT_POLICY"] = "PASSIVE"


def choose(busy: float | None = None) -> int:
    """The number of threads for a new process: `available()`, or fewer if processors are busy.

    If t of n processors are busy, a process with n threads gets the time of n² / (n + t) processors. More threads than
    that would mostly wait for each other. At least two are used, because on busy processors two threads were faster
    than one: the scheduler divides the time among threads.

    t is the minimum of the processors that are busy now and the load average of the last minute. Thus a short load does
    not reduce the number of threads of a long run, and neither do other processors of the host of a container.

    Args:
        busy: number of processors that are busy now. None: measured over 0.1 seconds.
    """
    affinity = _affinity()
    busy = Load().busy(affinity) if busy is None else busy
    n, busy = len(affinity), min(busy, _load_average())
    return min(available(), max(2, round(n * n / (n + busy))))


def available(root: Path = Path("/")) -> int:
    """The number of processors that this process may use: those of its affinity, or fewer with a cgroup quota.

    A quota of 1.5 processors counts as 1, because the kernel stops all threads of a group that has used up its time.
    """
    return max(1, min(len(_affinity()), math.floor(min(cgroup_quota(root), 1 << 20))))


def cgroup_quota(root: Path = Path("/")) -> float:
    """The CPU quota of the cgroups of this process in processors, inf without a limit. Both versions are supported.

    Groups are nested. The smallest quota from the group of the process up to the mounted root applies.
    """
    return min((_group_quota(folder) for folder in _group_folders(root)), default=math.inf)


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
    """The first number of OMP_NUM_THREADS, which may be a list with a number per nesting level. 0 if it is invalid."""
    number = text.partition(",")[0].strip()
    return int(number) if number.isdecimal() else 0


def _group_folders(root: Path) -> Iterator[Path]:
    """The folders of the cgroups of this process and of their parents, as far as they are visible."""
    paths: dict[str, str] = {}  # path of the group by controller; "" is the unified hierarchy of version 2
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
        group = Path(paths[controller])
        # In a container, the mount may start at the group of the container, or the group may be outside the mount.
        inside = group.relative_to(top) if group.is_relative_to(top) else Path()
        for part in inside.parts if ".." not in inside.parts else ():
            mounted = mounted / part
            yield mounted


def _group_quota(folder: Path) -> float:
    """The quota of a group in processors; inf without a limit."""
    version_2 = " ".join(_lines(folder / "cpu.max"))
    version_1 = " ".join(_lines(folder / "cpu.cfs_quota_us") + _lines(folder / "cpu.cfs_period_us"))
    for text in (version_2, version_1):
        if match := re.fullmatch(r"(\d+) (\d+)", text):  # without a limit, the first field is "max" or -1
            quota, period = map(int, match.groups())
            return quota / period if period else math.inf
    return math.inf


def _processor_times(root: Path) -> dict[int, tuple[int, int]]:
    """{processor: (ticks since boot, idle ticks)}."""
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
