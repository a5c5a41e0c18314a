"""The text files of LightGCN, NGCF and KGAT: a line `user item item …` for each user, in train.txt and test.txt."""

import re

import numpy as np

from ...errors import InputError, shown
from ..files import read_text
from .source import of_indices

NAME = "lightgcn"
TITLE = "the text layout of LightGCN and NGCF"
FILES = {"train": ("train.txt",), "val": ("valid.txt", "val.txt", "validation.txt"), "test": ("test.txt",)}
_LINE = re.compile(r"\s*[0-9]+(\s+[0-9]+)*\s*")


def fits(folder):
    """Whether there is a train.txt whose first line is made of integers."""
    path = folder / "train.txt"
    if not path.is_file():
        return False
    with path.open("rb") as file:
        return bool(_LINE.fullmatch(file.readline(1 << 20).decode("utf-8-sig", errors="replace")))


def read(folder):
    """The folder as a Source; user_list.txt and item_list.txt (org_id remap_id) give the original ids."""
    pairs = {}
    for split, names in FILES.items():
        path = next((folder / name for name in names if (folder / name).exists()), None)
        if path is not None:
            pairs[split] = _pairs(path)
    ids = [_original(folder / name) for name in ("user_list.txt", "item_list.txt")]
    return of_indices(folder, pairs, ids=ids)


def _pairs(path):
    users, counts, items = [], [], []
    for number, line in enumerate(read_text(path).splitlines(), 1):
        if not line.strip():
            continue
        if not _LINE.fullmatch(line) or max(map(len, line.split())) > 9:
            raise InputError(
                f"{path}: line {number} is {shown(line)}; a line is a user and its items, all integers from 0"
            )
        user, *own = map(int, line.split())
        users.append(user)
        counts.append(len(own))
        items += own
    return np.repeat(np.array(users, np.int64), np.array(counts, np.int64)), np.array(items, np.int64)


def _original(path):
    """[original id] by index of a list of `org_id remap_id`, None where there is none."""
    if not path.exists():
        return None
    lines = [line.rsplit(maxsplit=1) for line in read_text(path).splitlines() if line.strip()]
    if lines and lines[0][-1] == "remap_id":
        lines = lines[1:]
    places = [int(line[1]) if len(line) == 2 and line[1].isdigit() and len(line[1]) < 10 else -1 for line in lines]
    if sorted(places) != list(range(len(lines))):
        raise InputError(
            f"{path}: does not give every index from 0 to {len(lines) - 1} one id; its lines are org_id remap_id"
        )
    ids = [""] * len(lines)
    for place, line in zip(places, lines, strict=True):
        ids[place] = line[0]
    return ids
