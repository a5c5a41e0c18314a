"""GRCN (Wei et al., MM 2020): graph edges are weighted and pruned by the user's preference for the item features."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast import InteractionGraph
from mmssl_fast.ops.sampled_dot import sampled_dot
from mmssl_fast.ops.unit_rows import unit_rows

from ..data import Dataset
from .base import ModuleSystem, Recommender, table
from .inference import Inference, Tensors, affine, blocks, starting_with

if TYPE_CHECKING:
    from ..config.sections import Config

ROUTINGS = 3
_ops = torch.ops.mmssl_fast


class GRCN(Recommender):
    """h = [Σ_{l=0..L} x^l ; y^1 ; …; y^M] for users and items. σ is LeakyReLU.

    For modality m, f_i = unit_rows(σ(W_m f_i^m)). The user prototype p_u has unit length and is updated by three rounds
    of routing over the user's items:

        p_u ← unit_rows(p_u + Σ_{i∈N_u} a_ui f_i),  a_ui = softmax over N_u of p_u·f_i.

    Then y_u = p_u + σ(Σ a_ui f_i) and y_i = f_i + σ(Σ a_iu p_u), where a_iu is the softmax over N_i. On the refined
    graph

        x^{l+1}_u = σ(Σ_i w_ui x^l_i),  w_ui = max(0, max_m c_i^m a_ui^m),  and likewise w_iu with c_u^m.

    x⁰ is the id embedding scaled to unit length, c is the learnt confidence of a node in a modality, and L is
    model.layers. An edge is pruned (weight 0) if no modality has a positive confidence.

    Every part has width model.dim. Differences from the published code: confidences start at 1, because random initial
    values would prune some nodes permanently; there is no edge dropout.
    """

    rows: Tensor
    columns: Tensor

    def __init__(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        super().__init__(graph)
        features, dim, self.layers = self.take_features(dataset, config), config.model.dim, config.model.layers
        self.users, self.items = table(graph.n_users, dim), table(graph.n_items, dim)
        self.prototypes = nn.ParameterList(table(graph.n_users, dim) for _ in features)
        self.project = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features)
        self.user_confidence = nn.Parameter(torch.ones(graph.n_users, len(features)))
        self.item_confidence = nn.Parameter(torch.ones(graph.n_items, len(features)))
        rows = torch.arange(graph.n_users, device=graph.device).repeat_interleave(graph.user_degree)
        self.register_buffer("rows", rows, persistent=False)  # the user of every edge; columns: its item
        self.register_buffer("columns", graph.col.long(), persistent=False)

    def forward(self) -> tuple[Tensor, Tensor]:
        user_parts, item_parts, to_users, to_items = [], [], [], []
        for prototypes, f in zip(self.prototypes, self._projected(), strict=True):
            p = unit_rows(prototypes)
            for _ in range(ROUTINGS):
                p = unit_rows(p + self._to_users(self._by_user(self._affinities(p, f)), f))
            affinities = self._affinities(p, f)
            a_users, a_items = self._by_user(affinities), self._by_item(affinities)
            to_p, to_f = self._to_users(a_users, f), self._to_items(a_items, p)
            user_parts.append(p + F.leaky_relu(to_p))
            item_parts.append(f + F.leaky_relu(to_f))
            to_users.append(a_users)
            to_items.append(a_items)
        w_users = (torch.stack(to_users, 1) * F.embedding(self.columns, self.item_confidence)).amax(1).relu()
        w_items = (torch.stack(to_items, 1) * F.embedding(self.rows, self.user_confidence)).amax(1).relu()
        x = users, items = unit_rows(self.users), unit_rows(self.items)
        for _ in range(self.layers):
            x = F.leaky_relu(self._to_users(w_users, x[1])), F.leaky_relu(self._to_items(w_items, x[0]))
            users, items = users + x[0], items + x[1]
        return torch.cat([users, *user_parts], 1), torch.cat([items, *item_parts], 1)

    def cold_items(self) -> Tensor:
        """h_i without neighbours and id embedding: [0 ; f_i of every modality]."""
        return torch.cat([torch.zeros_like(self.items), *self._projected()], 1)

    def _projected(self) -> list[Tensor]:
        return [unit_rows(F.leaky_relu(self.projected(m, layer))) for m, layer in enumerate(self.project)]

    def _affinities(self, p: Tensor, f: Tensor) -> Tensor:
        """exp(p_u·f_i) of every edge [nnz]. Cosines are at most 1, so the softmax needs no subtraction of the
        maximum."""
        return sampled_dot(self.graph.crow, self.graph.col, p, f).exp()

    def _by_user(self, weights: Tensor) -> Tensor:
        return weights / F.embedding(self.rows, self._to_users(weights, torch.ones_like(self.items[:, :1])))[:, 0]

    def _by_item(self, weights: Tensor) -> Tensor:
        return weights / F.embedding(self.columns, self._to_items(weights, torch.ones_like(self.users[:, :1])))[:, 0]

    # The backward ops of sampled_dot compute sums over neighbours with edge weights, and are differentiable in the
    # weights, which `propagate` is not.
    def _to_users(self, weights: Tensor, items: Tensor) -> Tensor:
        return _ops.sampled_dot_bwd_u(self.graph.crow, self.graph.col, weights, items)

    def _to_items(self, weights: Tensor, users: Tensor) -> Tensor:
        return _ops.sampled_dot_bwd_v(self.graph.crow, self.graph.col, weights, users, self.graph.n_items)


class GRCNInference(Inference):
    """The content of an item is [f_i of every modality]."""

    no_users = "the weights of a user's edges depend on prototypes and confidences that are trained"
    no_items = ""

    def weights(self, parameters: Tensors) -> Tensors:
        return starting_with(parameters, "project.")

    def content(self, weights: Tensors, features: Sequence[Tensor], present: Sequence[Tensor]) -> Tensor:
        return torch.cat(
            [unit_rows(F.leaky_relu(affine(weights, f"project.{m}", x) * present[m])) for m, x in enumerate(features)],
            1,
        )

    def cold(self, weights: Tensors, content: Tensor) -> Tensor:
        return torch.cat([content.new_zeros(len(content), self.config.model.dim), content], 1)

    def by_modality(self, weights: Tensors, content: Tensor, widths: Sequence[int]) -> list[Tensor]:
        projected = [len(weights[f"project.{m}.weight"]) for m in range(len(widths))]
        return [self.cold(weights, part) for part in blocks(content, projected)]


class GRCNSystem(ModuleSystem):
    """GRCN with BPR (Eq. 14) and AdamW."""

    reads_features = True
    model_type = GRCN
    inference = GRCNInference
