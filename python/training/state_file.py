"""The files of a checkpoint: <step>.safetensors with the tensors, and <step>.json with other values and checksums.

The .json file is written last, so a .safetensors file without it is incomplete and is ignored. A complete checkpoint is
never overwritten: a second checkpoint of the same step gets the next free number. The files contain no paths. Several
ranks write a folder instead, see sharded_state.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from torch import Tensor

from ..errors import InputError, shown
from ..files import write_tensors, write_text

FORMAT = "mmssl_fast state 1"
KEPT = 2
_NAME = re.compile(r"(\d{10})\.(json|safetensors)")
_OURS = re.compile(r"\d{10}\.(json|safetensors)|\.\d{10}\.(json|safetensors)\.\d+\.tmp")
_FOLDER = re.compile(r"\d{10}\.\d{1,9}")
SEAL = "state.json"  # of a folder
_LARGEST_JSON = 1 << 28
_TYPES: dict[str, type | tuple[type, ...]] = {
    "step": int,
    "stale": int,
    "best": (int, float, type(None)),
    "best_epoch": int,
    "val": dict,
    "epochs": list,
    "optimisers": dict,
    "where": str,
    "epoch": int,
    "tile": int,
    "seconds": (int, float),
    "terms": list,
    "config": dict,
    "fingerprint": str,
    "threads": int,
    "versions": dict,
    "tensors": dict,
}
_BOUNDS = {
    "step": (0, 2**32 - 1),
    "stale": (0, math.inf),
    "best_epoch": (0, math.inf),
    "epoch": (1, math.inf),
    "tile": (1, math.inf),
}


@dataclass
class State:
    """A checkpoint that has been read. path: its .json file; tensors by name; body: the content of the .json file."""

    path: Path
    tensors: dict[str, Tensor]
    body: dict[str, Any]


def write(folder: Path, step: int, tensors: dict[str, Tensor], body: dict[str, Any], advice: str) -> None:
    """Write a checkpoint and remove all but the last KEPT. Raises InputError with this advice if that fails."""
    try:
        if folder.is_symlink():
            raise OSError("is a link")
        folder.mkdir(exist_ok=True)
        path = folder / f"{_number(folder, step):010d}.safetensors"
        write_tensors(path, tensors, advice=advice)
        body = body | {"format": FORMAT, "tensors": {"bytes": path.stat().st_size, "sha256": _file_digest(path)}}
        write_text(path.with_suffix(".json"), _with_checksum(body), advice=advice)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); {advice}") from None
    thin(folder)


def read(path: Path) -> State:
    """Read the checkpoint with this .json file. Raises InputError if one of its files is missing, truncated, modified,
    of another format, or a link."""
    tensors_path = path.with_suffix(".safetensors")
    advice = f"remove {path.name} and {tensors_path.name} to use the previous checkpoint, if there is one"
    try:
        for file in (path, tensors_path):
            if file.is_symlink() or not file.is_file():
                raise InputError(f"{file}: is missing or not a regular file; {advice}")
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{path}: has {path.stat().st_size} bytes, too many for a checkpoint; {advice}")
        body = _parse(path, path.read_text(encoding="utf-8"), advice)
        size, written = tensors_path.stat().st_size, body["tensors"]
        if size != written.get("bytes"):
            raise InputError(f"{tensors_path}: has {size} bytes instead of {shown(written.get('bytes'))}; {advice}")
        if _file_digest(tensors_path) != written.get("sha256"):
            raise InputError(f"{tensors_path}: has been modified, its sha256 is wrong; {advice}")
        with safe_open(tensors_path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {advice}") from None
    return State(path, tensors, body)


def newest(folder: Path) -> Path | None:
    """The .json file of the newest complete checkpoint, or None."""
    return max(_complete(folder), key=_order, default=None)


def _number(folder: Path, step: int) -> int:
    """The number for a new checkpoint: the step, or the next one above the complete checkpoints."""
    last = newest(folder)
    return step if last is None else max(step, _order(last)[0] + 1)


def keep_newest(folder: Path) -> None:
    """Remove all checkpoints except the newest."""
    thin(folder, 1)


def remove(folder: Path) -> None:
    """Remove all checkpoints, complete or not, and the folder if it is then empty."""
    thin(folder, 0)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _with_checksum(body: dict[str, Any]) -> str:
    return json.dumps({"sha256": _digest(body), "state": body}, indent=1) + "\n"


def _parse(path: Path, text: str, advice: str) -> dict[str, Any]:
    """The content of a .json file. Everything is checked here, so that a malformed file cannot fail later."""
    try:
        content = json.loads(text)
        body = dict(content["state"])
        checksum_is_right = content["sha256"] == _digest(body)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: is truncated or not a checkpoint; {advice}") from None
    if not checksum_is_right:
        raise InputError(f"{path}: has been modified, its sha256 is wrong; {advice}")
    if body.get("format") != FORMAT:
        raise InputError(f"{path}: its format is {shown(body.get('format'))}, but this version reads {FORMAT!r}")
    wrong = next((key for key, kind in _TYPES.items() if not isinstance(body.get(key, ...), kind)), None)
    wrong = wrong or next((key for key, (low, high) in _BOUNDS.items() if not low <= body[key] <= high), None)
    if wrong or not all(isinstance(table, dict) for table in (*body["epochs"], *body["config"].values())):
        reason = f"{wrong} is {shown(body.get(wrong))}" if wrong else "an epoch or a section is not a table"
        raise InputError(f"{path}: is not a valid checkpoint: {reason}; {advice}")
    if not all(_is_record(record, body["terms"], body["epochs"][0]) for record in body["epochs"]):
        raise InputError(f"{path}: is not a valid checkpoint: the record of an epoch is malformed; {advice}")
    return body


def _is_record(record: dict[str, Any], terms: list[str], first: dict[str, Any]) -> bool:
    """Whether a line of metrics.jsonl has the values that are read later, with the losses `terms` and those of the
    first line."""
    losses, val = record.get("losses"), record.get("val", {})
    if not isinstance(losses, dict) or not isinstance(val, dict):
        return False
    needed = [record.get("epoch"), record.get("seconds"), *losses.values(), *val.values()]
    needed += [val.get(name) for name in ("users", "recall@20", "ndcg@20") if val]
    names = [*terms, *first["losses"]]
    numbers = all(isinstance(value, (int, float)) for value in needed)
    return numbers and bool(names) and all(name in list(losses) for name in names)


def _digest(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _file_digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _complete(folder: Path) -> list[Path]:
    """The .json files of all complete checkpoints."""
    files = [path for path in _entries(folder) if path.suffix == ".json" and _NAME.fullmatch(path.name)]
    seals = [path / SEAL for path in _entries(folder) if _is_folder(path)]
    return files + [path for path in seals if path.is_file()]


def _order(path: Path) -> tuple[int, int]:
    """The sort key of a checkpoint's .json file: its number and attempt."""
    number, _, attempt = (path.parent.name if path.name == SEAL else path.stem).partition(".")
    return int(number), int(attempt or 0)


def _is_folder(path: Path) -> bool:
    return _FOLDER.fullmatch(path.name) is not None and path.is_dir() and not path.is_symlink()


def thin(folder: Path, count: int = KEPT) -> None:
    """Remove all but the last `count` checkpoints, and what killed processes have left."""
    complete = sorted(_complete(folder), key=_order)[::-1]
    kept = {path.parent.name if path.name == SEAL else path.stem for path in complete[:count]}
    for path in _entries(folder):
        if _is_folder(path) and path.name not in kept:
            (path / SEAL).unlink(missing_ok=True)  # first, so that a half-removed folder is no checkpoint
            shutil.rmtree(path, ignore_errors=True)
        elif _OURS.fullmatch(path.name) and path.stem not in kept:
            path.unlink(missing_ok=True)
