"""torch.export: users.pt2 and items.pt2, programs that torch.export.load reads."""

from __future__ import annotations

import io
from pathlib import Path

import torch

from ..runs.saved_model import Model
from .check import Settings
from .tables import Exported
from .towers import Run, Tower, write_towers

TOLERANCE = 1e-6


def write(model: Model, path: Path, settings: Settings) -> Exported:
    """Write the towers as programs. They call the operations of mmssl_fast, which must be imported before they are
    loaded, and belong to the version of torch that wrote them."""

    def save(tower: Tower, file: Path) -> None:
        # In memory first: if the disk is full, torch's writer of files ends the whole process (std::terminate).
        content = io.BytesIO()
        torch.export.save(tower.program(), content)
        file.write_bytes(content.getbuffer())

    def load(file: Path, tower: Tower) -> Run:
        module = torch.export.load(file).module()
        return lambda batch: module(*batch)

    return write_towers(model, path, ".pt2", save, load, TOLERANCE)
