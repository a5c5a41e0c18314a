"""Agreement between the processes of a run, and which of them prints and writes."""

from __future__ import annotations

import hashlib
import json
import os
import re
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeVar

import torch
from torch import Tensor

from mmssl_fast import __version__, distributed
from mmssl_fast.distributed import Ranks

from ..config.sections import Config, DistributedSection
from ..console import output
from ..data import Dataset
from ..errors import InputError, WorkerFailed, shown
from ..memory.sizes import divisors

T = TypeVar("T")
FAILED = "failed"  # the event that a rank has reported the error of the run
# Parts of the messages of gloo and NCCL for a process that has ended or does not answer.
_BROKEN = ("Connection closed by peer", "Connection reset", "Broken pipe", "timeout", "Timed out", "NCCL", "gloo")


def join(device: str = "cpu", settings: DistributedSection | None = None) -> Ranks:
    """Connect to the other processes that torchrun started, if any. All ranks except the first stop printing.

    settings: the section [distributed] of the configuration, by default with the defaults. With groups = "auto" there
    is one group, until the number is known and this function is called again.
    """
    settings = settings or DistributedSection()
    groups = 1 if settings.groups == "auto" else settings.groups
    if not distributed.started_together():
        _refuse_groups(groups, distributed.current().size)
        return distributed.current()
    _refuse_groups(groups, int(os.environ["WORLD_SIZE"]))
    try:
        wire = torch.bfloat16 if settings.wire == "bfloat16" else None
        ranks = distributed.start(device, settings.timeout_minutes, wire, groups)
    except ConnectionError as error:
        raise InputError(error) from None
    except ValueError as error:
        raise InputError(f"distributed.{error}") from None
    if ranks.rank:
        output.disable_progress_bars()
        output.ERR.quiet = output.OUT.quiet = True
    return ranks


def _refuse_groups(groups: int, size: int) -> None:
    """Raise InputError if `size` ranks cannot form this number of groups."""
    if size == 1 and groups > 1:
        raise InputError(
            f"distributed.groups = {groups}: needs several ranks; start them with --ranks or torchrun, or set it to 1"
        )
    if size % groups:
        able = ", ".join(map(str, divisors(size)))
        raise InputError(f"distributed.groups = {groups}: does not divide the {size} ranks; choose one of {able}")


def leave() -> None:
    """Disconnect from the other processes after a successful run."""
    distributed.stop()


def report_once(message: str) -> str | None:
    """The error message for this process to print, or None if another process has already reported an error.

    If one process fails, all fail, most of them because they lose a connection. The first one to fail has the reason.
    """
    ranks = distributed.current()
    if ranks.size == 1:
        return None if int(os.environ.get("RANK") or 0) > 0 and distributed.started_together() else message
    if not ranks.is_first(FAILED):
        return None
    return f"rank {ranks.rank}: {message}" if ranks.rank else message


def lost_connection(error: Exception) -> WorkerFailed | None:
    """The error to report if a collective failed because another process has ended or hangs. None for other errors."""
    text, ranks = str(error), distributed.current()
    if ranks.size == 1 or not any(sign in text for sign in _BROKEN):
        return None
    # gloo puts its source file before the message, and general advice after the first sentence.
    reason = re.sub(r"^\[\S+:\d+\] ", "", text.splitlines()[0]).partition(". ")[0].rstrip(".")
    silent = ranks.silent(FAILED)
    who = f"rank{'s' * (len(silent) > 1)} {', '.join(map(str, silent))}" if silent else "another rank"
    what = f"{who} {'do' if len(silent) > 1 else 'does'} not answer, it has ended or hangs"
    return WorkerFailed(f"{what} ({reason}); see the message of the launcher, then continue with --resume")


def end(code: int) -> None:
    """End this process immediately if others are still connected, as after an error: threads of this process may be
    waiting for the others, and a normal exit would wait for these threads."""
    if distributed.current().size > 1:
        sys.stdout.flush()
        sys.stderr.flush()
        os._exit(code)


