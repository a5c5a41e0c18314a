"""MMSSL's encoder: raw item features and the interaction graph to embeddings (Eq. 2, 8, 9, 10, 12)."""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from torch import Tensor, nn

from mmssl_fast.graph import NORMS, InteractionGraph, SeenRows
from mmssl_fast.modes import is_traced, outside_modes
from mmssl_fast.nn.attention import ModalityAttention
from mmssl_fast.nn.half_linear import half_linear
from mmssl_fast.nn.neighbours import neighbour_graph, semantic_neighbours
from mmssl_fast.ops.propagate import lightgcn, propagate
from mmssl_fast.ops.unit_rows import unit_rows


@dataclass(frozen=True)
class Encoded:
    """What one pass of the encoder yields; lists run over the modalities in the order they were given.

    Attributes:
        users, items: h_u [U, d], h_i [I, d] of Eq. 12; the score of (u, i) is `users[u] @ items[i]`.
        modal_users, modal_items: f_u^m [U, d], f_i^m [I, d] of Eq. 2, from which Eq. 3 makes its relation rows.
        view_users, view_items: e_u^m [U, d], e_i^m [I, d] of Eq. 8; empty where they were neither asked for nor needed.
    """

    users: Tensor
    items: Tensor
    modal_users: list[Tensor]
    modal_items: list[Tensor]
    view_users: list[Tensor]
    view_items: list[Tensor]

    def detach(self) -> Encoded:
        """The same values outside the graph of gradients."""
        values = (getattr(self, field.name) for field in fields(self))
        return Encoded(
            *([x.detach() for x in value] if isinstance(value, list) else value.detach() for value in values)
        )


# So that torch.export, torch.func and the like take an Encoded apart and put it together again.
torch.export.register_dataclass(Encoded, serialized_type_name="mmssl_fast.nn.Encoded")


