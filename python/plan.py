"""What one run costs, computed from its sizes alone: bytes held, bytes needed for a while, bytes moved and operations
of every stage. The one place that knows; `--memory` and the refusal before training read it.

A plan is for float32 on the CPU. Its coefficients were fitted to four runs with two modalities; tests/test_plan.py
holds it to within 15% of three of them.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from mmssl_fast.nn.discriminator import hidden_widths

from .errors import InputError

if TYPE_CHECKING:
    from .config import Config
    from .data import Dataset

FLOAT, INDEX, OFFSET = 4, 4, 8
UNITS = {"": 1, "B": 1, **{f"{p}{end}": 1024 ** (at + 1) for at, p in enumerate("KMGT") for end in ("", "B", "iB")}}


@dataclass(frozen=True)
class Sizes:
    """What a plan is computed from. widths: of every modality's features; hidden: the discriminator's two widths, None
    without one; draws: order statistics a Gumbel row takes."""

    users: int
    items: int
    interactions: int
    widths: tuple[int, ...]
    dim: int = 64
    hidden: tuple[int, int] | None = None
    batch: int = 1024
    layers: int = 2
    heads: int = 4
    neighbours: int = 10
    contrastive: bool = True
    discriminator_steps: int = 1
    draws: int = 50

    @property
    def nodes(self) -> int:
        return self.users + self.items

    @property
    def modalities(self) -> int:
        return len(self.widths)


@dataclass(frozen=True)
class Stage:
    """One part of a run. held: bytes it keeps from then on; passing: bytes it needs beyond all that is held, while it
    runs; moved: bytes read and written a step; operations: of matrix products and the like a step; loaded: whether it
    is there once the data has been read."""

    name: str
    held: int = 0
    passing: int = 0
    moved: int = 0
    operations: int = 0
    loaded: bool = False


def sizes_of(dataset: Dataset, config: Config) -> Sizes:
    """The sizes of a run of config.model.system on a dataset."""
    model, loss = config.model, config.loss
    adversarial = loss.adversarial and model.system == "mmssl"
    return Sizes(
        dataset.n_users, dataset.n_items, dataset.train.nnz,
        tuple(one.shape[1] for one in dataset.features.values()) if model.system == "mmssl" else (),
        dim=model.dim, hidden=(tuple(model.hidden) or hidden_widths(dataset.n_items)) if adversarial else None,
        batch=config.train.batch, layers=model.layers, heads=model.heads,
        neighbours=model.neighbours if model.system == "mmssl" else 0, contrastive=loss.contrastive,
        discriminator_steps=config.train.discriminator_steps,
    )  # fmt: skip


def stages(s: Sizes) -> list[Stage]:
    """Every stage of a run with Adam-type optimisers and float32 parameters, in the order in which memory is taken."""
    n, d, m = s.nodes, s.dim, s.modalities
    table = FLOAT * n * d  # one embedding of every node
    widest, wide = max(s.widths, default=0), sum(s.widths)
    encoder = FLOAT * (n * d + wide * d + (2 + s.heads) * d * d)
    found = [
        Stage("interactions", held=(INDEX + FLOAT) * s.interactions + 3 * OFFSET * s.users, loaded=True),
        Stage("graph and its transpose", held=2 * INDEX * s.interactions + 2 * (OFFSET + OFFSET) * n),
        Stage("features as given", held=FLOAT * s.items * wide, loaded=True),
    ]
    if m:
        found.append(Stage("features, standardised", held=FLOAT * s.items * wide, passing=4 * 8 * s.items * widest))
    found.append(Stage("encoder with AdamW", held=4 * encoder, passing=2 * table, moved=7 * encoder))
    if s.hidden:
        weights = FLOAT * (s.items * s.hidden[0] + s.hidden[0] * s.hidden[1])
        found.append(Stage("discriminator with its moments", held=3 * weights, moved=7 * weights))
    edges = m * s.users * s.neighbours
    if edges:
        found.append(
            Stage("semantic neighbours (8)", held=OFFSET * edges + 2 * INDEX * edges + 4 * OFFSET * m * n,
                  passing=3 * OFFSET * s.users * s.neighbours)
        )  # fmt: skip
    found.append(Stage("best model", held=encoder + table + OFFSET * edges))
    found += _encoder_stages(s, table, edges)
    if s.hidden:
        found += _adversarial_stages(s)
    if s.contrastive and edges:
        keys = FLOAT * s.users * d
        found.append(
            Stage("InfoNCE (11)", passing=m * 2 * keys, moved=m * 6 * keys,
                  operations=m * 4 * 2 * s.batch * 2 * s.users * d)
        )  # fmt: skip
    return found


def _encoder_stages(s: Sizes, table: int, edges: int) -> list[Stage]:
    n, d, m = s.nodes, s.dim, s.modalities
    item_table = FLOAT * s.items * d
    edge = INDEX + FLOAT * d  # read for an entry of a sparse product
    found = []
    if m:
        found.append(
            Stage("modality features (2)", passing=m * (item_table + table),
                  moved=3 * FLOAT * s.items * sum(s.widths) + 4 * m * s.interactions * edge + 6 * m * table,
                  operations=4 * s.items * sum(s.widths) * d + 8 * m * s.interactions * d)
        )  # fmt: skip
    if edges:
        found.append(
            Stage("views and attention (8, 9)", passing=(4 * m + s.heads + 2) * table,
                  moved=4 * edges * edge + 3 * (4 * m + s.heads + 2) * table,
                  operations=8 * edges * d + 6 * n * d * d * (2 * m + s.heads))
        )  # fmt: skip
    found.append(
        Stage("graph layers and sums (10, 12)", passing=(s.layers + 2 + 2 * m) * table,
              moved=4 * s.layers * s.interactions * edge + 6 * (s.layers + 2 + 2 * m) * table,
              operations=8 * s.layers * s.interactions * d)
    )  # fmt: skip
    generated = 2 * (1 + m) * item_table if s.hidden else 0  # D's side of the items: copies and gradients
    found.append(
        Stage("gradients on the way back", passing=(4 + 7 * m) * table + generated, moved=2 * (4 + 7 * m) * table)
    )
    return found


def _adversarial_stages(s: Sizes) -> list[Stage]:
    (h, h2), d, m, b = s.hidden, s.dim, s.modalities, s.batch
    rows = (1 + m) * b
    weight = FLOAT * s.items * h
    steps = s.discriminator_steps
    values = FLOAT * s.items * d
    return [
        Stage("first layer of D (4)", passing=24 * FLOAT * rows * h + (1 + m) * 8 * s.items * d,
              moved=steps * (4 * weight + 4 * (1 + m) * values) + 2 * weight + 4 * m * values
              + steps * FLOAT * b * s.draws * h,
              operations=steps * 4 * (s.items * (1 + m) * d * h + rows * d * h + b * s.draws * h)
              + 4 * (s.items * m * d * h + m * b * d * h)),
        Stage("above the first layer", passing=6 * FLOAT * rows * (h + h2), moved=12 * FLOAT * rows * (h + h2),
              operations=(steps * 6 * (rows + m * b) + 4 * m * b) * h * h2),
        Stage("gradient penalty (7)", passing=3 * FLOAT * h * h, moved=steps * 4 * weight,
              operations=steps * (s.items * h * h + 2 * s.items * h * h + 2 * m * b * h * h)),
        Stage("row lengths", moved=steps * 3 * (1 + m) * values, operations=steps * 2 * s.items * d * d * (1 + m)),
    ]  # fmt: skip


def held(found: list[Stage]) -> int:
    """Bytes that a run keeps throughout."""
    return sum(stage.held for stage in found)


def peak(found: list[Stage]) -> int:
    """Bytes at the highest: what is held, what the encoder keeps for its gradients, and the largest of the rest."""
    kept = {"modality features (2)", "views and attention (8, 9)", "graph layers and sums (10, 12)"}
    activations = sum(stage.passing for stage in found if stage.name in kept)
    return held(found) + activations + max((stage.passing for stage in found if stage.name not in kept), default=0)


def largest(found: list[Stage], count: int = 3) -> str:
    """The stages that need most, as a sentence's end."""
    worst = sorted(found, key=lambda stage: stage.held + stage.passing, reverse=True)[:count]
    return ", ".join(f"{stage.name} {readable(stage.held + stage.passing)}" for stage in worst)


