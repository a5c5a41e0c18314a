"""A checkpoint of several ranks: a new folder of safetensors files, one per rank, and state.json, written last.

state/<step>.<attempt>/rank-00000.safetensors, … contain the rows that each rank owns. Tensors that are equal on all
ranks are in the first file. state.json lists every file with its size and sha256. A folder without it is incomplete and
is ignored, and no folder is written to twice. Any number of ranks can read a checkpoint, each its own rows.

torch.distributed.checkpoint is not used: its reader leaves zeros where a file is missing.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmssl_fast import distributed

from ..errors import InputError, shown
from ..files import write_tensors, write_text
from ..systems import rows_over_ranks
from ..systems.base import System
from . import state_file
from .state_file import SEAL, State, _file_digest, _number, _parse, _with_checksum

COLUMNS = "columns of "


def sides(system: System, name: str) -> Callable[[str], str | None]:
    """A function of a tensor's name in a checkpoint: "users" or "items" if ranks own rows of that side, "columns of …"
    if they own parts of the second dimension, else None."""
    by_rows = rows_over_ranks(name) or {}
    known = {f"system.{parameter}": side for parameter, side in by_rows.items()}
    known |= {f"best.parameter.{parameter}": side for parameter, side in by_rows.items()}
    known |= {"best.users": "users", "best.items": "items"}
    updated = [*system.trained_parameters(), *system.other_parameters()]
    names = {id(parameter): parameter_name for parameter_name, parameter in updated}
    for optimiser_name, optimiser in system.optimisers.items():
        parameters = [one for group in optimiser.param_groups for one in group["params"]]
        for at, parameter in enumerate(parameters):
            side = by_rows.get(names.get(id(parameter), ""))
            if side is not None:
                known |= {f"optimiser.{optimiser_name}.{at}.{key}": side for key in ("exp_avg", "exp_avg_sq")}
    return known.get


def write(
    folder: Path,
    step: int,
    tensors: dict[str, Tensor],
    body: dict[str, Any],
    side: Callable[[str], str | None],
    rows: dict[str, int],
    advice: str,
) -> None:
    """Write this rank's part of a checkpoint, and on the first rank state.json. All ranks must call it.

    tensors: those of this rank; side: the result of `sides`; rows: {"users": U, "items": I}. If a rank cannot write,
    raises InputError on every rank, with the number of that rank. Earlier checkpoints remain.
    """
    ranks = distributed.current()
    place = folder / _agree(lambda: _new_folder(folder, step) if ranks.rank == 0 else "")[0]
    path = place / f"rank-{ranks.rank:05d}.safetensors"
    own = {name: by_rows(tensor, side(name)) for name, tensor in tensors.items() if ranks.rank == 0 or side(name)}

    def part() -> dict[str, Any]:
        try:
            write_tensors(path, own, advice=advice)
            return {"name": path.name, "bytes": path.stat().st_size, "sha256": _file_digest(path)}
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from None

    parts = _agree(part)
    lies = {name: side(name) for name in tensors if side(name)}
    body = body | {"tensors": {"files": parts, "ranks": ranks.size, "rows": rows, "sides": lies}}

    def seal() -> str:
        if ranks.rank == 0:
            write_text(place / SEAL, _with_checksum(body | {"format": state_file.FORMAT}), advice=advice)
            state_file.thin(folder)
        return ""

    _agree(seal)


def read_body(path: Path) -> dict[str, Any]:
    """The content of the state.json at `path`. All ranks must call it: they share the checks of the files. Raises
    InputError on every rank if a file is missing, changed or additional."""
    ranks = distributed.current()
    advice = f"to resume from the previous checkpoint, if there is one, remove {path.parent}"

    def check() -> dict[str, Any]:
        try:
            body = _parse(path, path.read_text(encoding="utf-8"), advice)
            files = {str(one["name"]): one for one in body["tensors"]["files"]}
            there = {one.name for one in path.parent.iterdir()} - {SEAL}
            for name in sorted(files.keys() ^ there):
                what = "is missing" if name in files else "does not belong to this checkpoint"
                raise InputError(f"{path.parent / name}: {what}; {advice}")
            for name in sorted(files)[ranks.rank :: ranks.size]:
                file, written = path.parent / name, files[name]
                if file.is_symlink() or not file.is_file():
                    raise InputError(f"{file}: is not a regular file; {advice}")
                if file.stat().st_size != written["bytes"]:
                    size = file.stat().st_size
                    raise InputError(f"{file}: has {size} bytes instead of {shown(written['bytes'])}; {advice}")
                if _file_digest(file) != written["sha256"]:
                    raise InputError(f"{file}: has been modified, its sha256 is wrong; {advice}")
            return body
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(f"{path}: cannot be read ({error}); {advice}") from None
        except (KeyError, TypeError, AttributeError):
            raise InputError(f"{path}: is not a checkpoint of several ranks; {advice}") from None

    return _agree(check)[ranks.rank]


def read(path: Path, body: dict[str, Any], side: Callable[[str], str | None]) -> State:
    """The checkpoint that `read_body` has checked: this rank's rows of the tables, and all other tensors.

    side: the result of `sides`. A table that was on every rank in an earlier version is cut.
    """
    held = body["tensors"]
    names = [one["name"] for one in held["files"]]
    tensors: dict[str, Tensor] = {}
    ranks, writers = distributed.current(), distributed.Ranks(0, held["ranks"])
    try:
        with safe_open(path.parent / names[0], "pt") as file:
            whole = {name: file.get_tensor(name) for name in file.keys() if name not in held["sides"]}
        for nodes, rows in held["rows"].items():
            first, last = ranks.span(rows)
            own = [name for name, lies in held["sides"].items() if lies.removeprefix(COLUMNS) == nodes]
            parts: dict[str, list[Tensor]] = {name: [] for name in own}
            for name, (start, end) in zip(names, writers.spans(rows), strict=True):
                begin, stop = max(first, start), min(last, end)
                if begin < stop or name == names[0]:  # the first file also gives a rank without rows the shape
                    with safe_open(path.parent / name, "pt") as file:
                        for tensor in own:
                            rows_there = slice(begin - start, stop - start) if begin < stop else slice(0, 0)
                            parts[tensor].append(file.get_slice(tensor)[rows_there])
            tensors |= {name: by_rows(torch.cat(found), held["sides"][name]) for name, found in parts.items()}
    except (SafetensorError, OSError, ValueError, KeyError) as error:
        raise InputError(f"{path.parent}: does not match its {SEAL}: {error}; start a new run") from None
    return State(path, tensors | cut(State(path, whole, body), side).tensors, body)


def cut(state: State, side: Callable[[str], str | None]) -> State:
    """This rank's rows of whole tables, as in a checkpoint of one process."""
    ranks = distributed.current()
    tensors = {}
    for name, one in state.tensors.items():
        lies = side(name)
        tensors[name] = by_rows(ranks.mine(by_rows(one, lies)), lies).clone() if lies else one
    return State(state.path, tensors, state.body)


def by_rows(x: Tensor, side: str | None) -> Tensor:
    """A tensor of whose second dimension ranks own parts, with the first two exchanged, as in the files, and back."""
    return x.transpose(0, 1).contiguous() if side and side.startswith(COLUMNS) else x


def _new_folder(folder: Path, step: int) -> str:
    try:
        if folder.is_symlink():
            raise OSError("is a link")
        folder.mkdir(exist_ok=True)
        number, attempt = _number(folder, step), 0
        while (place := folder / f"{number:010d}.{attempt}").exists():
            attempt += 1
        place.mkdir()
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); free some disk space") from None
    return place.name


def _agree(work: Callable[[], Any]) -> list[Any]:
    """The results of `work` on all ranks, in order. If it raises InputError on one rank, raises it on all."""
    ranks = distributed.current()
    try:
        said = {"value": work()}
    except InputError as error:
        said = {"error": str(error)}
    every = [json.loads(text) for text in distributed.all_texts(json.dumps(said), ranks)]
    for rank, one in enumerate(every):
        if "error" in one:
            raise InputError(f"rank {rank}: {one['error']}" if rank else one["error"])
    return [one["value"] for one in every]