class MMSSL(nn.Module):
    """The encoder for any number of modalities.

    The modality features are buffers that stay out of the state dict (they are data); the semantic neighbours are in
    it, so a restored model scores as the saved one did.

    Args:
        graph: training interactions, U users x I items.
        features: modality name → raw item features [I, d_m], finite; kept in `feature_dtype`.
        dim: latent width d (paper: 2³ to 2⁹, 64).
        layers: graph layers L of Eq. 10 (paper: 1 to 4, best 2 or 3).
        heads: attention heads H of Eq. 9.
        eta: weight η of the modality-aware part of the zero-order embeddings in Eq. 10; 0 leaves Eq. 9 out.
        omega: weight ω of the modality features in the final embeddings, Eq. 12.
        dropout: rate after the feature layers of Eq. 2.
        norm: degree scaling of Eq. 2 and 10: "receiver" (1/sqrt|N| of the receiving node, the paper's), "both"
            (LightGCN's) or "none".
        neighbours: k of Eq. 8, semantic neighbours a user and modality; 0 leaves Eq. 8 and 9 out (Ē = 0).
        exclude_seen_neighbours: whether a user's training items are left out of its semantic neighbours.
        final_softmax: pass the last graph layer of Eq. 10 through a softmax over its features, the items' side reading
            the users' result. Not in the paper; the released code has it and it helps accuracy. False gives Eq. 10 as
            printed.
        standardise: bring every feature column to mean 0 and variance 1 over the items before Eq. 2. Not in the paper.
            Raw features share a large common part (on TikTok nine tenths of the visual features' length) that makes all
            items alike; False takes them as they are.
        feature_dtype: what the features are kept in, None for the default dtype. torch.float16 halves them, rounds
            them to 11 bits and widens them a block at a time.

    Raises:
        ValueError: an argument outside its range, no modality, or features whose shape or values do not fit; it names
            the modality and the values.
    """

    def __init__(
        self,
        graph: InteractionGraph,
        features: dict[str, Tensor],
        *,
        dim: int = 64,
        layers: int = 2,
        heads: int = 4,
        eta: float = 0.36,
        omega: float = 0.1,
        dropout: float = 0.2,
        norm: str = "receiver",
        neighbours: int = 10,
        exclude_seen_neighbours: bool = True,
        final_softmax: bool = True,
        standardise: bool = True,
        feature_dtype: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        _check_settings(layers, neighbours, norm, dropout)
        _check_features(features, graph.n_items)
        self.graph, self.modalities = graph, tuple(features)
        self.dim, self.layers, self.eta, self.omega, self.norm = dim, layers, eta, omega, norm
        self.neighbours, self.exclude_seen_neighbours = neighbours, exclude_seen_neighbours
        self.final_softmax = final_softmax
        for m, (name, raw) in enumerate(features.items()):
            prepared = standardised(raw.detach()) if standardise else raw.detach()
            kept = prepared.to(feature_dtype or torch.get_default_dtype())
            if not kept.isfinite().all():
                raise ValueError(f"MMSSL: features of {name!r} are too large for {kept.dtype}")
            self.register_buffer(f"features_{m}", kept, persistent=False)
        self.projections = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features.values())
        self.dropout = nn.Dropout(dropout)
        self.user_embedding = nn.Parameter(torch.empty(graph.n_users, dim))
        self.item_embedding = nn.Parameter(torch.empty(graph.n_items, dim))
        self.attention = ModalityAttention(dim=dim, heads=heads)
        self.register_buffer("semantic_neighbours", torch.full((len(features), graph.n_users, neighbours), -1))
        # (which contents of semantic_neighbours, their graphs); made with the neighbours, not when first used, since
        # torch.export and torch.compile see no values to make them of
        self._neighbour_graphs: tuple[tuple, list[InteractionGraph]] | None = None
        self.register_load_state_dict_post_hook(_after_load)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, zero biases, and the semantic neighbours these give."""
        for projection in self.projections:
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        nn.init.xavier_uniform_(self.user_embedding)
        nn.init.xavier_uniform_(self.item_embedding)
        self.attention.reset_parameters()
        self.refresh_neighbours()

    @torch.no_grad()
    def refresh_neighbours(self) -> None:
        """Read the semantic neighbours of Eq. 8 off the present relation matrices Â^m (Eq. 3), dropout off."""
        if not self.neighbours:
            return
        graph = self.interactions()
        seen = SeenRows(graph.crow, graph.col) if self.exclude_seen_neighbours else None
        training = self.training
        self.eval()
        modal_users, modal_items = self.modality_features()
        self.train(training)
        for m, (users, items) in enumerate(zip(modal_users, modal_items, strict=True)):
            self.semantic_neighbours[m] = semantic_neighbours(users, items, self.neighbours, seen)
        self._semantic_graphs()

    def modality_features(self) -> tuple[list[Tensor], list[Tensor]]:
        """Eq. 2: f_u^m [U, d] and f_i^m [I, d] of every modality; one propagation serves them all, side by side."""
        raw = [getattr(self, f"features_{m}") for m in range(len(self.modalities))]
        pairs = zip(self.projections, raw, strict=True)
        projected = torch.cat([self.dropout(_projected(x, fc)) for fc, x in pairs], 1)
        users = propagate(self.interactions(), projected, "users", self.norm)
        items = propagate(self.interactions(), users, "items", self.norm)
        return list(users.split(self.dim, 1)), list(items.split(self.dim, 1))

    def views(self) -> tuple[list[Tensor], list[Tensor]]:
        """Eq. 8: e_u^m [U, d] and e_i^m [I, d], sums of id embeddings over the semantic neighbours (0: zeros)."""
        if not self.neighbours:
            count = len(self.modalities)
            return [torch.zeros_like(self.user_embedding)] * count, [torch.zeros_like(self.item_embedding)] * count
        graphs = self._semantic_graphs()
        return (
            [propagate(graph, self.item_embedding, "users") for graph in graphs],
            [propagate(graph, self.user_embedding, "items") for graph in graphs],
        )

    def high_order(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """Eq. 10 from the zero-order embeddings Ê⁰ [U, d], [I, d]: the mean over layers 0..L."""
        graph = self.interactions()
        if not self.final_softmax or not self.layers:
            return lightgcn(graph, users, items, self.layers, self.norm)
        sum_users, sum_items = users, items
        for layer in range(self.layers):
            users = propagate(graph, items, "users", self.norm)
            if layer == self.layers - 1:
                users = users.softmax(1)
            items = propagate(graph, users, "items", self.norm)
            if layer == self.layers - 1:
                items = items.softmax(1)
            sum_users, sum_items = sum_users + users, sum_items + items
        return sum_users / (self.layers + 1), sum_items / (self.layers + 1)

    def forward(self, views: bool = True) -> Encoded:
        """Eq. 2, 8, 9, 10 and 12 over the whole graph; without `views` those of Eq. 8 only where Eq. 9 reads them."""
        modal_users, modal_items = self.modality_features()
        attends = bool(self.neighbours and self.eta)
        view_users, view_items = self.views() if views or attends else ([], [])
        users, items = self.user_embedding, self.item_embedding
        if attends:
            users = users + self.eta * unit_rows(self.attention(torch.stack(view_users)))
            items = items + self.eta * unit_rows(self.attention(torch.stack(view_items)))
        users, items = self.high_order(users, items)
        for f_u, f_i in zip(modal_users, modal_items, strict=True):
            users, items = users + self.omega * unit_rows(f_u), items + self.omega * unit_rows(f_i)
        return Encoded(users, items, modal_users, modal_items, view_users, view_items)

    def interactions(self) -> InteractionGraph:
        """The interaction graph, on the parameters' device."""
        graph = self.graph.to(self.user_embedding.device)
        if graph is not self.graph and not self.user_embedding.is_meta:  # what is on "meta" does not come back
            self.graph = graph
        return graph

    def _semantic_graphs(self) -> list[InteractionGraph]:
        neighbours, known = self.semantic_neighbours, self._neighbour_graphs
        if known is not None and (torch.compiler.is_compiling() or is_traced(neighbours) or neighbours.is_meta):
            return [graph.to(neighbours.device) for graph in known[1]]
        which = neighbours.device, neighbours.data_ptr(), 0 if neighbours.is_inference() else neighbours._version
        if known is None or known[0] != which:
            with outside_modes():
                known = which, [neighbour_graph(items, self.graph.n_items) for items in neighbours]
            self._neighbour_graphs = known
        return known[1]

    def _apply(self, fn, recurse: bool = True) -> MMSSL:
        super()._apply(fn, recurse)
        device = self.user_embedding.device
        if device.type != "meta":
            self.graph = self.graph.to(device)
            if self._neighbour_graphs is not None:
                which, graphs = self._neighbour_graphs
                self._neighbour_graphs = which, [graph.to(device) for graph in graphs]
        return self

    def extra_repr(self) -> str:
        return (
            f"{self.graph.n_users} users x {self.graph.n_items} items, modalities={', '.join(self.modalities)}, "
            f"dim={self.dim}, layers={self.layers}, eta={self.eta}, omega={self.omega}, norm={self.norm!r}, "
            f"neighbours={self.neighbours}, final_softmax={self.final_softmax}"
        )


