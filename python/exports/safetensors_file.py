"""safetensors: one file with users, items and their ids. Text ids are UTF-8 bytes with offsets, as in a model file."""

from __future__ import annotations

from pathlib import Path

import torch

from ..errors import InputError
from ..files import write_tensors
from ..runs.saved_model import pack_ids
from .check import Settings
from .tables import Exported, Tables


def write(tables: Tables, path: Path, settings: Settings) -> Exported:
    """Write the tensors users, items, ids.users and ids.items. Text ids are ids.items.bytes and ids.items.offsets: the
    id of row i is bytes[offsets[i] : offsets[i + 1]] in UTF-8."""
    if path.is_dir():
        raise InputError(f"{path}: is a folder; give a file")
    if path.exists():  # it may be the model itself
        raise InputError(f"{path}: exists; give a new file, or move this one away")
    tensors = {"users": torch.from_numpy(tables.users), "items": torch.from_numpy(tables.items)}
    tensors |= pack_ids("users", tables.user_ids) | pack_ids("items", tables.item_ids)
    write_tensors(path, tensors, tables.metadata)
    return Exported([path], tables.notes())
