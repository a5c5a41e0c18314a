"""One state on disk: two files named after the steps taken.

<step>.safetensors holds the tensors and <step>.json, written after it, the rest and a checksum of both. A pair without
its .json was never finished and is not looked at; a finished one is never written to again: a second state of the same
step takes the next number. Nothing in either file names a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
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
_LARGEST_JSON = 1 << 28
_HOLDS = {
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
_WITHIN = {
    "step": (0, 2**32 - 1),
    "stale": (0, math.inf),
    "best_epoch": (0, math.inf),
    "epoch": (1, math.inf),
    "tile": (1, math.inf),
}


@dataclass
class State:
    """One state as read back. path: its .json; tensors by name; body: what the .json holds."""

    path: Path
    tensors: dict[str, Tensor]
    body: dict[str, Any]


def write(folder: Path, step: int, tensors: dict[str, Tensor], body: dict[str, Any], advice: str) -> None:
    """Write the state of a step and remove all but the last KEPT. Raises InputError, which ends with the advice."""
    try:
        if folder.is_symlink():
            raise OSError("is a link")
        folder.mkdir(exist_ok=True)
        path = folder / f"{_number(folder, step):010d}.safetensors"
        write_tensors(path, tensors, advice=advice)
        body = body | {"format": FORMAT, "tensors": {"bytes": path.stat().st_size, "sha256": _digest(path)}}
        write_text(path.with_suffix(".json"), _sealed(body), advice=advice)
    except OSError as error:
        raise InputError(f"{folder}: cannot be written ({error.strerror or error}); {advice}") from None
    _thin(folder)


def read(path: Path) -> State:
    """The state whose .json is `path`. Raises InputError where either file is missing, cut off, changed, of another
    format, or a link."""
    tensors_path = path.with_suffix(".safetensors")
    older = f"to go on from the state before it, if there is one, remove {path.name} and {tensors_path.name}"
    try:
        for one in (path, tensors_path):
            if one.is_symlink() or not one.is_file():
                raise InputError(f"{one}: is missing or no ordinary file; {older}")
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{path}: is {path.stat().st_size} bytes, more than any state has; {older}")
        body = _opened(path, path.read_text(encoding="utf-8"), older)
        held, written = tensors_path.stat().st_size, body["tensors"]
        if held != written.get("bytes"):
            raise InputError(f"{tensors_path}: is {held} bytes, was written as {shown(written.get('bytes'))}; {older}")
        if _digest(tensors_path) != written.get("sha256"):
            raise InputError(f"{tensors_path}: is not as it was written, its sha256 differs; {older}")
        with safe_open(tensors_path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {older}") from None
    return State(path, tensors, body)


def newest(folder: Path) -> Path | None:
    """The .json of the newest finished state, None without one."""
    found = [path for path in _entries(folder) if path.suffix == ".json" and _NAME.fullmatch(path.name)]
    return max(found, default=None)


def _number(folder: Path, step: int) -> int:
    """What the state of that step is called: above every finished one, none of which is touched."""
    last = newest(folder)
    return step if last is None else max(step, int(last.stem) + 1)


def keep_newest(folder: Path) -> None:
    """Remove all states but the newest."""
    kept = newest(folder)
    for path in _entries(folder):
        if _OURS.fullmatch(path.name) and (kept is None or path.stem != kept.stem):
            path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove the states, finished or not, and the folder where nothing else is in it."""
    for path in _entries(folder):
        if _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def _sealed(body: dict[str, Any]) -> str:
    return json.dumps({"sha256": _digest_of(body), "state": body}, indent=1) + "\n"


def _opened(path: Path, text: str, older: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
        body = dict(content["state"])
        sound = content["sha256"] == _digest_of(body)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: is cut off or no state; {older}") from None
    if not sound:
        raise InputError(f"{path}: is not as it was written, its sha256 differs; {older}")
    if body.get("format") != FORMAT:
        raise InputError(f"{path}: its format is {shown(body.get('format'))}, this version reads {FORMAT!r}")
    wrong = next((key for key, kind in _HOLDS.items() if not isinstance(body.get(key, ...), kind)), None)
    wrong = wrong or next((key for key, (low, high) in _WITHIN.items() if not low <= body[key] <= high), None)
    if wrong or not all(isinstance(one, dict) for one in (*body["epochs"], *body["config"].values())):
        what = f"{wrong} is {shown(body.get(wrong))}" if wrong else "an epoch or a section is no table"
        raise InputError(f"{path}: does not hold a state: {what}; {older}")
    if not all(_is_record(one, body["terms"], body["epochs"][0]) for one in body["epochs"]):
        raise InputError(f"{path}: does not hold a state: what it says of an epoch; {older}")
    return body


def _is_record(one: dict[str, Any], terms: list, first: dict[str, Any]) -> bool:
    """Whether one line of metrics.jsonl has what is read of it again: the losses of `terms` and of the first among
    it."""
    losses, val = one.get("losses"), one.get("val", {})
    if not isinstance(losses, dict) or not isinstance(val, dict):
        return False
    needed = [one.get("epoch"), one.get("seconds"), *losses.values(), *val.values()]
    needed += [val.get(name) for name in ("users", "recall@20", "ndcg@20") if val]
    names = [*terms, *first["losses"]]
    numbers = all(isinstance(value, (int, float)) for value in needed)
    return numbers and bool(names) and all(name in list(losses) for name in names)


def _digest_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _thin(folder: Path) -> None:
    """Keep the last states only; a temporary file left by a killed process goes too."""
    finished = sorted(path.stem for path in _entries(folder) if re.fullmatch(r"\d{10}\.json", path.name))
    for path in _entries(folder):
        if _OURS.fullmatch(path.name) and path.stem not in finished[-KEPT:]:
            path.unlink(missing_ok=True)
