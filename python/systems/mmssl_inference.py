"""MMSSL for users and items that it was not trained on."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, SeenRows, cosine_topk, modality_attention, propagate
from mmssl_fast.nn.neighbours import neighbour_graph
from mmssl_fast.ops.unit_rows import unit_rows

from .inference import Inference, Known, Tensors, affine, bag, by_root, starting_with


def scale_of_present(parts: Sequence[Tensor]) -> Tensor:
    """[n, 1]: M / (number of these M parts [n, d] that are not 0); 0 if there is none. The sum of unit parts, times
    this, is as long for an item of which a modality is missing as for others."""
    present = torch.stack([(part != 0).any(1, keepdim=True).float() for part in parts]).sum(0)
    return torch.where(present > 0, len(parts) / present.clamp(min=1), 0)


class MMSSLInference(Inference):
    """The content of an item is [W_m f_i^m + b_m of every modality], 0 for a missing one. A new item is ω Σ_m of its
    unit parts (Eq. 12), times M over the number of modalities that it has.

    A new user has no id embedding. Its modality features (Eq. 2), its semantic neighbours and their views (Eq. 8 and 9)
    and its layers (Eq. 10) are computed from the items of the history as in training. The embeddings of the items and
    of the other users do not change.
    """

    no_users = no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "projections.")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return torch.cat([affine(weights, f"projections.{m}", x) * present[m] for m, x in enumerate(features)], 1)

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        return torch.stack(self.by_modality(weights, content, ())).sum(0)

    def by_modality(self, weights: Tensors, content: Tensor, widths: Sequence[int]) -> list[Tensor]:
        parts = [unit_rows(part) for part in content.split(self.config.model.dim, 1)]
        scale = self.config.model.omega * scale_of_present(parts)
        return [scale * part for part in parts]

    def tables(self, known: Known) -> Tensors:
        graph, model, parameters = known.graph, self.config.model, known.parameters
        warm = (graph.item_degree > 0)[:, None]
        users = parameters["user_embedding"]
        ids = parameters["item_embedding"]  # of all items: a cold item can be a semantic neighbour
        items = torch.where(warm, ids, 0)
        modal_users = self._masked(graph, known.content, propagate(graph, known.content, "users", model.norm))
        tables = {"content": known.content, "modal": propagate(graph, modal_users, "items", model.norm), "ids": ids}
        if self._attends():
            attention = {name: parameters[f"attention.{name}"] for name in ("wq", "wk", "wo")}
            tables |= attention
            graphs = [neighbour_graph(found, graph.n_items) for found in parameters["semantic_neighbours"]]
            views = [
                [propagate(one, ids, "users") for one in graphs],
                [propagate(one, users, "items") for one in graphs],
            ]
            by_views = [self._fused(torch.stack(side), attention) for side in views]
            users, items = users + by_views[0], torch.where(warm, items + by_views[1], 0)
        sums = torch.zeros_like(items)
        for layer in range(model.layers):
            if layer == model.layers - 1 and model.final_softmax:
                tables["last"] = items * self._item_weights(graph.item_degree)
            else:
                sums += items
            received = propagate(graph, items, "users", model.norm)
            # With final_softmax, the items receive what the users have just received.
            items = propagate(graph, received if model.final_softmax else users, "items", model.norm)
            users = received
        tables["sums"] = sums * self._item_weights(graph.item_degree)
        tables["item_weights"] = self._item_weights(graph.item_degree)
        return tables

    def users(self, tables: Tensors, crow: Tensor, col: Tensor) -> Tensor:
        model, degree = self.config.model, crow.diff()
        modal = self._received(tables["content"] * tables["item_weights"], crow, col)
        total = self._received(tables["sums"], crow, col)
        if "last" in tables:
            total = total + self._received(tables["last"], crow, col).softmax(1)
        if "wq" in tables:
            views = [self._view(tables, u, i, crow, col) for u, i in self._by_modality(modal, tables["modal"])]
            total = total + self._fused(torch.stack(views), tables)
        parts = torch.stack([unit_rows(part) for part in modal.split(model.dim, 1)]).sum(0)
        return torch.where((degree > 0)[:, None], total / (model.layers + 1) + model.omega * parts, 0)

    def _masked(self, graph: InteractionGraph, content: Tensor, users: Tensor) -> Tensor:
        """The modality features of users, scaled for missing items as in MMSSL.modality_features."""
        parts = list(users.split(self.config.model.dim, 1))
        for m, part in enumerate(content.split(self.config.model.dim, 1)):
            present = (part != 0).any(1, keepdim=True).float()
            if not present.all():
                whole, known = (
                    propagate(graph, x, "users", self.config.model.norm) for x in (torch.ones_like(present), present)
                )
                parts[m] = parts[m] * torch.where(known > 0, whole / known.clamp(min=1e-30), 0)
        return torch.cat(parts, 1)

    def _attends(self) -> bool:
        return bool(self.config.model.neighbours and self.config.model.eta)

    def _fused(self, views: Tensor, attention: Tensors) -> Tensor:
        """η ē/‖ē‖ of views [M, n, d]."""
        wq, wk, wo = (attention[name] for name in ("wq", "wk", "wo"))
        fused = modality_attention(views, wq, wk, wo, self.config.model.heads)
        return self.config.model.eta * unit_rows(fused)

    def _by_modality(self, *tables: Tensor) -> Iterator[tuple[Tensor, ...]]:
        return zip(*(table.split(self.config.model.dim, 1) for table in tables), strict=True)

    def _view(self, tables: Tensors, modal_users: Tensor, modal_items: Tensor, crow: Tensor, col: Tensor) -> Tensor:
        """Eq. 8: the sum of the ids of the semantic neighbours, over the root of their number."""
        seen = SeenRows(crow, col) if self.config.model.exclude_seen_neighbours else None
        found = cosine_topk(modal_users.contiguous(), modal_items.contiguous(), self.config.model.neighbours, seen)[1]
        there = (found >= 0)[:, :, None]
        rows = torch.where(there, tables["ids"][found.clamp(min=0)], 0)
        return rows.sum(1) * by_root(there.sum(1)[:, 0])

    def _item_weights(self, degree: Tensor) -> Tensor:
        """[I, 1]: the part of the norm that belongs to the item."""
        return by_root(degree) if self.config.model.norm == "both" else torch.ones(len(degree), 1)

    def _received(self, table: Tensor, crow: Tensor, col: Tensor) -> Tensor:
        """Σ over the history, with the part of the norm that belongs to the user."""
        received = bag(table, crow, col)
        return received if self.config.model.norm == "none" else received * by_root(crow.diff())
