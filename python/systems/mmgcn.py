"""MMGCN (Wei et al., MM 2019): one graph network per modality, with shared id embeddings."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, cast

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, propagate
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .inference import Inference, Known, Tensors, affine, bag, starting_with

if TYPE_CHECKING:
    from ..config.sections import Config


class MMGCN(Recommender):
    """h = mean over modalities of x^{m,L}, where for users and items

        x^{m,0} = unit_rows([p^m ; W_m f^m]),  x^{l+1} = σ(G_l (mean over neighbours of x^l) + σ(H_l x^l) + e),

    p^m are the users' preferences for modality m, e the id embeddings shared by all modalities, and σ is LeakyReLU.
    This is the element-wise combination of the paper. L is model.layers.
    """

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        features, dim, layers = self.take_features(dataset, config), config.model.dim, config.model.layers
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.preferences = nn.ParameterList(table(graph.n_users, dim) for _ in features)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features)

        def stack() -> nn.ModuleList:
            return nn.ModuleList(nn.ModuleList(nn.Linear(dim, dim) for _ in range(layers)) for _ in features)

        self.gather, self.keep = stack(), stack()

    def forward(self) -> tuple[Tensor, Tensor]:
        users, items = zip(*(self.modality(m) for m in range(len(self.project))), strict=True)
        return torch.stack(users).mean(0), torch.stack(items).mean(0)

    def modality(self, m: int) -> tuple[Tensor, Tensor]:
        """x^{m,L} of the users and the items."""
        users, items = unit_rows(self.preferences[m]), self._projected(m)
        for gather, keep in self._layers(m):
            to_users, to_items = gather(self._mean(items, "users")), gather(self._mean(users, "items"))
            users = F.leaky_relu(to_users + F.leaky_relu(keep(users)) + self.users)
            items = F.leaky_relu(to_items + F.leaky_relu(keep(items)) + self.items)
        return users, items

    def cold_items(self) -> Tensor:
        """h_i without neighbours and id: the mean over modalities of x^{m,L}, what is received and e being 0."""
        outputs = []
        for m in range(len(self.project)):
            x = self._projected(m)
            for gather, keep in self._layers(m):
                x = F.leaky_relu(gather.bias + F.leaky_relu(keep(x)))
            outputs.append(x)
        return torch.stack(outputs).mean(0)

    def _projected(self, m: int) -> Tensor:
        return unit_rows(self.projected(m, self.project[m]))

    def _layers(self, m: int) -> Iterator[tuple[nn.Linear, nn.Linear]]:
        """(G_l, H_l) of every layer. torch does not declare what a ModuleList contains."""
        gather, keep = cast(Iterable[nn.Linear], self.gather[m]), cast(Iterable[nn.Linear], self.keep[m])
        return zip(gather, keep, strict=True)

    def _mean(self, x: Tensor, to: str) -> Tensor:
        # propagate divides by sqrt(degree) of the receiver; dividing once more makes it a mean.
        return propagate(self.graph, x, to) * self.graph.inv_sqrt_degree(to)[:, None]


class MMGCNInference(Inference):
    """The content of an item is [x^{m,0} of every modality]. A new user has neither preferences nor an id: x^{m,0} and
    e are 0."""

    no_users = no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "project.", "gather.", "keep.")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [unit_rows(affine(weights, f"project.{m}", x) * present[m]) for m, x in enumerate(features)], 1
        )

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        parts = content.split(self.config.model.dim, 1)
        return torch.stack(
            [self._layers(weights, m, [None] * self.config.model.layers, x) for m, x in enumerate(parts)]
        ).mean(0)

    def _layers(self, weights: Tensors, m: int, received: Sequence[Tensor | None], x: Tensor) -> Tensor:
        """x^{m,L} without an id, from x^{m,0} and the mean of the neighbours in every layer, None for no neighbours."""
        for layer, mean in enumerate(received):
            name = f"{m}.{layer}"
            gathered = weights[f"gather.{name}.bias"] if mean is None else affine(weights, f"gather.{name}", mean)
            x = F.leaky_relu(gathered + F.leaky_relu(affine(weights, f"keep.{name}", x)))
        return x

    def tables(self, known: Known) -> Tensors:
        graph, parameters = known.graph, known.parameters
        tables = starting_with(parameters, "gather.", "keep.")
        ids = torch.where((graph.item_degree > 0)[:, None], parameters["items"], 0)

        def mean(x: Tensor, to: str) -> Tensor:
            return propagate(graph, x, to) * graph.inv_sqrt_degree(to)[:, None]

        for m, items in enumerate(known.content.split(self.config.model.dim, 1)):
            users = unit_rows(parameters[f"preferences.{m}"])
            for layer in range(self.config.model.layers):
                tables[f"x.{m}.{layer}"] = items
                name = f"{m}.{layer}"
                to_users, to_items = (
                    affine(parameters, f"gather.{name}", mean(x, to)) for x, to in ((items, "users"), (users, "items"))
                )
                users, items = (
                    F.leaky_relu(to + F.leaky_relu(affine(parameters, f"keep.{name}", x)) + own)
                    for to, x, own in ((to_users, users, parameters["users"]), (to_items, items, ids))
                )
        return tables

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        degree, model = crow.diff().clamp(min=1)[:, None], self.config.model
        count = len({name.split(".")[1] for name in tables if name.startswith("x.")})
        parts = []
        for m in range(count):
            received = [bag(tables[f"x.{m}.{layer}"], crow, col) / degree for layer in range(model.layers)]
            parts.append(self._layers(tables, m, received, received[0].new_zeros(len(degree), model.dim)))
        return torch.stack(parts).mean(0)


class MMGCNSystem(ModuleSystem):
    """MMGCN with BPR (Eq. 14) and AdamW."""

    reads_features = True
    model_type = MMGCN
    inference = MMGCNInference