def _projected(x: Tensor, fc: nn.Linear) -> Tensor:
    return fc(x) if x.dtype == fc.weight.dtype else half_linear(x, fc.weight, fc.bias)


def _after_load(module: MMSSL, _) -> None:
    module._neighbour_graphs = None
    if module.neighbours and not module.semantic_neighbours.is_meta and not is_traced(module.semantic_neighbours):
        module._semantic_graphs()


def standardised(raw: Tensor) -> Tensor:
    """(raw - raw.mean(0)) / raw.std(0, correction=0) in float64, a constant column becoming 0; [I, d_m]."""
    raw = raw.to(torch.float64)
    centred = raw - raw.mean(0)
    deviation = centred.square().mean(0).sqrt()
    constant = deviation <= 1e-9 * raw.abs().amax(0)
    return torch.where(constant, 0.0, centred / torch.where(constant, 1.0, deviation))


def _check_settings(layers: int, neighbours: int, norm: str, dropout: float) -> None:
    if layers < 0 or neighbours < 0:
        raise ValueError(f"MMSSL: layers and neighbours must not be negative, got {layers} and {neighbours}")
    if norm not in NORMS:
        raise ValueError(f"MMSSL: norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"MMSSL: dropout must lie in [0, 1), got {dropout}")


def _check_features(features: dict[str, Tensor], n_items: int) -> None:
    if not features:
        raise ValueError("MMSSL: features is empty, at least one modality is needed")
    for name, raw in features.items():
        if raw.ndim != 2 or raw.shape[0] != n_items or raw.shape[1] < 1:
            raise ValueError(
                f"MMSSL: features of {name!r} have shape {tuple(raw.shape)}, expected [{n_items}, at least 1]"
            )
        if not torch.isfinite(raw).all():
            row = int((~torch.isfinite(raw)).any(1).nonzero()[0])
            raise ValueError(f"MMSSL: features of {name!r} are not finite in row {row}")