def free_memory(device: str = "cpu") -> int:
    """Bytes that can still be had: of the device for CUDA, else of the machine and of every cgroup above this
    process."""
    if device.startswith("cuda"):
        import torch

        return torch.cuda.mem_get_info(torch.device(device))[0]
    return min([_available(), *_left_in_cgroups()])


def _available() -> int:
    try:
        lines = Path("/proc/meminfo").read_text().splitlines()
        return next(1024 * int(line.split()[1]) for line in lines if line.startswith("MemAvailable"))
    except (OSError, StopIteration):
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")


def _left_in_cgroups(root: Path = Path("/sys/fs/cgroup"), own: Path = Path("/proc/self/cgroup")) -> list[int]:
    """What each limit leaves, of cgroups of version 2 (version 1: the memory controller's own limit)."""
    left = []
    try:
        unified = [line[3:] for line in own.read_text().splitlines() if line.startswith("0::/")]
    except OSError:
        return left
    places = [root / part.lstrip("/") for part in unified]
    for place in [*places, *(above for one in places for above in one.parents if above.is_relative_to(root)),
                  root / "memory"]:  # fmt: skip
        for limit, used in (("memory.max", "memory.current"), ("memory.limit_in_bytes", "memory.usage_in_bytes")):
            try:
                left.append(max(0, int((place / limit).read_text()) - int((place / used).read_text())))
            except (OSError, ValueError):  # not there, or "max"
                continue
    return left


SHARE = 0.8  # of what is free


def refuse_what_cannot_fit(dataset: Dataset, config: Config) -> None:
    """Raise InputError, naming the stages that need most, where a run would need more memory than train.memory allows:
    so many bytes in all, or by default 80% of what is free beyond the data that is already there."""
    found = stages(sizes_of(dataset, config))
    needed, given = peak(found), config.train.memory
    if not given:
        free = free_memory(config.train.device)
        loaded = 0 if config.train.device.startswith("cuda") else sum(stage.held for stage in found if stage.loaded)
        allowed, what = int(SHARE * free) + loaded, f"{SHARE:.0%} of what is free"
    else:
        allowed, what = parse_bytes(given), "train.memory"
    if needed > allowed:
        raise InputError(
            f"{dataset.name}: the run needs about {readable(needed)}, {readable(allowed)} may be used ({what}); the "
            f"largest parts: {largest(found)}; choose a smaller model.dim or model.hidden, or more with --memory"
        )


def parse_bytes(text: str) -> int:
    """4GiB, 512M, 2e9: as bytes, K to T by 1024. Raises ValueError for anything else."""
    number = text.strip().rstrip("BKMGTibkmgt")
    unit = text.strip()[len(number) :]
    known = {name.lower(): factor for name, factor in UNITS.items()}
    if unit.lower() not in known or not 0 < (value := float(number)) < 1e18:
        raise ValueError(f"{text!r} is no size; write 4GiB, 512M or 2e9")
    return int(value * known[unit.lower()])


def readable(count: float) -> str:
    """Bytes as people write them."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if count < 1024 or unit == "TiB":
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.2f} {unit}"
        count /= 1024
    raise AssertionError
