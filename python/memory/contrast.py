"""The stages of a run's memory and cost that belong to contrastive losses, and what several stages have in common."""

from __future__ import annotations

from mmssl_fast.distributed.infonce import SAVED_EXPS
from mmssl_fast.ops.infonce import cpu_workspace
from mmssl_fast.tiles import TILE_ELEMENTS

from .sizes import Sizes
from .stage import FLOAT, INDEX, OFFSET, Stage, blocks
from .wire import distinct


def node_bytes(s: Sizes) -> int:
    """Bytes of the arrays of a graph for each node: offsets, degree and its root; with groups the degree is int32."""
    return 2 * OFFSET + FLOAT if s.groups == 1 else OFFSET + INDEX + FLOAT


def exchange(s: Sizes, table: int) -> list[tuple[int, int]]:
    """What the exchange of the rows of a table for its columns needs: what is sent and what is received. With groups
    also two blocks of the other groups, each as large as this rank's rows."""
    return [(table, 4 if s.groups > 1 else 2)] if s.ranks > 1 else []


def edge_bytes(s: Sizes) -> int:
    """Bytes read per entry of a sparse product. A GPU reads at least a sector of 32 bytes."""
    return INDEX + (FLOAT * s.dim if s.ranks == 1 else max(32, FLOAT * s.columns))


def infonce_stage(name: str, phase: str, s: Sizes, nodes: int, losses: int = 1) -> Stage:
    """`losses` InfoNCE losses, each with `nodes` keys in both sums of the denominator."""
    table = FLOAT * nodes * s.dim
    if s.ranks > 1:
        anchors = round(distinct(s.users, s.anchored))
        logits = anchors * nodes
        kept = 2 * logits <= SAVED_EXPS
        tile = 0 if kept else FLOAT * min(TILE_ELEMENTS, logits)
        return Stage(
            name,
            phase,
            kept=blocks((table, 2 * losses), (FLOAT * logits, 2 * losses * kept)),
            working=blocks((table, 2), (tile, 2), (FLOAT * anchors * s.dim, 3)),
            moved=s.microbatches * losses * 6 * table,
            operations=s.microbatches * losses * 4 * 2 * anchors * 2 * nodes * s.dim,
        )
    workspace = cpu_workspace(nodes, s.anchored, bfloat16=s.bfloat16)
    return Stage(
        name,
        phase,
        kept=blocks((table, (4 if workspace.one_pass else 2) * losses)),  # one pass: the gradients are kept as well
        working=blocks((table, 2), (FLOAT * workspace.shares * s.dim, 1), (FLOAT * workspace.exps, 1)),
        moved=s.microbatches * losses * 6 * table,
        operations=s.microbatches * losses * (3 if workspace.one_pass else 4) * 2 * s.anchored * 2 * nodes * s.dim,
    )


def structural_stages(s: Sizes, user: int, item: int) -> list[Stage]:
    """The structural loss of NCL: two hops from users to users and from items to items, and two contrastive losses."""
    own = s.own
    hops = Stage(
        "two hops",
        "structural",
        kept=blocks((user, 1), (item, 1)),
        working=blocks((max(user, item), 3 if s.ranks > 1 else 1)),
        moved=8 * s.microbatches * s.of_largest_group(s.interactions) * edge_bytes(s),
        operations=16 * s.microbatches * s.of_largest_group(s.interactions) * s.columns,
    )
    return [
        hops,
        infonce_stage("InfoNCE, users and two hops", "structural", s, own.users),
        infonce_stage("InfoNCE, items and two hops", "structural", s, own.items),
    ]


def view_graphs(s: Sizes) -> Stage:
    """The views of SGL, which are drawn at the start of an epoch, one after the other."""
    whole, edges = s.of_largest_group(s.interactions), s.of_largest_group(s.view_edges)
    return Stage(
        "graphs of the views",
        persistent=s.views * (2 * INDEX * edges + node_bytes(s) * s.nodes),
        working=blocks((FLOAT * whole, 2), (OFFSET * edges, 3), (INDEX * edges, 5)),
    )


def view_stages(s: Sizes, user: int, item: int) -> list[Stage]:
    """Propagation over the views of SGL, and the contrastive losses of users and items between two of them."""
    edges = s.views * s.layers * s.of_largest_group(s.view_edges)
    layers = Stage(
        "graph layers of the views",
        "views",
        kept=blocks((user, s.views), (item, s.views)),
        working=blocks((user, 2), (item, 2), *exchange(s, max(user, item))),
        moved=4 * edges * edge_bytes(s) + 6 * s.views * (s.layers + 2) * (user + item),
        operations=8 * edges * s.columns,
    )
    return [
        layers,
        infonce_stage("InfoNCE, users in two views", "views", s, s.own.users),
        infonce_stage("InfoNCE, items in two views", "views", s, s.own.items),
    ]


def cluster_stage(s: Sizes, table: int) -> Stage:
    """The clusters of NCL, which k-means finds at the start of an epoch for users and items in turn, each as a graph of
    clusters and rows."""
    return Stage(
        "clusters",
        persistent=s.cluster_bytes,
        working=blocks((table, 3), *exchange(s, table), (OFFSET * max(s.users, s.items), 8)),
    )


def prototype_stage(s: Sizes) -> Stage:
    """The losses of NCL between the anchors and the centres of clusters, of users and items."""
    logits, rows = FLOAT * s.batch * s.clusters, FLOAT * s.batch * s.dim
    return Stage(
        "prototypes",
        "prototypes",
        kept=blocks((logits, 2), (rows, 6)),
        working=blocks((logits, 1), (rows, 1)),
        moved=14 * logits,
        operations=8 * s.batch * s.clusters * s.dim,
    )
