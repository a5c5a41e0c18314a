"""The sizes that the estimate of a run's memory and cost depends on."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from math import ceil
from typing import TYPE_CHECKING
from weakref import WeakKeyDictionary

import numpy as np

from mmssl_fast import distributed
from mmssl_fast.nn.discriminator import hidden_widths

from .closed_forms import ClosedForm, closed_form, item_item_form

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset

PROPAGATIONS = {"mf": 0, "popularity": 0}  # of all id embeddings over the whole graph in a step; other systems: 1
VIEWS = 2  # of SGL
_ITEM_OFFSETS: WeakKeyDictionary[Dataset, np.ndarray] = WeakKeyDictionary()  # counted once; estimates are made often
PLANNED = ("mmssl", "lightgcn", "sgl", "ncl", "mf")  # whose steps can be planned without data


@dataclass(frozen=True)
class Sizes:
    """The sizes that the estimate depends on.

    widths: feature columns per modality; hidden: the two widths of the discriminator, None without one; content:
    feature columns of the SVD system; clustered: whether the semantic neighbours are searched by clusters; draws: order
    statistics drawn per Gumbel row; final_softmax, l2: whether the encoder and the loss have these parts; propagations:
    how often a system other than MMSSL propagates its embeddings in a step; views: number of graphs with dropped edges
    over which they are propagated as well; drop: the share of these edges; clusters: number of clusters of users, and
    of items, of which there are at most as many as users or items; ranks: number of processes that train the model
    together; groups: number of groups of them among which the graph is divided; largest_group: the interactions of the
    largest group over the mean; mask_seen: whether generated rows are 0 at seen items; closed: the tables of EASE,
    ItemKNN or UserKNN, which have no other stages; item_item: those of the item-item part; wire: bytes of a value in
    the exchange of rows and columns; feature_bytes, weight_bytes, moment_bytes: bytes of a stored value of the
    features, of the discriminator's first weight and of its moments; given_bytes: of the features in the data; mapped:
    whether the data is memory-mapped, so that interactions have no stored values; recompute: whether parts of the
    encoder are computed again in the backward pass; microbatches: parts of a batch; anchors: maximum number of anchors
    of a contrastive loss in a step, 0 for all; bfloat16: whether the operands of matrix products are rounded.
    """

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
    clustered: bool = False
    attention: bool = True
    contrastive: bool = True
    structural: bool = False
    balance: bool = False
    content: int = 0
    discriminator_steps: int = 1
    draws: int = 50
    final_softmax: bool = True
    l2: bool = True
    propagations: int = 1
    views: int = 0
    drop: float = 0.0
    clusters: int = 0
    ranks: int = 1
    groups: int = 1
    largest_group: float = 1.0
    mask_seen: bool = False
    closed: ClosedForm | None = None
    item_item: ClosedForm | None = None
    wire: int = 4
    given_bytes: int = 4
    mapped: bool = False
    feature_bytes: int = 4
    weight_bytes: int = 4
    moment_bytes: int = 4
    recompute: bool = False
    microbatches: int = 1
    anchors: int = 0
    bfloat16: bool = False

    @property
    def nodes(self) -> int:
        return self.users + self.items

    @property
    def modalities(self) -> int:
        return len(self.widths)

    @property
    def own(self) -> Sizes:
        """The same with the users and items of the first rank, which has the most."""
        return replace(self, users=-(-self.users // self.ranks), items=-(-self.items // self.ranks))

    @property
    def part(self) -> int:
        """The triples of the largest part of a batch."""
        return -(-self.batch // self.microbatches)

    @property
    def anchored(self) -> int:
        """The anchors of a part."""
        return -(-(min(self.anchors, self.batch) if self.anchors else self.batch) // self.microbatches)

    @property
    def columns(self) -> int:
        """The columns of an embedding table that a rank propagates."""
        return -(-self.dim // self.width)

    @property
    def width(self) -> int:
        """The ranks of a group, among which the columns are divided."""
        return self.ranks // self.groups

    @property
    def view_edges(self) -> int:
        """The expected edges of a view."""
        return round(self.interactions * (1 - self.drop))

    @property
    def cluster_bytes(self) -> int:
        """Bytes of the cluster of every node and of the centres, which are on every rank."""
        if not self.clusters:
            return 0
        return 8 * self.nodes + 4 * self.dim * sum(min(self.clusters, rows) for rows in (self.users, self.items))

    def of_group(self, edges: int) -> int:
        """The edges that a group has of the edges of a graph, in each direction, if all groups have equally many."""
        return -(-edges // self.groups)

    def of_largest_group(self, interactions: int) -> int:
        """The interactions that the largest group has, in each direction."""
        return min(interactions, ceil(self.largest_group * interactions / self.groups))


def with_least_memory(sizes: Sizes) -> Sizes:
    """The sizes of the same run with prepared data in float16 and all settings that save memory: train.recompute,
    train.feature_dtype, and the first weight and its moments in bfloat16. The weight needs one process."""
    return replace(
        sizes,
        given_bytes=2,
        mapped=True,
        feature_bytes=2,
        weight_bytes=2 if sizes.ranks == 1 else 4,
        moment_bytes=2,
        recompute=True,
    )


def of_system(sizes: Sizes, name: str) -> Sizes:
    """The sizes of MMSSL on some data as those of one of PLANNED on the same data, with the defaults of that system."""
    if name == "mmssl":
        return sizes
    from ..config.sections import Config  # late: it takes time, and few commands need it

    config = Config()
    plain = replace(sizes, widths=(), hidden=None, neighbours=0, clustered=False, structural=name == "ncl", l2=False)
    return replace(
        plain,
        layers=sizes.layers if PROPAGATIONS.get(name, 1) else 0,
        propagations=PROPAGATIONS.get(name, 1),
        views=VIEWS if name == "sgl" else 0,
        drop=config.sgl.drop if name == "sgl" else 0.0,
        clusters=config.ncl.clusters if name == "ncl" else 0,
    )


def smallest_groups(ranks: int, fits: Callable[[int], bool]) -> int | None:
    """The smallest number of groups of `ranks` processes with which a run fits, None if there is none."""
    return next((groups for groups in divisors(ranks) if fits(groups)), None)


def divisors(ranks: int) -> list[int]:
    """The numbers of groups that `ranks` processes can form."""
    return [groups for groups in range(1, ranks + 1) if ranks % groups == 0]


def largest_group(dataset: Dataset, ranks: int, groups: int) -> float:
    """The training interactions of the users and of the items of the largest group, together, over the mean."""
    if groups == 1 or not dataset.train.nnz:
        return 1.0
    spans = distributed.Ranks(0, ranks).divided(groups).groups.spans
    if dataset not in _ITEM_OFFSETS:
        _ITEM_OFFSETS[dataset] = np.append(0, np.cumsum(dataset.item_degrees()))
    sums = np.zeros(groups, np.int64)
    for offsets in (dataset.train.indptr, _ITEM_OFFSETS[dataset]):
        sums += [int(offsets[last]) - int(offsets[first]) for first, last in spans(len(offsets) - 1)]
    return float(sums.max() / sums.mean())


def sizes_of(dataset: Dataset, config: Config, groups: int = 0) -> Sizes:
    """The sizes of a run with this dataset and configuration, in the current processes. groups: another number of
    groups than theirs."""
    from ..data.layouts.prepared import NAME as PREPARED  # late: an estimate without data needs no reader

    model, loss, ranks = config.model, config.loss, distributed.current()
    groups = groups or ranks.groups.size
    adversarial = loss.adversarial and model.system == "mmssl"
    by_user = config.train.sample_over == "users"  # without replacement
    first, second = model.hidden or hidden_widths(dataset.n_items)
    content = sum(features.shape[1] for features in dataset.features.values())
    return Sizes(
        dataset.n_users,
        dataset.n_items,
        dataset.train.nnz,
        tuple(features.shape[1] for features in dataset.features.values()) if model.system == "mmssl" else (),
        dim=model.dim,
        hidden=(first, second) if adversarial else None,
        batch=min(config.train.batch, dataset.n_users) if by_user else config.train.batch,
        layers=model.layers if PROPAGATIONS.get(model.system, 1) else 0,
        heads=model.heads,
        neighbours=model.neighbours if model.system == "mmssl" else 0,
        clustered=model.neighbours_method == "ivf",
        attention=model.eta != 0,
        contrastive=loss.contrastive,
        structural=loss.structural if model.system == "mmssl" else model.system == "ncl",
        balance=config.train.balance,
        content=content if model.system == "svd" and config.svd.content else 0,
        discriminator_steps=config.train.discriminator_steps,
        final_softmax=model.final_softmax,
        l2=bool(loss.lambda_l2) and model.system == "mmssl",
        propagations=PROPAGATIONS.get(model.system, 1),
        views=VIEWS if model.system == "sgl" else 0,
        drop=config.sgl.drop if model.system == "sgl" else 0.0,
        clusters=config.ncl.clusters if model.system == "ncl" else 0,
        ranks=ranks.size,
        groups=groups,
        largest_group=largest_group(dataset, ranks.size, groups),
        mask_seen=loss.mask_seen,
        closed=closed_form(dataset, config),
        item_item=item_item_form(dataset, config),
        wire=2 if config.distributed.wire == "bfloat16" else 4,
        given_bytes=max((features.itemsize for features in dataset.features.values()), default=4),
        mapped=dataset.layout == PREPARED,
        feature_bytes=2 if config.train.feature_dtype == "float16" else 4,
        weight_bytes=2 if config.optimiser.first_layer_weight == "bfloat16" else 4,
        moment_bytes=2 if config.optimiser.first_layer_moments == "bfloat16" and not config.train.cuda_graph else 4,
        recompute=config.train.recompute == "on",
        microbatches=config.train.microbatches,
        anchors=config.loss.anchors,
        bfloat16=config.train.precision == "bfloat16",
    )
