"""The processes of a run: the number of this one, the rows it owns, and how they are connected and disconnected."""

from __future__ import annotations

import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from pathlib import Path
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

T = TypeVar("T")
ANSWER_SECONDS = 3.0  # within which a rank answers if it has not ended and does not hang
GRACE_SECONDS = 6.0  # for the other ranks of a machine to end after the first; those that hang never do


class Ranks:
    """The P processes that train one model together, and the number of this process.

    Attributes:
        rank: number of this process, 0 to size − 1.
        size: number of processes P. With one, nothing is sent, and every function of this package equals the operation
            for one process.
        wire: dtype to which float32 rows and columns are rounded when they are exchanged; None: they are not.
        received: bytes that this process has received in collectives, counted as their docstrings say.

    Example:
        >>> ranks = Ranks(rank=1, size=3)
        >>> ranks.span(7), ranks.sizes(7)
        ((3, 6), [3, 3, 1])
    """

    def __init__(self, rank: int = 0, size: int = 1, store: Any = None, wire: torch.dtype | None = None) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"Ranks: rank must be in [0, {size}), got {rank}")
        self.rank, self.size, self.received, self.wire = rank, size, 0, wire
        self._store = store

    def spans(self, n: int) -> list[tuple[int, int]]:
        """(first, last + 1) of the rows of each rank. Every rank has ⌈n/P⌉ rows, in order, as with `torch.chunk` and
        with DTensor's `Shard`; the last ranks may have fewer rows or none."""
        each = -(-n // self.size)
        return [(min(n, each * rank), min(n, each * (rank + 1))) for rank in range(self.size)]

    def span(self, n: int) -> tuple[int, int]:
        """(first, last + 1) of this rank's rows of a table of n rows."""
        return self.spans(n)[self.rank]

    def sizes(self, n: int) -> list[int]:
        """The number of rows that each rank has of a table of n rows."""
        return [last - first for first, last in self.spans(n)]

    def mine(self, x: Tensor) -> Tensor:
        """This rank's rows of x [n, …], as a view."""
        first, last = self.span(x.shape[0])
        return x[first:last]

    def is_first(self, event: str) -> bool:
        """Whether this process is the first to call this method with `event`. It then reports the event for all.

        The answer comes from the key-value store that connected the processes, not from a collective, so it is
        available even if other ranks have ended. If the process of the store has ended or does not answer, the answer
        is True on rank 0.
        """
        first = None
        if self._store is not None:
            first = _within(ANSWER_SECONDS, lambda: self._store.add(event, 1) == 1)
        return self.rank == 0 if first is None else first

    def silent(self, event: str) -> list[int]:
        """The ranks that do not call this method within ANSWER_SECONDS of this one, because they have ended or hang.

        To be called on every rank where a collective failed. Empty if a rank has already reported `event`, which is
        then the reason.
        """
        others = [rank for rank in range(self.size) if rank != self.rank]

        def ask() -> list[int]:
            store, until, missing = self._store, time.monotonic() + ANSWER_SECONDS, others
            store.set(f"answered {self.rank}", "")
            while missing and time.monotonic() < until and not store.check([event]):
                time.sleep(0.1)
                missing = [rank for rank in missing if not store.check([f"answered {rank}"])]
            return [] if store.check([event]) else missing

        return (_within(2 * ANSWER_SECONDS, ask) or []) if self._store is not None else []

    def __repr__(self) -> str:
        return f"Ranks(rank={self.rank}, size={self.size})"


def _within(seconds: float, ask: Callable[[], T]) -> T | None:
    """The result of `ask`, a question to the store; None if the process of the store has ended or does not answer."""
    results: list[T] = []

    def answer() -> None:
        with suppress(RuntimeError, dist.DistError):
            results.append(ask())

    thread = threading.Thread(target=answer, daemon=True)
    thread.start()
    thread.join(seconds)
    return results[0] if results else None


ONE = Ranks()
_current = ONE


def current() -> Ranks:
    """The `Ranks` that `start` returned in this process; one rank before `start` and after `stop`.

    Example:
        >>> current().size
        1
    """
    return _current


def started_together() -> bool:
    """Whether torchrun, or another launcher that sets the same variables, started this process as one of several.

    Example:
        >>> started_together()
        False
    """
    return int(os.environ.get("WORLD_SIZE") or 1) > 1


def on_this_machine() -> int:
    """The number of processes that the launcher started on this machine (LOCAL_WORLD_SIZE), and that share its memory;
    1 without a launcher.

    Example:
        >>> on_this_machine()
        1
    """
    return int(os.environ.get("LOCAL_WORLD_SIZE") or 1) if started_together() else 1


def start(device: torch.device | str = "cpu", timeout_minutes: float = 10, wire: torch.dtype | None = None) -> Ranks:
    """Equals ``torch.distributed.init_process_group()`` for the processes that torchrun started; returns the ranks.

    Without torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or if WORLD_SIZE is 1, no process group
    is created, and this process is rank 0 of 1. An existing process group is used. After a restart by torchrun, the
    processes use new keys in the store, so that they do not read the addresses of processes that have ended.

    Args:
        device: device of the tensors. CPU tensors are exchanged by gloo, CUDA tensors by NCCL; a process uses the CUDA
            device LOCAL_RANK.
        timeout_minutes: time that a rank waits for the others, at the start and in every exchange.
        wire: see Ranks.

    Raises:
        ConnectionError: if the other processes do not connect within this time.

    Example:
        >>> start().size
        1
    """
    global _current
    if not dist.is_available() or not (started_together() or dist.is_initialized()):
        return ONE
    timeout = timedelta(minutes=timeout_minutes)
    if dist.is_initialized():
        _current = Ranks(dist.get_rank(), dist.get_world_size(), wire=wire)
        return _current
    backend = _backend(torch.device(device))
    rank, size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    try:
        store, rank, size = next(dist.rendezvous("env://", rank, size, timeout=timeout))  # type: ignore[attr-defined]
        store.set_timeout(timeout)
        name = f"attempt {os.environ.get('TORCHELASTIC_RESTART_COUNT', 0)}"
        attempt = dist.PrefixStore(name, store)  # type: ignore[attr-defined]
        dist.init_process_group(backend, store=attempt, rank=rank, world_size=size, timeout=timeout)
    except (RuntimeError, ValueError, OSError) as error:
        reason = (str(error).splitlines() or [type(error).__name__])[0]
        raise ConnectionError(
            f"rank {rank} of {size} could not join the others within {timeout_minutes:g} minutes ({reason}); start all "
            "of them with the same MASTER_ADDR and MASTER_PORT"
        ) from None
    _current = Ranks(rank, size, attempt, wire)
    return _current


def _backend(device: torch.device) -> str:
    """The backends of the process group. Control messages are CPU tensors, so that they do not wait for a GPU."""
    if device.type != "cuda":
        return "cpu:gloo"
    torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", 0)))
    # The sums that NVLink switches compute may differ from call to call (NVIDIA/nccl#1497).
    os.environ.setdefault("NCCL_NVLS_ENABLE", "0")
    return "cpu:gloo,cuda:nccl"


def stop() -> None:
    """Wait for the other ranks and destroy the process group. With one rank, do nothing.

    All ranks must call this after a successful run. Do not call it after an error, because the others may never call
    it.

    Example:
        >>> ranks = start()
        >>> stop()
    """
    global _current
    if _current.size > 1:
        dist.barrier()  # a rank that ends early closes connections that others still use
        dist.destroy_process_group()
    _current = ONE


def launch(size: int, command: list[str], restarts: int = 0) -> tuple[int, int]:
    """Equals ``torchrun --standalone --nproc-per-node SIZE --max-restarts RESTARTS COMMAND``, without its traceback.

    A signal that ends this process is passed on to the others. Returns (rank, exit code) of a rank that was killed,
    otherwise of the first that failed; the code is negative for a signal, as in `subprocess`. (0, 0) if all ended well.
    """
    from torch.distributed.elastic.multiprocessing.api import SignalException
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        nproc_per_node=size,
        run_id=f"mmssl-fast-{os.getpid()}",
        rdzv_backend="c10d",
        rdzv_endpoint="127.0.0.1:0",
        local_addr="127.0.0.1",
        max_restarts=restarts,
    )
    ended = threading.Event()
    threading.Thread(target=_kill_stragglers, args=(size, ended), daemon=True).start()
    try:
        elastic_launch(config, command[0])(*command[1:])
    except ChildFailedError as error:
        # If a rank is killed, the others fail because they lose the connection, possibly before the launcher looks.
        # The launcher itself ends the remaining ranks by SIGTERM.
        for rank, failure in error.failures.items():
            if failure.exitcode < 0 and failure.exitcode != -signal.SIGTERM:
                return rank, failure.exitcode
        rank, failure = error.get_first_failure()
        return rank, failure.exitcode
    except SignalException as error:
        return 0, 128 + error.sigval.value
    finally:
        ended.set()
    return 0, 0


def _kill_stragglers(size: int, ended: threading.Event) -> None:
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
