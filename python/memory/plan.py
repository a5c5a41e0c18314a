"""Memory and cost estimate of a run, from its sizes: persistent bytes, temporary bytes, memory traffic and operations
of every stage. `--memory`, `benchmark --plan` and the check before training use it.

The estimate is for float32 on the CPU and counts tensors only, without the memory of Python, torch and other libraries.
Everything is counted except the overhead of the allocator, which is an empirical factor, SLACK.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import replace
from math import prod

from mmssl_fast.tiles import TILE_ELEMENTS

from ..config.byte_size import readable
from .closed_forms import closed_form_stages, item_item_stages
from .contrast import (
    cluster_stage,
    edge_bytes,
    exchange,
    infonce_stage,
    node_bytes,
    prototype_stage,
    structural_stages,
    view_graphs,
    view_stages,
)
from .sizes import Sizes
from .stage import FLOAT, INDEX, OFFSET, Blocks, Stage, blocks, total
from .wire import received, received_in_epoch

# glibc returns freed blocks of at least 32 MiB (its largest mmap threshold) to the system. It keeps smaller ones, and
# because torch requests aligned blocks, a freed block rarely fits a request of another size. SLACK, the resident bytes
# per live byte of such blocks, is empirical: 1.6 to 1.9 on small runs.
RETURNED_BLOCK, SLACK = 32 << 20, 1.75

PROBES = 8  # clusters searched for every user, where the features gather in clusters


def stages(s: Sizes) -> list[Stage]:
    """All stages of a run with Adam-type optimisers and float32 parameters, in the order of allocation.

    With several ranks, those of the first, which has the most rows. Graphs and the batch are on every rank; tables of
    users and items, lists of semantic neighbours, features and the discriminator's first layer are divided. With
    groups, graphs are divided as well, and of memory-mapped interactions nothing stays in memory.
    """
    n, d, m, own = s.nodes, s.dim, s.modalities, s.own
    widest, wide = max(s.widths, default=0), sum(s.widths)
    user, item = FLOAT * own.users * d, FLOAT * own.items * d  # bytes of one embedding table
    encoder = user + item + FLOAT * (wide * d + (2 + s.heads) * d * d)
    own_edges = s.of_largest_group(s.interactions)
    edges, listed = s.users * s.neighbours, own.users * s.neighbours  # of one modality, and of this rank's users
    result = [
        Stage("interactions", persistent=_interactions(s), loaded=True),
        Stage("features as given", persistent=s.given_bytes * s.items * wide, loaded=True),
        Stage(
            "graph and its transpose",
            persistent=2 * INDEX * own_edges + node_bytes(s) * n,
            working=blocks((OFFSET * own_edges, 2), (INDEX * own_edges, 5)),
        ),
    ]
    if s.closed:
        return result + closed_form_stages(s.closed, own.users, own.items)
    if m:
        result.append(
            Stage(
                "features, standardised",
                persistent=s.feature_bytes * own.items * wide,
                working=blocks((OFFSET * own.items * widest, 4)),
            )
        )
    result.append(Stage("encoder with AdamW", persistent=4 * encoder, working=blocks((user, 2)), moved=7 * encoder))
    if s.hidden:
        first, rest = own.items * s.hidden[0], FLOAT * s.hidden[0] * s.hidden[1]
        stored = (s.weight_bytes + 2 * s.moment_bytes) * first + 3 * rest
        # Its weight is made in float32, in two layouts, before there are moments.
        made = blocks((max(0, 2 * FLOAT * first - stored), 1))
        result.append(Stage("discriminator with its moments", persistent=stored, working=made, moved=7 * stored // 3))
    if m and edges:
        read = edges if s.groups == 1 else s.of_group(edges)
        result.append(
            Stage(
                "semantic neighbours (Eq. 8)",
                persistent=m * (OFFSET * listed + 2 * INDEX * s.of_group(edges) + node_bytes(s) * n),
                working=blocks(
                    *((OFFSET * read, 6), (m * user, 1), (m * item, 2), (user, 1), (item, 1)),
                    *(_clustered(s, item) if s.clustered else ()),
                ),
            )
        )
    if s.content:
        result.append(
            Stage(
                "features beside the SVD",
                persistent=FLOAT * n * (d + s.content),
                working=blocks((FLOAT * s.users * s.content, 2), (FLOAT * s.items * s.content, 2)),
            )
        )
    if s.views:
        result.append(view_graphs(s))
    if s.clusters:
        result.append(cluster_stage(s, max(user, item)))
    result.append(Stage("best model", persistent=encoder + user + item + m * OFFSET * listed + s.cluster_bytes))
    if s.item_item:
        result += item_item_stages(s.item_item, s.users, s.items, d)
    result += _encoder_stages(s, user, item, edges)
    result += _loss_stages(s, user, item, edges)
    by_stage, in_epoch = received(s), received_in_epoch(s)
    if "rows of the batch" in by_stage:
        result.insert(-1, Stage("rows of the batch", "generator"))
    return [
        replace(stage, received=by_stage.get(stage.name, 0), received_in_epoch=in_epoch.get(stage.name, 0))
        for stage in result
    ]


def _interactions(s: Sizes) -> int:
    """The training interactions in the data: indices, values unless they are memory-mapped, and offsets."""
    held = 0 if s.mapped and s.groups > 1 else s.interactions
    return (INDEX + FLOAT * (not s.mapped)) * held + 3 * OFFSET * s.users


def _clustered(s: Sizes, item: int) -> list[tuple[int, int]]:
    """What the clustered search for semantic neighbours needs: the items by cluster, the pairs of a user and a searched
    cluster in both orders, and the seen items of these pairs."""
    return [(item, 1), (OFFSET * s.users * PROBES, 5), (OFFSET * s.interactions, 7), (OFFSET * s.items, 4)]


def _encoder_stages(s: Sizes, user: int, item: int, edges: int) -> list[Stage]:
    """The forward pass of the encoder: dropout masks and the activations kept for the backward pass."""
    d, m, own = s.dim, s.modalities, s.own
    table, columns, summed = user + item, s.columns, s.of_largest_group(s.interactions)
    edge = edge_bytes(s)
    masks = [(FLOAT * s.items * d, 1)] if s.ranks > 1 else []  # every rank draws the dropout of all items
    result = []
    if m:
        result.append(
            Stage(
                "modality features (Eq. 2)",
                "forward",
                kept=blocks((item, m * (not s.recompute))),
                working=blocks((item, 2 * m), (m * user, 1), (m * item, 2), *masks, *exchange(s, m * max(user, item))),
                moved=3 * FLOAT * own.items * sum(s.widths) + 4 * m * summed * edge + 6 * m * table,
                operations=4 * own.items * sum(s.widths) * d + 8 * m * summed * columns,
            )
        )
    if m and edges and (s.attention or s.contrastive):
        result.append(
            Stage(
                "views (Eq. 8)",
                _freed_first(s),
                kept=blocks((user, m), (item, m)),
                working=blocks(*exchange(s, max(user, item))),
                moved=4 * m * s.of_group(edges) * edge,
                operations=8 * m * s.of_group(edges) * columns,
            )
        )
    if m and edges and s.attention:
        sides = [pair for side in (user, item) for pair in ((side, 1), (m * side, 3), (s.heads * side, 1))]
        result.append(
            Stage(
                "attention (Eq. 9)",
                "forward",
                kept=blocks(*(() if s.recompute else sides)),
                working=blocks((user, 2), (item, 2)),
                moved=3 * (4 * m + s.heads + 2) * table,
                operations=6 * own.nodes * d * d * (2 * m + s.heads),
            )
        )
    return [*result, _layers(s, user, item)]


def _freed_first(s: Sizes) -> str:
    """The phase of what the backward pass frees before that of the attention. With parts of a batch, the results of the
    encoder are its arguments."""
    return "forward" if s.microbatches > 1 else "layers"


def _layers(s: Sizes, user: int, item: int) -> Stage:
    """The layers of the graph. Of systems without features nothing is kept, because the ranking loss reads some rows of
    the result only. Over several ranks, tables in rows are exchanged for tables of the same size in columns."""
    m, table, columns, summed = s.modalities, user + item, s.columns, s.of_largest_group(s.interactions)
    if m:  # with the modality features, which Eq. 12 adds
        kept = [(user, 2), (item, 2), (m * user, 1), (m * item, 1)]
        working = [(user, 3), (item, 3), *exchange(s, max(user, item))]
    elif not s.propagations:  # the embeddings themselves are ranked
        kept, working = [], []
    elif s.ranks == 1:
        kept, working = [], [(user, 2), (item, 2)]
    else:  # the columns, their means, and a layer; with groups also the layer before, and blocks of two groups
        kept, working = [], [(user, 4 if s.groups > 1 else 3), (item, 4 if s.groups > 1 else 3)]
    return Stage(
        "graph layers and sums (Eq. 10, 12)",
        _freed_first(s),
        kept=blocks(*kept),
        working=blocks(*working),
        moved=4 * s.layers * summed * edge_bytes(s) + 6 * (s.layers + 2 + 2 * m) * table,
        operations=8 * s.layers * summed * columns,
    )


def _loss_stages(s: Sizes, user: int, item: int, edges: int) -> list[Stage]:
    """The discriminator step, the losses of the generator, and the backward pass, where gradients and kept activations
    are live together."""
    d, m, own = s.dim, s.modalities, s.own
    table = user + item
    result = []
    if s.contrastive and m and edges:
        result.append(infonce_stage("InfoNCE (Eq. 11)", "contrastive", s, own.users, m))
    if s.structural:
        result += structural_stages(s, user, item)
    if s.views:
        result += view_stages(s, user, item)
    if s.clusters:
        result.append(prototype_stage(s))
    if s.hidden:
        wide = FLOAT * s.part * s.hidden[0]
        result.append(
            Stage(
                "generator loss (Eq. 7)",
                "generator",
                kept=blocks((item, m)),
                working=blocks(
                    (item, 1),
                    (m * item, int(s.weight_bytes == FLOAT)),
                    (wide, 3 * m + 4),
                    (m * wide, 3),
                    (FLOAT * s.part * d, 4 * m + 5),
                ),
                moved=s.microbatches * (2 * s.weight_bytes * own.items * s.hidden[0] + 4 * m * item),
                operations=4 * m * d * s.hidden[0] * (s.microbatches * own.items + s.batch)
                + 4 * m * s.batch * prod(s.hidden),
            )
        )
    if s.hidden:  # after its last step, the relation rows of the discriminator are freed
        result = [*_discriminator_stages(s, *s.hidden, item), replace(result[0], freed=("discriminator",)), *result[1:]]
    # Without features: the gradient of the result and a layer; that of the embeddings is counted with them.
    sums = [(user, m + 2), (item, m + 4)] if m else [(user, 2), (item, 2)] if s.propagations else [(max(user, item), 2)]
    if m and edges and s.attention and not s.recompute:  # users and items one after the other
        sums += [(m * max(user, item), 3), (s.heads * max(user, item), 1)]
    sums += exchange(s, m * max(user, item)) if m else []
    if s.microbatches > 1:  # the gradients of the views are added up before the backward pass
        sums += [(user, m), (item, m)]
    losses = (*{stage.phase for stage in result}, "layers")
    if s.balance:  # one backward pass per term: the graph stays, plus the gradients of the ranking term
        result.append(
            Stage("every term's gradient (train.balance)", "generator", working=blocks(*sums, (user, 3), (item, 3)))
        )
    return [
        *result,
        Stage(
            "encoder, backward pass", "generator", working=blocks(*sums), freed=losses, moved=2 * (4 + 7 * m) * table
        ),
        Stage(
            "validation",
            working=blocks((user, 2), (item, 2), (OFFSET * s.items, 12)),  # embeddings, and copies of them if better
            freed=(*losses, "forward", "generator"),
        ),
    ]


def _discriminator_stages(s: Sizes, h: int, h2: int, item: int) -> list[Stage]:
    """The discriminator steps."""
    d, m, b, items = s.dim, s.modalities, s.batch, s.own.items
    rows, steps, parts = (1 + m) * b, s.discriminator_steps, s.microbatches
    weight, wide, narrow = s.weight_bytes * items * h, FLOAT * s.part * h, FLOAT * s.part * h2
    stored = s.weight_bytes < FLOAT  # converted in tiles; the columns at the drawn entries are copied
    tile = max(1, TILE_ELEMENTS // h)  # items per tile of TiledAdam
    return [
        Stage(
            "first layer of the discriminator (Eq. 4)",
            "discriminator",
            kept=blocks((item, 1 + m)),
            working=blocks(
                (item, 1),
                ((1 + m) * item, int(not stored)),
                (FLOAT * h * min(items, b * s.draws), int(stored)),
                ((1 + m) * wide, 1),
                (wide, 2 * m + 3),
                (FLOAT * b * h, int(parts > 1)),  # for the gradient of the weight, which is formed after all parts
                (OFFSET * b * s.draws, 5),
                (FLOAT * b * s.draws, 4),
            ),
            moved=steps * (4 * parts * (weight + (1 + m) * item) + FLOAT * b * s.draws * h),
            operations=steps * 4 * (parts * items * (1 + m) * d * h + rows * d * h + b * s.draws * h),
        ),
        Stage(
            "other layers of the discriminator (Eq. 4)",
            "discriminator",
            working=blocks(((1 + m) * wide, 1), (m * wide, 8), (wide, 3 * m + 1), (m * narrow, 7), (narrow, 3)),
            moved=12 * FLOAT * rows * (h + h2),
            operations=steps * 6 * (rows + m * b) * h * h2,
        ),
        Stage(
            "gradient penalty (Eq. 7)",
            "discriminator",
            working=blocks((FLOAT * h * h, 1), (2 * m * wide, 1)),
            moved=steps * 4 * parts * weight,
            operations=steps * (3 * parts * items * h * h + 2 * m * b * h * h),
        ),
        Stage(
            "row lengths",
            "discriminator",
            working=blocks((2 * item, 2)),
            moved=steps * 3 * (1 + m) * item,
            operations=steps * 2 * items * d * d * (1 + m),
        ),
        Stage(
            "Adam of the first layer",
            "discriminator",
            working=blocks((FLOAT * h * min(tile, items), 3), (FLOAT * h * (items % tile), 3), (FLOAT * h * h2, 4)),
        ),
    ]


def persistent_bytes(run: list[Stage]) -> int:
    """Bytes that are allocated for the whole run."""
    return sum(stage.persistent for stage in run)


def live(run: list[Stage]) -> int:
    """Peak bytes of live tensors.

    This is the peak resident memory if the allocator returns every freed block, as glibc does with a small
    MALLOC_MMAP_THRESHOLD_.
    """
    return max((persistent + total(tensors) for persistent, tensors in _timeline(run)), default=0)


def peak(run: list[Stage]) -> int:
    """Peak resident bytes: `live` plus the freed blocks that glibc keeps, see SLACK."""
    return max((persistent + _resident(tensors) for persistent, tensors in _timeline(run)), default=0)


def _resident(tensors: Blocks) -> int:
    small = total({size: count for size, count in tensors.items() if size < RETURNED_BLOCK})
    return round(SLACK * small) + total(tensors) - small


def _timeline(run: list[Stage]) -> Iterator[tuple[int, Blocks]]:
    """For each stage: the persistent bytes so far, and the other tensors that are live during the stage."""
    kept: dict[str, Counter[int]] = {}
    persistent = 0
    for stage in run:
        for phase in stage.freed:
            kept.pop(phase, None)
        persistent += stage.persistent
        kept.setdefault(stage.phase, Counter()).update(stage.kept)
        yield persistent, sum(kept.values(), Counter(stage.working))


def largest(run: list[Stage], count: int = 3) -> str:
    """The largest stages with their sizes, for an error message."""
    ordered = sorted(run, key=lambda stage: stage.persistent + stage.temporary, reverse=True)
    return ", ".join(f"{stage.name} {readable(stage.persistent + stage.temporary)}" for stage in ordered[:count])
