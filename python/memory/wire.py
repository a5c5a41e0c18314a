"""What a rank receives from the others in a training step and at the start of an epoch, by stage of the plan.

docs/tutorials/several_machines.md explains the terms. They are complete for all systems that several ranks can train,
apart from control messages of a few bytes, validation, and checkpoints.
"""

from __future__ import annotations

from .sizes import Sizes
from .stage import DOUBLE, FLOAT

ROUNDS = 10  # of k-means: systems.ncl.ROUNDS, which this layer does not import
ID = 8  # bytes of an id of a user, an item or a cluster on the wire


def received(s: Sizes) -> dict[str, int]:
    """{name of the stage: bytes}, forward and backward together. All 0 with one rank."""
    p, d, m, b, parts = s.ranks, s.dim, s.modalities, s.batch, s.microbatches
    if p == 1:
        return {}
    # An id that occurs twice in a part of a batch is sent once.
    users, items = parts * distinct(s.users, b / parts), parts * distinct(s.items, 2 * b / parts)
    count = (min(s.anchors, b) if s.anchors else b) / parts  # anchors of a part
    c, other_groups = s.width, (s.groups - 1) / s.groups
    exchanged = 4 * s.wire * s.nodes * d * (c - 1) / (p * c)  # a table to columns and back, in both directions
    # One propagation of a table in one direction, and back: the columns of the nodes of the other groups.
    gathered = s.wire * s.nodes * s.columns * other_groups
    summed = 2 * (p - 1) / p  # of an all-reduce, per byte of the tensor
    wide = FLOAT * b * s.hidden[0] if s.hidden else 0
    views = m > 0 and s.neighbours > 0 and (s.attention or s.contrastive)
    attends = s.attention and s.neighbours > 0
    between = 2 * s.layers * gathered  # all layers
    layers = s.propagations * (exchanged + between)
    if m:  # in, unless they are already in columns, out, and the sums and maxima of the softmax of the last layer
        softmax = 6 * FLOAT * s.nodes * (c - 1) / p * (s.final_softmax and s.layers > 0)
        layers = exchanged * (1 + attends) / 2 + softmax + between
    small = sum(s.widths) * d + m * d + ((1 + s.heads) * d * d if s.attention and m else 0)  # replicated parameters
    user_anchors, item_anchors = (
        summed * (2 * d + 3) * FLOAT * parts * distinct(rows, count) for rows in (s.users, s.items)
    )
    found = {
        "modality features (Eq. 2)": m * exchanged * (s.items + s.nodes) / (2 * s.nodes)
        + 2 * s.wire * s.nodes * -(-m * d // c) * other_groups,
        "views (Eq. 8)": (exchanged * (1 + m) / 2 + 2 * m * gathered) * views,
        "graph layers and sums (Eq. 10, 12)": layers + exchanged / 2 * (m > 0 and not views),
        "rows of the batch": summed * FLOAT * d * (users + items + 3 * b * s.l2) + _between_groups(s),
        "first layer of the discriminator (Eq. 4)": s.discriminator_steps * summed * (1 + m) * (wide + FLOAT * b * d),
        "gradient penalty (Eq. 7)": s.discriminator_steps * summed * m * (wide + DOUBLE * b),
        "row lengths": s.discriminator_steps * summed * (1 + m) * DOUBLE * b,
        "generator loss (Eq. 7)": summed * m * (wide + (2 * FLOAT * d + DOUBLE + FLOAT) * b),
        "InfoNCE (Eq. 11)": m * user_anchors,
        "encoder, backward pass": summed * FLOAT * small if m else 0,
    }
    if s.structural:
        found["two hops"] = parts * (exchanged + 4 * gathered)
        found["InfoNCE, users and two hops"] = user_anchors
        found["InfoNCE, items and two hops"] = item_anchors
    if s.views:
        found["graph layers of the views"] = s.views * (exchanged + between)
        found["InfoNCE, users in two views"] = user_anchors
        found["InfoNCE, items in two views"] = item_anchors
    if s.clusters:
        found["prototypes"] = summed * FLOAT * d * 2 * b  # ids that occur twice are sent twice
    if not s.hidden:
        for name in (
            "first layer of the discriminator (Eq. 4)",
            "gradient penalty (Eq. 7)",
            "row lengths",
            "generator loss (Eq. 7)",
        ):
            found.pop(name)
    if not (s.contrastive and m and s.neighbours):
        found.pop("InfoNCE (Eq. 11)")
    return {name: round(count) for name, count in found.items() if count}


def received_in_epoch(s: Sizes) -> dict[str, int]:
    """{name of the stage: bytes} at the start of an epoch. For MMSSL, of one in which the semantic neighbours are
    searched; for NCL, of one after the warm-up. All 0 with one rank."""
    p, d, m, c = s.ranks, s.dim, s.modalities, s.width
    if p == 1:
        return {}
    of_others, other_groups = (p - 1) / p, (s.groups - 1) / s.groups
    found = {}
    if s.views:  # with groups: whether an edge of other users is kept, and the degrees of the nodes of other groups
        found["graphs of the views"] = s.views * other_groups * (s.interactions / s.groups + FLOAT * s.nodes)
    if s.clusters:
        sides = [(rows, min(s.clusters, rows)) for rows in (s.users, s.items)]
        found["clusters"] = sum(
            2 * FLOAT * k * d * of_others  # the first centres
            + (ROUNDS + 1) * ID * rows * of_others  # the nearest centre of every row
            + ROUNDS * (s.wire * (rows + k) * d * of_others / p + FLOAT * k * d * of_others)  # the means
            for rows, k in sides
        )
    if m and s.neighbours:
        # The modality features without dropout, the items that are compared, and the lists of neighbours.
        features = s.wire * d * (s.items + s.nodes) * (c - 1) / (p * c) * m
        features += s.wire * s.nodes * -(-m * d // c) * other_groups
        found["semantic neighbours (Eq. 8)"] = (
            features + m * (FLOAT * s.items * d + ID * s.users * s.neighbours) * of_others
        )
    return {name: round(count) for name, count in found.items() if count}


def _between_groups(s: Sizes) -> float:
    """The positive and negative items of the batch, and for the relation rows all items of its users, which a rank
    receives from other groups."""
    b, parts = s.batch, s.microbatches
    rows = 0.0
    if s.hidden:  # the discriminator's rows are made for all parts together, the generator's for each
        users = distinct(s.users, b) + (parts * distinct(s.users, b / parts) if s.mask_seen and parts > 1 else 0)
        rows = 2 * FLOAT * users * s.interactions / s.users
    return (32 * b + rows) * (s.groups - 1) / s.groups


def distinct(n: int, draws: float) -> float:
    """The expected number of distinct values in `draws` uniform draws from n."""
    return n * (1 - (1 - 1 / n) ** draws)
