"""The processes of a run: the number of this one, the rows it owns, and how they are connected and disconnected."""

from __future__ import annotations

import logging
import os
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from datetime import timedelta
from typing import Any, TypeVar

import torch
import torch.distributed as dist
from torch import Tensor

from .stragglers import kill_stragglers

T = TypeVar("T")
ANSWER_SECONDS = 3.0  # within which a rank answers if it has not ended and does not hang


class Ranks:
    """The P processes that train one model together, and the number of this process.

    Attributes:
        rank: number of this process, 0 to size − 1.
        size: number of processes P. With one, nothing is sent, and every function of this package equals the operation
            for one process.
        wire: dtype to which float32 rows and columns are rounded when they are exchanged, and with groups those that
            are propagated in every layer; None: they are not.
        received: bytes that this process has received in collectives, counted as their docstrings say.
        columns: the C ranks that exchange rows and columns with this one: all, or with several groups (`start`) those
            of its group, P = G·C. Its `rank` is the number c of this process among them.
        groups: the G ranks with the same columns c, one of each group, in the order of the groups. Its `rank` is the
            number of the group, and `groups.span(n)` are the rows of all ranks of the group. One rank without groups.
        process_group: the processes in torch.distributed; None for all of them.

    Example:
        >>> ranks = Ranks(rank=1, size=3)
        >>> ranks.span(7), ranks.sizes(7)
        ((3, 6), [3, 3, 1])
    """

    def __init__(
        self,
        rank: int = 0,
        size: int = 1,
        store: Any = None,
        wire: torch.dtype | None = None,
        process_group: Any = None,
        each: int = 1,
    ) -> None:
        if not 0 <= rank < size:
            raise ValueError(f"Ranks: rank must be in [0, {size}), got {rank}")
        self.rank, self.size, self.wire, self.process_group = rank, size, wire, process_group
        self._store, self._each, self._received = store, each, [0]
        self._columns: Ranks | None = None
        self._groups: Ranks | None = None

    def divided(self, groups: int, of_columns: Any = None, of_groups: Any = None) -> Ranks:
        """These ranks in G groups of C = P/G, without communication: ranks g·C to (g + 1)·C − 1 are group g.

        of_columns, of_groups: the processes of `columns` and of `groups` in torch.distributed.

        Example:
            >>> ranks = Ranks(rank=2, size=4).divided(2)
            >>> ranks.groups.rank, ranks.columns.rank, ranks.groups.span(9)
            (1, 0, (6, 9))
        """
        if groups < 1 or self.size % groups:
            raise ValueError(f"Ranks: the number of groups, {groups}, must divide the number of ranks, {self.size}")
        whole = Ranks(self.rank, self.size, self._store, self.wire)
        if groups > 1:
            width = self.size // groups
            group, column = divmod(self.rank, width)
            whole._columns = Ranks(column, width, wire=self.wire, process_group=of_columns)
            whole._groups = Ranks(group, groups, wire=self.wire, process_group=of_groups, each=width)
            whole._columns._received = whole._groups._received = whole._received
        return whole

    @property
    def columns(self) -> Ranks:
        return self if self._columns is None else self._columns

    @property
    def groups(self) -> Ranks:
        return ONE if self._groups is None else self._groups

    @property
    def ungrouped(self) -> Ranks:
        """The same processes without groups, so that all of them exchange rows and columns with each other: for what
        is propagated over a graph that every rank has as a whole."""
        if self._groups is None:
            return self
        whole = Ranks(self.rank, self.size, self._store, self.wire, self.process_group)
        whole._received = self._received
        return whole

    @property
    def received(self) -> int:
        return self._received[0]

    @received.setter
    def received(self, count: int) -> None:
        self._received[0] = count

    def spans(self, n: int) -> list[tuple[int, int]]:
        """(first, last + 1) of the rows of each rank. Every rank has ⌈n/P⌉ rows, in order, as with `torch.chunk` and
        with DTensor's `Shard`; the last ranks may have fewer rows or none."""
        each = -(-n // (self.size * self._each)) * self._each
        return [(min(n, each * rank), min(n, each * (rank + 1))) for rank in range(self.size)]

    def sizes_in_group(self, n: int) -> list[int]:
        """The number of rows that each rank of this group has of a table of n rows; without groups, `sizes`."""
        first = self.groups.rank * self.columns.size
        return self.sizes(n)[first : first + self.columns.size]

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
        groups = f", {self.groups.size} groups" if self.groups.size > 1 else ""
        return f"Ranks(rank={self.rank}, size={self.size}{groups})"


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
_divisions = 0  # how often the ranks have been divided into groups


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


def start(
    device: torch.device | str = "cpu", timeout_minutes: float = 10, wire: torch.dtype | None = None, groups: int = 1
) -> Ranks:
    """Equals ``torch.distributed.init_process_group()`` for the processes that torchrun started; returns the ranks.

    Without torchrun's variables (RANK, WORLD_SIZE, MASTER_ADDR, MASTER_PORT), or if WORLD_SIZE is 1, no process group
    is created, and this process is rank 0 of 1. An existing process group is used, so that a second call may form other
    groups. After a restart by torchrun, the processes use new keys in the store, so that they do not read the addresses
    of processes that have ended.

    Args:
        device: device of the tensors. CPU tensors are exchanged by gloo, CUDA tensors by NCCL; a process uses the CUDA
            device LOCAL_RANK.
        timeout_minutes: time that a rank waits for the others, at the start and in every exchange.
        wire: see Ranks.
        groups: number of groups G, a divisor of the number of processes. The graph is divided among the groups
            (`GroupGraph`), and the columns among the processes of a group.

    Raises:
        ConnectionError: if the other processes do not connect within this time.
        ValueError: if the number of groups does not divide the number of processes, or is not that of rank 0.

    Example:
        >>> start().size
        1
    """
    global _current
    if not dist.is_available() or not (started_together() or dist.is_initialized()):
        return ONE.divided(groups) if groups > 1 else ONE  # refused
    timeout = timedelta(minutes=timeout_minutes)
    if dist.is_initialized():
        again = Ranks(dist.get_rank(), dist.get_world_size(), _current._store, wire)
        _current = _in_groups(again, groups, timeout)
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
    _current = Ranks(rank, size, attempt, wire)  # so that an error is reported
    _current = _in_groups(_current, groups, timeout)
    return _current


def _in_groups(ranks: Ranks, groups: int, timeout: timedelta) -> Ranks:
    """The ranks in groups, each with its process groups. All ranks create all of these, as torch.distributed asks."""
    global _divisions
    divided = ranks.divided(groups)
    _divisions += 1  # a key of its own, so that no rank reads the number of an earlier call
    if ranks._store is not None:  # ranks with another number would wait for each other
        key = f"groups {_divisions}"
        if ranks.rank == 0:
            ranks._store.set(key, str(groups))
        elif (first := ranks._store.get(key).decode()) != str(groups):
            raise ValueError(
                f"groups is {groups} on rank {ranks.rank} and {first} on rank 0; start all ranks with the same number"
            )
    if groups == 1:
        return divided
    known = _current.groups
    if _current.size == ranks.size and known.size == groups:
        return ranks.divided(groups, _current.columns.process_group, known.process_group)
    width, rows, columns = ranks.size // groups, None, None
    for group in range(groups):
        made = dist.new_group(list(range(group * width, (group + 1) * width)), timeout=timeout)
        rows = made if group == divided.groups.rank else rows
    for column in range(width):
        made = dist.new_group(list(range(column, ranks.size, width)), timeout=timeout)
        columns = made if column == divided.columns.rank else columns
    return ranks.divided(groups, rows, columns)


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


def quiet_logs() -> None:
    """Only critical messages of torch's launcher are printed from now on. Its modules give their loggers a level when
    they are imported, so that a level of "torch.distributed" alone would have no effect."""
    from torch.distributed.launcher import api  # noqa: F401  imports all of them

    names = [name for name in logging.root.manager.loggerDict if name.startswith("torch.distributed.")]
    for name in ("torch.distributed", *names):
        logging.getLogger(name).setLevel(logging.CRITICAL)


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
    threading.Thread(target=kill_stragglers, args=(size, ended), daemon=True).start()
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
