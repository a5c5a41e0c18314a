"""What one run costs, computed from its sizes alone: bytes held, bytes needed for a while, bytes moved and operations
of every stage. The one place that knows; `--memory` and the refusal before training read it.

A plan is for float32 on the CPU and counts tensors; Python, torch and the other libraries are not in it. What the
allocator keeps of freed blocks is the one thing that is estimated, see SLACK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from math import prod
from typing import TYPE_CHECKING

from mmssl_fast.nn.discriminator import hidden_widths
from mmssl_fast.ops.infonce import MOST_USERS

from ..config.byte_size import readable

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset

FLOAT, INDEX, OFFSET = 4, 4, 8
# Blocks from glibc's greatest mmap threshold up are given back when freed; smaller ones stay, and as torch asks for
# aligned blocks, one of them seldom serves a request of another size. SLACK is measured: 1.6 to 1.9 on small runs.
GIVEN_BACK, SLACK = 32 << 20, 1.75
TILE = 1 << 20  # entries of TiledAdam's gradient at once


@dataclass(frozen=True)
class Sizes:
    """What a plan is computed from. widths: of every modality's features; hidden: the discriminator's two widths, None
    without one; content: columns of features that the SVD sets beside its own; draws: order statistics a Gumbel row
    takes."""

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
    attention: bool = True
    contrastive: bool = True
    structural: bool = False
    balance: bool = False
    content: int = 0
    discriminator_steps: int = 1
    draws: int = 50

    @property
    def nodes(self) -> int:
        return self.users + self.items

    @property
    def modalities(self) -> int:
        return len(self.widths)


Blocks = dict[int, int]  # size of a tensor in bytes → how many of that size


@dataclass(frozen=True)
class Stage:
    """One part of a run. held: bytes it keeps from then on; kept: tensors that stay until the step's end, or until a
    stage that names their phase in freed; working: tensors it needs while it runs; moved: bytes read and written a
    step; operations: of matrix products and the like a step; loaded: whether it is there once the data has been read;
    phase: of the run, one after the other."""

    name: str
    phase: str = "build"
    held: int = 0
    kept: Blocks = field(default_factory=dict)
    working: Blocks = field(default_factory=dict)
    freed: tuple[str, ...] = ()
    moved: int = 0
    operations: int = 0
    loaded: bool = False

    @property
    def passing(self) -> int:
        """Bytes beyond what is held."""
        return _bytes(self.kept) + _bytes(self.working)


def blocks(*tensors: tuple[int, int]) -> Blocks:
    """Of (size in bytes, how many) pairs, equal sizes added up."""
    found: Counter[int] = Counter()
    for size, count in tensors:
        found[size] += count
    return +found


def sizes_of(dataset: Dataset, config: Config) -> Sizes:
    """The sizes of a run of config.model.system on a dataset."""
    model, loss = config.model, config.loss
    adversarial = loss.adversarial and model.system == "mmssl"
    by_user = config.train.sample_over == "users"  # without replacement
    content = sum(one.shape[1] for one in dataset.features.values())
    return Sizes(
        dataset.n_users, dataset.n_items, dataset.train.nnz,
        tuple(one.shape[1] for one in dataset.features.values()) if model.system == "mmssl" else (),
        dim=model.dim, hidden=(tuple(model.hidden) or hidden_widths(dataset.n_items)) if adversarial else None,
        batch=min(config.train.batch, dataset.n_users) if by_user else config.train.batch,
        layers=model.layers, heads=model.heads,
        neighbours=model.neighbours if model.system == "mmssl" else 0, attention=model.eta != 0,
        contrastive=loss.contrastive,
        structural=loss.structural and model.system == "mmssl", balance=config.train.balance,
        content=content if model.system == "svd" and config.svd.content else 0,
        discriminator_steps=config.train.discriminator_steps,
    )  # fmt: skip


def stages(s: Sizes) -> list[Stage]:
    """Every stage of a run with Adam-type optimisers and float32 parameters, in the order in which memory is taken."""
    n, d, m = s.nodes, s.dim, s.modalities
    widest, wide = max(s.widths, default=0), sum(s.widths)
    user, item = FLOAT * s.users * d, FLOAT * s.items * d  # an embedding of every user, of every item
    encoder = user + item + FLOAT * (wide * d + (2 + s.heads) * d * d)
    edges = s.users * s.neighbours  # of a modality
    found = [
        Stage("interactions", held=(INDEX + FLOAT) * s.interactions + 3 * OFFSET * s.users, loaded=True),
        Stage("features as given", held=FLOAT * s.items * wide, loaded=True),
        Stage("graph and its transpose", held=2 * INDEX * s.interactions + (2 * OFFSET + FLOAT) * n,
              working=blocks((OFFSET * s.interactions, 2), (INDEX * s.interactions, 5))),
    ]  # fmt: skip
    if m:
        found.append(
            Stage("features, standardised", held=FLOAT * s.items * wide, working=blocks((OFFSET * s.items * widest, 4)))
        )
    found.append(Stage("encoder with AdamW", held=4 * encoder, working=blocks((user, 2)), moved=7 * encoder))
    if s.hidden:
        weights = FLOAT * (s.items * s.hidden[0] + s.hidden[0] * s.hidden[1])
        found.append(Stage("discriminator with its moments", held=3 * weights, moved=7 * weights))
    if m and edges:
        found.append(
            Stage("semantic neighbours (8)", held=m * ((OFFSET + 2 * INDEX) * edges + (2 * OFFSET + FLOAT) * n),
                  working=blocks((OFFSET * edges, 6), (m * user, 1), (m * item, 2), (user, 1), (item, 1)))
        )  # fmt: skip
    if s.content:
        found.append(
            Stage("features beside the SVD", held=FLOAT * n * (d + s.content),
                  working=blocks((FLOAT * s.users * s.content, 2), (FLOAT * s.items * s.content, 2)))
        )  # fmt: skip
    found.append(Stage("best model", held=encoder + user + item + m * OFFSET * edges))
    found += _encoder_stages(s, user, item, edges)
    return found + _loss_stages(s, user, item, edges)


def _encoder_stages(s: Sizes, user: int, item: int, edges: int) -> list[Stage]:
    """The way forward: dropout's masks, and what each layer keeps for its gradient."""
    d, m = s.dim, s.modalities
    table = user + item
    edge = INDEX + FLOAT * d  # read for an entry of a sparse product
    found = []
    if m:
        found.append(
            Stage("modality features (2)", "forward", kept=blocks((item, m), (m * user, 1), (m * item, 1)),
                  working=blocks((item, 2 * m), (m * item, 1)),
                  moved=3 * FLOAT * s.items * sum(s.widths) + 4 * m * s.interactions * edge + 6 * m * table,
                  operations=4 * s.items * sum(s.widths) * d + 8 * m * s.interactions * d)
        )  # fmt: skip
    if m and edges and (s.attention or s.contrastive):
        found.append(
            Stage("views (8)", "forward", kept=blocks((user, m), (item, m)),
                  moved=4 * m * edges * edge, operations=8 * m * edges * d)
        )  # fmt: skip
    if m and edges and s.attention:
        sides = [pair for side in (user, item) for pair in ((side, 1), (m * side, 3), (s.heads * side, 1))]
        found.append(
            Stage("attention (9)", "forward", kept=blocks(*sides), working=blocks((user, 2), (item, 2)),
                  moved=3 * (4 * m + s.heads + 2) * table,
                  operations=6 * s.nodes * d * d * (2 * m + s.heads))
        )  # fmt: skip
    return [
        *found,
        Stage("graph layers and sums (10, 12)", "forward", kept=blocks((user, 2), (item, 2)),
              working=blocks((user, 3), (item, 3)),
              moved=4 * s.layers * s.interactions * edge + 6 * (s.layers + 2 + 2 * m) * table,
              operations=8 * s.layers * s.interactions * d),
    ]  # fmt: skip


