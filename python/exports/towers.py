"""The towers of a model as torch.export programs, and what the formats for them share."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.export import Dim, ExportedProgram
from torch.fx.experimental import _config as sizes

from ..errors import InputError
from ..files import whole_folder
from ..inference.towers import item_tower, user_tower
from ..runs.saved_model import Model
from ..systems.inference import UserTower
from .tables import Exported, Tables, arrow_ids

USERS = "crow: int64 [n + 1], offsets; col: int64 [nnz], rows of items.parquet, ascending for each user"
Run = Callable[[Sequence[Tensor]], Tensor]
BEYOND = 2**40  # no table has as many rows, and a sum with this cannot overflow


class Histories(torch.nn.Module):
    """A tower of users with one more user inside, who has item 0, so that there are always two.

    torch.export takes sizes of 0 and 1 for constants. A program for any n, with offsets [n + 1], would refuse n = 1.

    from_end: the program will run where −1 is the last row of a table, as in ONNX. Negative rows, which is what many
    look-ups give for an unknown item, are then moved beyond every table, so that they are refused there as in PyTorch.
    """

    def __init__(self, tower: torch.nn.Module, from_end: bool) -> None:
        super().__init__()
        self.tower, self.from_end = tower, from_end

    def forward(self, crow: Tensor, col: Tensor) -> Tensor:
        if self.from_end:
            col = torch.where(col < 0, BEYOND, col)
        more = torch.zeros(1, dtype=torch.int64)
        return self.tower(torch.cat([crow, crow[-1:] + 1]), torch.cat([col, more]))[:-1]


class Tower:
    """One tower: the module, and arguments to trace and to verify it with."""

    def __init__(self, module: torch.nn.Module, names: list[str], batches: list[tuple[Tensor, ...]]) -> None:
        self.module, self.names, self.batches = module, names, batches

    @torch.no_grad()
    def program(self, from_end: bool = False) -> ExportedProgram:
        """The module as a program for any number of users or items. from_end: as in `Histories`."""
        trace = self.batches[0]
        module = Histories(self.module, from_end) if isinstance(self.module, UserTower) else self.module
        module(*trace)  # what the module caches must not be made of the tracer's tensors
        dynamic: Any = tuple({0: Dim.DYNAMIC} for _ in trace)
        if module is self.module:  # forward(self, *features)
            dynamic = (dynamic,)
        patch: Any = getattr(sizes, "patch")  # noqa: B009  mypy does not see it
        with patch(backed_size_oblivious=True):  # sizes of 0 and 1 are no constants
            return torch.export.export(module, trace, dynamic_shapes=dynamic, strict=True)

    @torch.no_grad()
    def difference(self, run: Run) -> float:
        """The largest difference between `run` and the module, as a part of the largest value."""
        largest = 0.0
        for batch in self.batches:
            want, got = self.module(*batch), run(batch)
            if got.shape != want.shape:
                return math.inf
            if want.numel():
                difference = float((got - want).abs().max() / want.abs().max().clamp(min=1e-12))
                largest = max(largest, difference) if math.isfinite(difference) else math.inf
        return largest


def towers_of(model: Model) -> tuple[dict[str, Tower], list[str]]:
    """({"users" or "items": tower}, a note for a tower that the model cannot have). Raises InputError without any."""
    towers: dict[str, Tower] = {}
    notes: list[str] = []
    n_items = model.interactions.n_items
    rng = np.random.default_rng(0)
    for side in ("users", "items"):
        try:
            if side == "users":
                sizes = [[3, 1, 2, 5], [1], [0, 4, 0], [2] * 50]
                towers[side] = Tower(user_tower(model), ["crow", "col"], [_histories(rng, n_items, s) for s in sizes])
            else:
                tower = item_tower(model)
                means = [getattr(tower, name) for name in tower.means.values()]
                batches = [tuple(_features(rng, mean, n) for mean in means) for n in (3, 1, 50)]
                towers[side] = Tower(tower, list(tower.modalities), batches)
        except InputError as error:
            notes.append(str(error))
    if not towers:
        raise InputError("; ".join(dict.fromkeys(notes)))
    return towers, notes


def write_towers(
    model: Model,
    path: Path,
    suffix: str,
    save: Callable[[Tower, Path], None],
    load: Callable[[Path, Tower], Run],
    tolerance: float,
) -> Exported:
    """Write users and items with this suffix, towers.json and items.parquet to a new folder.

    save: writes a tower to a file; raises InputError with the reason if this tower cannot be in the format. load: reads
    it back. Raises InputError if no tower can be written, or one differs from the model by more than the tolerance.
    """
    import pyarrow as pa
    from pyarrow import parquet

    tables = Tables.of(model)
    facts: dict[str, Any] = {}
    with whole_folder(path) as folder:  # refuses an occupied folder before anything is computed
        towers, notes = towers_of(model)
        for side, tower in towers.items():
            file = folder / f"{side}{suffix}"
            try:
                save(tower, file)
            except InputError as error:
                notes.append(f"{file.name} is not there: {error}")
                continue
            difference = tower.difference(load(file, tower))
            if not difference <= tolerance:
                raise InputError(f"{path}: {file.name} differs from the model by {difference:.2g} of the largest value")
            facts[side] = {
                "file": file.name,
                "inputs": USERS if side == "users" else {name: "float32 [n, width]" for name in tower.names},
                "output": f"float32 [n, {tables.items.shape[1]}]",
                "difference": difference,
            }
            notes.append(f"{file.name}: differs from the model by at most {difference:.2g} of the largest value")
        if not facts:
            raise InputError(f"{path}: {'; '.join(notes)}")
        items = {"item": arrow_ids(tables.item_ids), "interactions": tables.item_interactions}
        parquet.write_table(pa.table(items), folder / "items.parquet")
        facts |= {"torch": torch.__version__, "model": tables.metadata}
        (folder / "towers.json").write_text(json.dumps(facts, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")
    return Exported(sorted(path.iterdir()), notes)


def _histories(rng: np.random.Generator, n_items: int, sizes: list[int]) -> tuple[Tensor, Tensor]:
    rows = [np.sort(rng.choice(n_items, min(size, n_items), replace=False)) for size in sizes]
    crow = np.cumsum([0, *map(len, rows)])
    return torch.from_numpy(crow), torch.from_numpy(np.concatenate(rows).astype(np.int64))


def _features(rng: np.random.Generator, mean: Tensor, n: int) -> Tensor:
    return (mean + torch.from_numpy(rng.standard_normal((n, len(mean))))).float()
