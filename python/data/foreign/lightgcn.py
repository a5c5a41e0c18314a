"""The text files of LightGCN, NGCF and KGAT: train.txt and test.txt with one line `user item item …` per user."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np

from ...errors import InputError, shown
from ..files import read_text
from .source import Source, of_indices

NAME = "lightgcn"
TITLE = "the text layout of LightGCN and NGCF"
FILES = {"train": ("train.txt",), "val": ("valid.txt", "val.txt", "validation.txt"), "test": ("test.txt",)}
_LINE = re.compile(r"\s*[0-9]+(\s+[0-9]+)*\s*")


def fits(folder: Path) -> bool:
    """Whether the folder contains train.txt and its first line consists of integers."""
    path = folder / "train.txt"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(_LINE.fullmatch(file.readline(1 << 20).decode("utf-8-sig", errors="replace")))


def read(folder: Path) -> Source:
    """Read the folder as a Source. Original ids come from user_list.txt and item_list.txt (org_id remap_id), if any."""
    pairs = {}
    for split, names in FILES.items():
        path = next((folder / name for name in names if (folder / name).exists()), None)
        if path is not None:
            pairs[split] = _pairs(path)
    ids = [_original(folder / name) for name in ("user_list.txt", "item_list.txt")]
    return of_indices(folder, pairs, ids=ids)


def _pairs(path: Path) -> tuple[np.ndarray, np.ndarray]:
    users, counts, items = [], [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        if not _LINE.fullmatch(line) or max(map(len, line.split())) > 9:
            raise InputError(
                f"{path}: line {number} is {shown(line)}; a line must contain a user and its items, as integers from 0"
            )
        user, *user_items = map(int, line.split())
        users.append(user)
        counts.append(len(user_items))
        items += user_items
    return np.repeat(np.array(users, np.int64), np.array(counts, np.int64)), np.array(items, np.int64)


def _original(path: Path) -> list[str] | None:
    """The original ids by index from a file with lines `org_id remap_id`, or None if there is no file."""
    if not path.exists():
        return None
    lines = [line.rsplit(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
    if lines and lines[0][-1] == "remap_id":
        lines = lines[1:]
    indices = [int(line[1]) if len(line) == 2 and line[1].isdigit() and len(line[1]) < 10 else -1 for line in lines]
    if sorted(indices) != list(range(len(lines))):
        raise InputError(
            f"{path}: must have exactly one line `org_id remap_id` for every remap_id from 0 to {len(lines) - 1}"
        )
    return [line[0] for _, line in sorted(zip(indices, lines, strict=True))]