def refuse_one_process_settings(config: Config) -> None:
    """Raise InputError for a setting that works with one process only."""
    for name, off in (("train.start", ""), ("train.balance", False), ("train.cuda_graph", False)):
        if (value := config.flat()[name]) != off:
            raise InputError(
                f"{name} = {shown(value)}: works with one process only; leave it out, or leave out --ranks or torchrun"
            )


def first_ranks(decide: Callable[[], T]) -> T:
    """The result of `decide` on the first rank, on every rank. It is sent as JSON."""
    ranks = distributed.current()
    if ranks.size == 1:
        return decide()
    text = json.dumps(decide()) if ranks.rank == 0 else ""
    return json.loads(distributed.all_texts(text, ranks)[0])


def one_config(config: Config) -> Config:
    """The configuration of the first rank, whose free memory and processors determine some of the values."""
    if distributed.current().size == 1:
        return config
    return type(config).model_validate(first_ranks(config.model_dump))


def refuse_differences(config: Config, dataset: Dataset) -> None:
    """Raise InputError, on every rank, if versions, configuration or data differ between the ranks."""
    ranks = distributed.current()
    if ranks.size == 1:
        return
    facts = {
        "mmssl_fast": __version__,
        "torch": torch.__version__,
        "the data's fingerprint": dataset.fingerprint[:16],
        **{name: str(value) for name, value in config.flat().items() if name not in ("data.path", "train.device")},
    }
    every = [json.loads(text) for text in distributed.all_texts(json.dumps(facts), ranks)]
    for rank, other in enumerate(every):
        for name, value in every[0].items():
            if other.get(name) != value:
                raise InputError(
                    f"{name} is {shown(other.get(name))} on rank {rank} and {shown(value)} on rank 0; start all ranks "
                    "with the same versions, settings and data"
                )


def refuse_different_results(values: Tensor, what: str) -> None:
    """Raise RuntimeError if a tensor that should be equal on all ranks differs."""
    ranks = distributed.current()
    if ranks.size == 1:
        return
    digest = hashlib.sha256(values.detach().cpu().contiguous().numpy().tobytes()).hexdigest()
    every = distributed.all_texts(digest, ranks)
    if other := [rank for rank, one in enumerate(every) if one != every[0]]:
        raise RuntimeError(
            f"{what} of rank {other[0]} differ from those of rank 0, so the ranks no longer train the same model; "
            "resume from the last checkpoint, with the same kind of processor on all ranks or with train.threads = 1"
        )


def agreed(received: int | None, due: bool = False) -> tuple[int | None, bool]:
    """(the signal that any rank has received, whether a checkpoint is due on any rank), the same on all ranks."""
    ranks = distributed.current()
    if ranks.size == 1:
        return received, due
    signal, state = distributed.all_max(torch.tensor([received or 0, int(due)]), ranks).tolist()
    return signal or None, bool(state)


def whole_table(part: Tensor, rows: int, folder: Path, dim: int = 0) -> Tensor | None:
    """The whole table, of which ranks have parts of `rows` rows (dim = 0) or of another dimension, on the first rank,
    None on the others. All ranks must call it.

    The table is in an unlinked file in `folder`, which is freed with the tensor, so that no process needs memory for
    it.
    """
    ranks = distributed.current()
    if ranks.size == 1:
        return part
    whole = _in_file(part, rows, folder, dim) if ranks.rank == 0 else None
    for first, block in distributed.broadcast_blocks(part.transpose(0, dim), rows, ranks):
        if whole is not None:
            whole.narrow(dim, first, len(block)).copy_(block.transpose(0, dim))
    return whole


def _in_file(like: Tensor, rows: int, folder: Path, dim: int) -> Tensor:
    shape = (*like.shape[:dim], rows, *like.shape[dim + 1 :])
    count = torch.Size(shape).numel()
    if not count:
        return like.new_empty(shape)
    path: Any = folder / f".table.{os.getpid()}.tmp"
    try:
        return torch.from_file(str(path), shared=True, size=count, dtype=like.dtype).view(shape)
    finally:
        path.unlink(missing_ok=True)
