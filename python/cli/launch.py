"""--ranks: start several processes on this machine with torchrun's launcher, with one-line errors and exit codes."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING

from .. import threads
from ..errors import InputError, Interrupted, Reported, WorkerFailed

if TYPE_CHECKING:
    from mmssl_fast.distributed import Ranks

MOST = 1024
UNREPORTED = "MMSSL_FAST_UNREPORTED"  # environment: a file that the process which reports an error removes


def is_asked_for(ranks: int | None) -> bool:
    """Whether --ranks asks this process to start others."""
    from mmssl_fast.distributed import started_together

    if ranks is None or ranks == 1:
        return False
    if not 1 <= ranks <= MOST:
        raise InputError(f"--ranks {ranks}: must be between 1 and {MOST}")
    if started_together():
        raise InputError("--ranks and torchrun exclude each other; leave out --ranks")
    return True


def join() -> Ranks:
    """Connect to the other processes that torchrun or `launch` started, if any. `main` disconnects."""
    from ..training import ranks

    return ranks.join()


def ended_by_ctrl_c() -> AbstractContextManager[None]:
    """Context manager: in a process that torchrun or `launch` started as one of several, Ctrl-C ends the process at
    once, and the first one says so. During training, the checkpoint is written first (signals.raise_on_signal)."""
    if int(os.environ.get("WORLD_SIZE") or 1) == 1:
        return nullcontext()
    from ..training import signals

    return signals.call_on_ctrl_c(_end)


def _end() -> None:
    if int(os.environ.get("RANK") or 0) == 0:
        os.write(2, b"mmssl-fast: interrupted\n")
        reported()
    os._exit(128 + signal.SIGINT)


def reported() -> None:
    """Tell the process of `launch`, if there is one, that the reason why this run ends has been printed."""
    if path := os.environ.get(UNREPORTED):
        Path(path).unlink(missing_ok=True)


def is_restarted() -> bool:
    """Whether torchrun has restarted this process after a process of the run failed (--max-restarts)."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT") or 0) > 0


def launch(ranks: int | None, arguments: Sequence[str], restarts: int = 0) -> None:
    """Run `mmssl-fast` with these arguments, without --ranks, in `ranks` processes on this machine.

    Equals ``torchrun --standalone --nproc-per-node RANKS -m mmssl_trainer ARGUMENTS``, except that every process
    imports the installed package (-P). restarts: how often all processes are restarted after one has failed. If a
    process fails, raises an error with the exit code of the first one that failed. Its message is empty if a process
    has printed the reason; a signal may end all of them before one can, as while they import torch.
    """
    from mmssl_fast.distributed import ranks as launcher

    ranks = ranks or 1
    threads.divide(ranks)
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")
    launcher.quiet_logs()
    command = [sys.executable, "-P", "-m", "mmssl_trainer", *without_ranks(arguments)]
    descriptor, name = tempfile.mkstemp(prefix="mmssl-fast-")
    os.close(descriptor)
    unreported = Path(name)
    os.environ[UNREPORTED] = name
    try:
        rank, code = launcher.launch(ranks, command, restarts)
        if code < 0:
            raise WorkerFailed(
                f"rank {rank} was ended by {signal.Signals(-code).name}; the other ranks were ended as well"
            )
        if code and unreported.exists():
            raise _unreported(rank, code)
        if code:
            raise Reported(code)
    finally:
        unreported.unlink(missing_ok=True)
        del os.environ[UNREPORTED]


def _unreported(rank: int, code: int) -> Exception:
    """The error for an exit code that no process has explained."""
    if code - 128 in (signal.SIGINT, signal.SIGTERM):
        return Interrupted("interrupted", code - 128)
    return WorkerFailed(f"rank {rank} ended with exit code {code}; the reason is above")


def without_ranks(arguments: Sequence[str]) -> list[str]:
    """The arguments without --ranks N and --ranks=N."""
    kept, skip = [], False
    for argument in arguments:
        if skip:
            skip = False
        elif argument == "--ranks":
            skip = True
        elif not argument.startswith("--ranks="):
            kept.append(argument)
    return kept