def _infonce_stage(name: str, phase: str, s: Sizes, nodes: int, losses: int = 1) -> Stage:
    """So many losses, each over every one of `nodes` keys twice."""
    table = FLOAT * nodes * s.dim
    chunk = 256 * -(-nodes // (32 * 256))  # keys of a task, csrc/cpu/tile.h
    one_pass = nodes <= MOST_USERS  # csrc/cpu/infonce.cpp: the gradients and a block's exponentials are held
    anchors = min(s.batch, max(32, min(256, (1 << 22) // (2 * nodes))) if one_pass else 1024)
    return Stage(
        name, phase, kept=blocks((table, (4 if one_pass else 2) * losses)),
        working=blocks((table, 2), (2 * -(-nodes // chunk) * FLOAT * anchors * s.dim, 1),
                       (FLOAT * anchors * 2 * nodes * one_pass, 1)),
        moved=losses * 6 * table, operations=losses * (3 if one_pass else 4) * 2 * s.batch * 2 * nodes * s.dim,
    )  # fmt: skip


def _loss_stages(s: Sizes, user: int, item: int, edges: int) -> list[Stage]:
    """D's step, then the generator's losses, and the way back, where gradients meet what the way forward kept."""
    d, m = s.dim, s.modalities
    table = user + item
    found = []
    if s.hidden:
        found += _discriminator_stages(s, item)
    if s.contrastive and m and edges:
        found.append(_infonce_stage("InfoNCE (11)", "contrastive", s, s.users, m))
    if s.structural:
        hops = Stage("two hops", "structural", kept=blocks((user, 2), (item, 2)),
                     moved=8 * s.interactions * (INDEX + FLOAT * d), operations=16 * s.interactions * d)  # fmt: skip
        found += [hops, _infonce_stage("InfoNCE, users and two hops", "structural", s, s.users),
                  _infonce_stage("InfoNCE, items and two hops", "structural", s, s.items)]  # fmt: skip
    if s.hidden:
        wide = FLOAT * s.batch * s.hidden[0]
        found.append(
            Stage("generator's rows (6)", "generator", kept=blocks((item, m)),
                  working=blocks((item, 1), (m * item, 1), (wide, 3 * m + 4), (m * wide, 3),
                                 (FLOAT * s.batch * d, 4 * m + 5)),
                  moved=2 * FLOAT * s.items * s.hidden[0] + 4 * m * item,
                  operations=4 * m * d * s.hidden[0] * (s.items + s.batch) + 4 * m * s.batch * prod(s.hidden))
        )  # fmt: skip
    sums = [(user, m + 2), (item, m + 4)]
    if m and edges and s.attention:  # one side's attention after the other
        sums += [(m * max(user, item), 3), (s.heads * max(user, item), 1)]
    losses = tuple({stage.phase for stage in found})
    if s.balance:  # each term's way back with all that any term kept, beside the ranking's gradients
        found.append(
            Stage("every term's gradient (train.balance)", "generator", working=blocks(*sums, (user, 3), (item, 3)))
        )
    return [
        *found,
        Stage("encoder, back", "generator", working=blocks(*sums), freed=losses, moved=2 * (4 + 7 * m) * table),
    ]


def _discriminator_stages(s: Sizes, item: int) -> list[Stage]:
    """D's own step, discriminator_steps of them. Its rows of items stay until the generator's step is over."""
    (h, h2), d, m, b = s.hidden, s.dim, s.modalities, s.batch
    rows, steps = (1 + m) * b, s.discriminator_steps
    weight, wide, narrow = FLOAT * s.items * h, FLOAT * b * h, FLOAT * b * h2
    tile = max(1, TILE // h)  # items of it
    return [
        Stage("first layer of D (4)", "discriminator", kept=blocks((item, 1 + m)),
              working=blocks((item, 1), ((1 + m) * item, 1), ((1 + m) * wide, 1), (wide, 2 * m + 3),
                             (OFFSET * b * s.draws, 5), (FLOAT * b * s.draws, 4)),
              moved=steps * (4 * weight + 4 * (1 + m) * item + FLOAT * b * s.draws * h),
              operations=steps * 4 * (s.items * (1 + m) * d * h + rows * d * h + b * s.draws * h)),
        Stage("above the first layer", "discriminator",
              working=blocks(((1 + m) * wide, 1), (m * wide, 8), (wide, 3 * m + 1), (m * narrow, 7), (narrow, 3)),
              moved=12 * FLOAT * rows * (h + h2), operations=steps * 6 * (rows + m * b) * h * h2),
        Stage("gradient penalty (7)", "discriminator",
              working=blocks((FLOAT * h * h, 1), (2 * m * wide, 1)), moved=steps * 4 * weight,
              operations=steps * (s.items * h * h + 2 * s.items * h * h + 2 * m * b * h * h)),
        Stage("row lengths", "discriminator", working=blocks((2 * item, 2)), moved=steps * 3 * (1 + m) * item,
              operations=steps * 2 * s.items * d * d * (1 + m)),
        Stage("first layer's Adam, in tiles", "discriminator",
              working=blocks((FLOAT * h * min(tile, s.items), 3), (FLOAT * h * (s.items % tile), 3),
                             (FLOAT * h * h2, 4))),
    ]  # fmt: skip


def held(found: list[Stage]) -> int:
    """Bytes that a run keeps throughout."""
    return sum(stage.held for stage in found)


def live(found: list[Stage]) -> int:
    """Bytes of the tensors that are there at the worst moment: the peak under an allocator that gives every freed block
    back, as glibc does below MALLOC_MMAP_THRESHOLD_."""
    return max((held + _bytes(alive) for _, held, alive in _moments(found)), default=0)


def peak(found: list[Stage]) -> int:
    """Bytes resident at the highest: `live` with what glibc's allocator keeps of freed blocks, see SLACK."""
    return max((held + _resident(alive) for _, held, alive in _moments(found)), default=0)


def _resident(tensors: Blocks) -> int:
    small = _bytes({size: count for size, count in tensors.items() if size < GIVEN_BACK})
    return round(SLACK * small) + _bytes(tensors) - small


def _bytes(tensors: Blocks) -> int:
    return sum(size * count for size, count in tensors.items())


def _moments(found: list[Stage]) -> Iterator[tuple[Stage, int, Blocks]]:
    """Of each stage: it, the bytes held by then, and the other tensors that are there while it runs."""
    kept: dict[str, Counter[int]] = {}
    held = 0
    for stage in found:
        for phase in stage.freed:
            kept.pop(phase, None)
        held += stage.held
        kept.setdefault(stage.phase, Counter()).update(stage.kept)
        yield stage, held, sum(kept.values(), Counter(stage.working))


def largest(found: list[Stage], count: int = 3) -> str:
    """The stages that need most, as a sentence's end."""
    worst = sorted(found, key=lambda stage: stage.held + stage.passing, reverse=True)[:count]
    return ", ".join(f"{stage.name} {readable(stage.held + stage.passing)}" for stage in worst)
