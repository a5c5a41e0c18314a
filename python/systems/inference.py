"""Embeddings of users and items that a model was not trained on. Nothing is trained.

A system says in a class attribute `inference`, a subclass of `Inference`, how it computes them. `UserTower` and
`ItemTower` are the results as modules: from a history to the user's embedding, and from features to the item's.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, distributed, propagate
from mmssl_fast.distributed import ONE, Ranks
from mmssl_fast.nn.features import empty_columns, missing_rows

if TYPE_CHECKING:
    from ..config.sections import Config

ROWS = 1 << 14  # items whose features are converted at once
Tensors = dict[str, Tensor]
# The names that the systems of this package give to parameters with a row per user or item.
ROWS_OF = {
    "users": "users",
    "user_embedding": "users",
    "user_confidence": "users",
    "preferences": "users",
    "prototypes": "users",
    "items": "items",
    "item_embedding": "items",
    "item_confidence": "items",
    "item_bias": "items",
}
# Those that are no embeddings: their neutral value is not 0, or their size is not arbitrary.
NOT_EMBEDDINGS = frozenset({"user_confidence", "item_confidence", "item_bias"})


@dataclass(frozen=True)
class Scaling:
    """How the raw features of each modality become the inputs of a system: (x − mean) · scale, in float64, and 0 for
    missing rows.

    mean, scale: {modality: float64 [d_m]}, in the order of the modalities of the data. Without model.standardise they
    are 0 and 1. The columns of `mmssl_fast.nn.features.empty_columns` have the scale 0.
    """

    mean: Tensors
    scale: Tensors

    @classmethod
    def of(cls, features: Mapping[str, np.ndarray], standardise: bool, ranks: Ranks = ONE) -> Scaling:
        """Mean and deviation over the items with features, like `mmssl_fast.nn.features.standardised`. With several
        ranks, each reads a part of the items, and all have the same bits as one."""
        mean, scale = {}, {}
        for name, raw in features.items():
            centre, factor = torch.zeros(raw.shape[1], dtype=torch.float64), torch.ones(raw.shape[1]).double()
            if standardise:
                count = max(1, int(_by_block(raw, ranks, _count)[:, 0].sum()))
                centre = sum(_by_block(raw, ranks, _sum), centre) / count
                squares = _by_block(raw, ranks, partial(_squares, centre=centre))
                deviation = (sum(squares, torch.zeros_like(centre)) / count).sqrt()
                factor = torch.where(empty_columns(centre, deviation), 0.0, 1 / deviation)
            mean[name], scale[name] = centre, factor
        return cls(mean, scale)

    def __call__(self, name: str, raw: Tensor) -> Tensor:
        """The inputs float32 [n, d_m] of raw features [n, d_m]."""
        scaled = ((raw.double() - self.mean[name]) * self.scale[name]).float()
        return torch.where(missing_rows(raw), 0, scaled)


def _by_block(raw: np.ndarray, ranks: Ranks, of: Callable[[Tensor], Tensor]) -> Tensor:
    """`of` for the rows of every block that are not missing, in float64, [blocks, d_m] on every rank. A rank reads the
    blocks that begin with one of its items. The blocks do not depend on the number of ranks, nor does the result."""
    starts, (first, last) = range(0, len(raw), ROWS), ranks.span(len(raw))
    found = torch.zeros(len(starts), raw.shape[1], dtype=torch.float64)
    for block, start in enumerate(starts):
        if first <= start < last:
            found[block] = of(_known(raw[start : start + ROWS]))
    return distributed.all_sum(found, ranks)


def _known(raw: np.ndarray) -> Tensor:
    part = torch.from_numpy(raw).double()
    missing = missing_rows(part)[:, 0]
    return part[~missing] if missing.any() else part


def _count(part: Tensor) -> Tensor:
    """The number of rows, once for every column."""
    return part.new_full(part.shape[1:], len(part))


def _sum(part: Tensor) -> Tensor:
    return part.sum(0)


def _squares(part: Tensor, centre: Tensor) -> Tensor:
    return (part - centre).square().sum(0)


@dataclass(frozen=True)
class Known:
    """What is known about a trained model. parameters: System.parameters. items: embeddings [I, d]. graph: training
    interactions. content: `Inference.content` of the items [I, w]; w = 0 for a system without features. All on the
    CPU."""

    parameters: Tensors
    items: Tensor
    graph: InteractionGraph
    content: Tensor


class Inference:
    """How a system embeds users and items that it was not trained on. This base class can do neither.

    rows: {parameter, or the part of its name before a dot: "users" or "items"} for the parameters with a row per user
    or item. no_users, no_items: the reason why the system cannot do it, the end of a sentence; "" if it can. A subclass
    changes them, and defines the methods below. Methods must not depend on anything but their arguments and config.
    """

    rows: ClassVar[dict[str, str]] = ROWS_OF
    no_users = "the system does not define how a history becomes an embedding"
    no_items = "the system does not use features"

    def __init__(self, config: Config) -> None:
        self.config = config
        if config.model.item_item:
            self.no_users = self.no_items = "with model.item_item this is not implemented; train with model.item_item=0"

    def weights(self, parameters: Tensors) -> Tensors:
        """The parameters that `content` and `cold` read, by any name."""
        return {}

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        """What the system computes from the features of single items, [n, w]. features: [n, d_m], after scaling.
        present: [n, 1] of every modality, 1 or 0 for a missing row, whose features are 0."""
        raise NotImplementedError

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        """The embeddings [n, d] of items without interactions, from their content. Equals System.cold_items."""
        raise NotImplementedError

    def by_modality(self, weights: Tensors, content: Tensor, widths: Sequence[int]) -> list[Tensor] | None:
        """`cold` as a sum: the part [n, d] of each modality, in their order. widths: columns of the features of each.

        None if the modalities cannot be told apart from the content, or are not added.
        """
        return None

    def tables(self, known: Known) -> Tensors:
        """What `users` reads: sums over the layers [I, w] and weights, by any name."""
        raise NotImplementedError

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        """The embeddings [n, d] of users with the histories crow [n + 1], col [nnz], as in SeenRows: what the layers
        compute for a user from its items, without an id embedding, which only training gives."""
        raise NotImplementedError


class FixedCatalogue(Inference):
    """For systems of which only the users and items of the training data have embeddings: EASE, ItemKNN and UserKNN,
    whose embeddings come from the matrix of interactions, not from parameters."""

    no_users = "this is not implemented for this system"
    no_items = no_users


class LayerSums(Inference):
    """For h_u = F(mean of the layers 0..L of LightGCN): a user without an id embedding has

        h_u = F(Σ_{i∈N_u} t_i / sqrt|N_u|),  t_i = Σ_{l<L} x_i^l / (sqrt|N_i| (L + 1)).

    A subclass defines `starts` and, if F is not the identity, `mapped`. Items without interactions count as |N_i| = 1,
    and their id embedding as 0.
    """

    no_users = ""

    def starts(self, known: Known, warm: Tensor) -> tuple[Tensor, Tensor]:
        """x⁰ of all users and items. warm: bool [I, 1], items with interactions."""
        return known.parameters["users"], torch.where(warm, known.parameters["items"], 0)

    def mapped(self, tables: Tensors, users: Tensor) -> Tensor:
        return users

    def tables(self, known: Known) -> Tensors:
        graph, layers = known.graph, self.config.model.layers
        users, items = self.starts(known, (graph.item_degree > 0)[:, None])
        total = torch.zeros_like(items)
        for _ in range(layers):
            total += items
            users, items = propagate(graph, items, "users", "both"), propagate(graph, users, "items", "both")
        return {"sums": total * by_root(graph.item_degree) / (layers + 1)}

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        mean = bag(tables["sums"], crow, col) * by_root(crow.diff())
        return self.mapped(tables, mean)


class UserTower(nn.Module):
    """From histories to user embeddings, as a module with buffers only.

    forward: crow int64 [n + 1] and col int64 [nnz], the items of every user in ascending order, as in SeenRows. Returns
    float32 [n, d]. A user without items has a zero embedding.
    """

    def __init__(self, inference: Inference, known: Known) -> None:
        super().__init__()
        self.inference = inference
        self.names = _register(self, inference.tables(known))

    def forward(self, crow: Tensor, col: Tensor) -> Tensor:
        tables = {name: getattr(self, buffer) for name, buffer in self.names.items()}
        users = self.inference.users(tables, crow, col)
        return torch.where((crow.diff() > 0)[:, None], users, 0)


class ItemTower(nn.Module):
    """From raw features to item embeddings, as a module with buffers only.

    forward: one tensor [n, d_m] per modality, in the order of `modalities`. A row of NaN is a missing one. Returns
    float32 [n, d]: factor * x + shift, where x is `cold` of their content, or 0 for an item without features in any
    modality. `rescale` sets factor and shift, which are 1 and 0 in a new tower.
    """

    factor: Tensor
    shift: Tensor

    def __init__(self, inference: Inference, parameters: Tensors, scaling: Scaling) -> None:
        super().__init__()
        self.inference = inference
        self.modalities = tuple(scaling.mean)
        weights = inference.weights(parameters)
        self.names = _register(self, weights)
        self.dtype = next((tensor.dtype for tensor in weights.values()), torch.float32)
        self.means = _register(self, {f"mean.{name}": mean for name, mean in scaling.mean.items()})
        self.scales = _register(self, {f"scale.{name}": scale for name, scale in scaling.scale.items()})
        self.rescale(torch.ones((), dtype=self.dtype), torch.zeros(1, dtype=self.dtype))

    def rescale(self, factor: Tensor, shift: Tensor) -> None:
        """Use another factor (0-dim) and shift ([d])."""
        self.register_buffer("factor", factor.to(self.dtype))
        self.register_buffer("shift", shift.to(self.dtype))

    @property
    def widths(self) -> dict[str, int]:
        """{modality: number of columns of its raw features}."""
        return {name: len(getattr(self, self.means[f"mean.{name}"])) for name in self.modalities}

    def forward(self, *features: Tensor) -> Tensor:
        return self.scaled(self.cold(self.content(*features)))

    def scaled(self, x: Tensor) -> Tensor:
        """factor * x + shift of embeddings [n, d]; 0 where x is 0."""
        return torch.where((x != 0).any(1, keepdim=True), self.factor * x + self.shift, 0)

    def content(self, *features: Tensor) -> Tensor:
        """Inference.content of raw features."""
        missing = [missing_rows(raw) for raw in features]
        scaled = [
            torch.where(gone, 0, (raw.double() - getattr(self, mean)) * getattr(self, scale)).to(self.dtype)
            for raw, gone, mean, scale in zip(features, missing, self.means.values(), self.scales.values(), strict=True)
        ]
        return self.inference.content(self._weights(), scaled, [(~gone).to(self.dtype) for gone in missing])

    def cold(self, content: Tensor) -> Tensor:
        """Inference.cold of a content; 0 where the content is 0, of an item without features."""
        return torch.where((content != 0).any(1, keepdim=True), self.inference.cold(self._weights(), content), 0)

    def by_modality(self, content: Tensor) -> list[Tensor] | None:
        """Inference.by_modality of a content. With one modality, its part is the whole embedding."""
        widths = list(self.widths.values())
        if len(widths) == 1:
            return [self.cold(content)]
        return self.inference.by_modality(self._weights(), content, widths)

    def _weights(self) -> Tensors:
        return {name: getattr(self, buffer) for name, buffer in self.names.items()}


def _register(module: nn.Module, tensors: Tensors) -> dict[str, str]:
    """{name: attribute} of these tensors as buffers. The name of a buffer contains no dots."""
    names = {name: name.replace(".", "_") for name in tensors}
    for name, buffer in names.items():
        module.register_buffer(buffer, tensors[name].detach())
    return names


@torch.no_grad()
def content_of(tower: ItemTower, features: Mapping[str, np.ndarray]) -> Tensor:
    """Inference.content of raw features {modality: [n, d_m]}, a block of items at a time."""
    blocks = zip(*(_blocks(features[name]) for name in tower.modalities), strict=True)
    return torch.cat([tower.content(*block) for block in blocks])


def _blocks(raw: np.ndarray) -> Iterable[Tensor]:
    """At least one block, so that no items result in an empty table."""
    for first in range(0, max(1, len(raw)), ROWS):
        yield torch.from_numpy(raw[first : first + ROWS])


def inference_of(kind: Any, config: Config) -> Inference:
    """The Inference of a system's class, or the base class, which can do nothing, if it names none."""
    return getattr(kind, "inference", Inference)(config)


def bag(table: Tensor, crow: Tensor, col: Tensor) -> Tensor:
    """The sums [n, w] of the rows of table [I, w] over every history."""
    return F.embedding_bag(col.long(), table, crow, mode="sum", include_last_offset=True)


def blocks(x: Tensor, widths: Sequence[int]) -> list[Tensor]:
    """x [n, w] as a sum: for each block of columns, x with 0 in all other columns."""
    found, first = [], 0
    for width in widths:
        part = torch.zeros_like(x)
        part[:, first : first + width] = x[:, first : first + width]
        found.append(part)
        first += width
    return found


def by_root(degree: Tensor) -> Tensor:
    """1/sqrt(degree) [n, 1], 1 for a degree of 0."""
    return degree.clamp(min=1).float().rsqrt()[:, None]


def affine(weights: Tensors, name: str, x: Tensor) -> Tensor:
    """The layer nn.Linear of this name. It may have no bias."""
    return F.linear(x, weights[f"{name}.weight"], weights.get(f"{name}.bias"))


def starting_with(parameters: Tensors, *prefixes: str) -> Tensors:
    """The parameters whose names start with one of these prefixes."""
    return {name: tensor for name, tensor in parameters.items() if name.startswith(prefixes)}
