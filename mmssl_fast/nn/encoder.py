"""The encoder of MMSSL: from item features and the interaction graph to embeddings (Eq. 2, 8, 9, 10, 12)."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from itertools import pairwise
from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from mmssl_fast import distributed
from mmssl_fast.distributed import ONE, Exchange, Ranks, start_columns_to_rows, start_rows_to_columns
from mmssl_fast.distributed.propagate import lightgcn_columns as lightgcn
from mmssl_fast.distributed.propagate import propagate_columns as propagate
from mmssl_fast.graph import NORMS, InteractionGraph
from mmssl_fast.modes import is_traced, outside_modes
from mmssl_fast.nn.attention import ModalityAttention
from mmssl_fast.nn.clustered import Search, clustered_neighbours, search_method
from mmssl_fast.nn.encoded import Encoded
from mmssl_fast.nn.features import check_features, missing_rows, standardised
from mmssl_fast.nn.half_linear import apply_linear
from mmssl_fast.nn.neighbours import neighbour_graph, seen_by_own, semantic_neighbours
from mmssl_fast.nn.row_blocks import in_row_blocks
from mmssl_fast.ops.derivatives import is_transforming
from mmssl_fast.ops.modality_attention import modality_attention
from mmssl_fast.ops.unit_rows import unit_rows


class MMSSL(nn.Module):
    """The encoder of MMSSL (WWW 2023) for any number of modalities: equations 2, 8, 9, 10 and 12.

    Equals a feature projection per modality propagated on the graph (equation 2), sums over semantic neighbours
    (equation 8) fused by attention (equation 9), LightGCN layers (equation 10), and the weighted sum of equation 12.

    The features are buffers that are not in the state dict, because they are data. The semantic neighbours are in the
    state dict, so that a restored model gives the same scores.

    Args:
        graph: training interactions of U users and I items.
        features: modality name → item features [I, d_m], finite, except that a row of NaN is a missing one. An item
            without features in a modality is left out of equation 2: it contributes nothing to its users, whose sums
            are scaled to what the weights of all their items would add up to. It still gets a modality feature from
            its users. A user none of whose items has features gets none, and no semantic neighbours.
        dim: embedding width d (paper: 64).
        layers: number of graph layers L of equation 10 (paper: 1 to 4, best 2 or 3).
        heads: number of attention heads H of equation 9.
        eta: weight η of the modality-aware embeddings in equation 10. 0 leaves equation 9 out.
        omega: weight ω of the modality features in equation 12.
        dropout: dropout rate after the feature projections of equation 2.
        norm: degree scaling of equations 2 and 10: "receiver" (the paper), "both" (LightGCN) or "none".
        neighbours: number k of semantic neighbours per user and modality in equation 8. 0 leaves equations 8 and 9 out.
        exclude_seen_neighbours: whether the training items of a user are excluded from its semantic neighbours.
        neighbours_method: "exact"; "ivf" for the clustered search of `clustered_neighbours`, which finds at least
            95% of the neighbours with a small part of the work on large catalogues, and needs a single process; "auto":
            "ivf" from 10^10 pairs of users and items on, otherwise "exact".
        final_softmax: apply a softmax over the features to the last graph layer of equation 10; the items then receive
            the result of the users. It is not in the paper, but in the released code, and improves accuracy.
        standardise: scale every feature column to mean 0 and variance 1 over the items. It is not in the paper. Without
            it, a large common component (on TikTok nine tenths of the length of the visual features) makes all items
            similar.
        feature_dtype: dtype in which the features are stored. None is the default dtype. torch.float16 halves their
            memory and rounds them to 11 bits; they are converted block by block.
        recompute: compute the attention of equation 9 in blocks of rows, and it and the projections of equation 2 again
            in the backward pass, instead of keeping what they need. It saves most of the memory of the forward pass,
            and costs the time of these parts once more. Results may round differently. No effect under torch.compile,
            torch.func and autocast.
        ranks: the processes. Each has its rows of the embeddings and features and the semantic neighbours of its users,
            and `forward` returns its rows. `shared_parameters` and, without groups, the graphs are on every rank.

    Raises:
        ValueError: an argument is out of range, there is no modality, or the shape or values of features are invalid.

    Example:
        >>> from mmssl_fast.nn import MMSSL
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> features = {"image": torch.randn(3, 5), "text": torch.randn(3, 7)}
        >>> model = MMSSL(graph, features, dim=8, neighbours=1)
        >>> encoded = model()
        >>> encoded.users.shape, encoded.items.shape
        (torch.Size([2, 8]), torch.Size([3, 8]))
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
        neighbours_method: str = "auto",
        final_softmax: bool = True,
        standardise: bool = True,
        feature_dtype: torch.dtype | None = None,
        recompute: bool = False,
        ranks: Ranks = ONE,
    ) -> None:
        super().__init__()
        _check_settings(layers, neighbours, norm, dropout, neighbours_method, ranks)
        own = ranks.span(graph.n_items)
        check_features(features, graph.n_items, own)
        self.graph, self.modalities = graph, tuple(features)
        self.dim, self.layers, self.eta, self.omega, self.norm = dim, layers, eta, omega, norm
        self.neighbours, self.exclude_seen_neighbours = neighbours, exclude_seen_neighbours
        self.neighbours_method = search_method(neighbours_method, graph.n_users, graph.n_items, ranks.size)
        self.searches: dict[str, Search] = {}  # of every modality, the last clustered search
        self.final_softmax, self.recompute = final_softmax, recompute
        self._masked: list[int] = []  # modalities with missing rows
        for m, (name, raw) in enumerate(features.items()):
            rows = raw.detach()[slice(*own)]
            missing = missing_rows(rows)
            prepared = standardised(rows, ranks) if standardise else torch.where(missing, 0.0, rows)
            if distributed.all_max(missing.any().float(), ranks):
                self._masked.append(m)
                self.register_buffer(f"present_{m}", (~missing).to(torch.get_default_dtype()), persistent=False)
            stored = prepared.to(feature_dtype or torch.get_default_dtype(), copy=ranks.size > 1)
            if not stored.isfinite().all():
                raise ValueError(f"MMSSL: features of {name!r} are too large for {stored.dtype}")
            self.register_buffer(f"features_{m}", stored, persistent=False)
        self.projections = nn.ModuleList(nn.Linear(raw.shape[1], dim) for raw in features.values())
        self.dropout = nn.Dropout(dropout)
        self.user_embedding = nn.Parameter(torch.empty(ranks.sizes(graph.n_users)[ranks.rank], dim))
        self.item_embedding = nn.Parameter(torch.empty(ranks.sizes(graph.n_items)[ranks.rank], dim))
        self.ranks = ranks
        for m in self._masked:
            scale = distributed.gather_whole(self._user_scale(getattr(self, f"present_{m}")), graph.n_users, ranks)
            self.register_buffer(f"user_scale_{m}", scale, persistent=False)
        self.attention = ModalityAttention(dim=dim, heads=heads)
        self.semantic_neighbours: Tensor
        shape = len(features), len(self.user_embedding), neighbours
        self.register_buffer("semantic_neighbours", torch.full(shape, -1))
        # (identity of the contents of semantic_neighbours, their graphs). They are created together with the
        # neighbours, because torch.export and torch.compile have no values to create them from.
        self._neighbour_graphs: tuple[tuple[Any, ...], list[InteractionGraph]] | None = None
        self.register_load_state_dict_post_hook(_after_load)
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the weights Xavier-uniformly and the biases with zero, and computes the semantic neighbours."""
        for projection in cast(Iterable[nn.Linear], self.projections):
            nn.init.xavier_uniform_(projection.weight)
            nn.init.zeros_(projection.bias)
        for embedding, rows in ((self.user_embedding, self.graph.n_users), (self.item_embedding, self.graph.n_items)):
            if self.ranks.size == 1:
                nn.init.xavier_uniform_(embedding)
            else:
                with torch.no_grad():
                    embedding.copy_(distributed.xavier_uniform(rows, self.dim, self.ranks))
        self.attention.reset_parameters()
        self.refresh_neighbours()

    def shared_parameters(self) -> list[nn.Parameter]:
        """The parameters that do not belong to users or items. With several ranks, each computes their gradient for its
        rows only; `distributed.reduce_gradients` adds these."""
        return [*self.projections.parameters(), *self.attention.parameters()]

    @torch.no_grad()
    def refresh_neighbours(self) -> None:
        """Computes the semantic neighbours of Eq. 8 from the current relation matrices Â^m (Eq. 3), without dropout."""
        if not self.neighbours:
            return
        graph, ranks = self.interactions(), self.ranks
        seen = seen_by_own(graph, ranks) if self.exclude_seen_neighbours else None
        training = self.training
        self.eval()
        modal_users, modal_items = self.modality_features()
        self.train(training)
        for m, (users, items) in enumerate(zip(modal_users, modal_items, strict=True)):
            if self.neighbours_method == "ivf" and not users.is_meta:
                found, self.searches[self.modalities[m]] = clustered_neighbours(users, items, self.neighbours, seen)
            else:
                found = semantic_neighbours(users, items, self.neighbours, seen, graph.n_items, ranks)
            if m in self._masked:  # all items are equally similar to a user without a modality feature
                found = torch.where(ranks.mine(getattr(self, f"user_scale_{m}")) > 0, found, -1)
            self.semantic_neighbours[m] = found
        self._semantic_graphs()

    def modality_features(self) -> tuple[list[Tensor], list[Tensor]]:
        """f_u^m [U, d] and f_i^m [I, d] of every modality (Eq. 2). All modalities are concatenated and propagated in
        one call."""
        return self._by_modality(self._start_features(self._start_inputs().wait()))

    def _start_inputs(self) -> Exchange:
        """The columns of the projected features of all modalities after dropout, [I, M · d]."""
        raw = [getattr(self, f"features_{m}") for m in range(len(self.modalities))]
        # The features are arguments, so that `checkpoint` knows their device, whose random generator draws the dropout.
        projected = checkpoint(self._inputs, *raw, use_reentrant=False) if self._again() else self._inputs(*raw)
        return start_rows_to_columns(projected, self.graph.n_items, self.ranks)

    def _start_features(self, columns: Tensor) -> tuple[Exchange, Exchange]:
        """The modality features of users and items, from the columns of `_start_inputs`. The table of the users stays
        in columns between the two propagations."""
        graph, wide = self.interactions(), len(self.modalities) * self.dim
        users = propagate(graph, columns, self.ranks, "users", self.norm)
        if self._masked:
            first, last = self.ranks.columns.span(wide)
            bounds = [min(max(m * self.dim, first), last) for m in range(len(self.modalities) + 1)]
            parts = list(users.split([end - begin for begin, end in pairwise(bounds)], 1))
            for m in self._masked:
                parts[m] = parts[m] * self.ranks.groups.mine(getattr(self, f"user_scale_{m}"))
            users = torch.cat(parts, 1)
        sent = start_columns_to_rows(users, wide, self.ranks, graph.n_users)
        items = propagate(graph, users, self.ranks, "items", self.norm)
        return sent, start_columns_to_rows(items, wide, self.ranks, graph.n_items)

    def _by_modality(self, features: tuple[Exchange, Exchange]) -> tuple[list[Tensor], list[Tensor]]:
        users, items = (list(one.wait().split(self.dim, 1)) for one in features)
        return users, items

    def projected(self) -> list[Tensor]:
        """W_m f_i^m + b_m [I, d] of every modality (Eq. 2), 0 for missing rows."""
        return self._projected(*(getattr(self, f"features_{m}") for m in range(len(self.modalities))))

    def _projected(self, *raw: Tensor) -> list[Tensor]:
        pairs = zip(cast(Iterable[nn.Linear], self.projections), raw, strict=True)
        projected = [apply_linear(fc, x) for fc, x in pairs]
        for m in self._masked:
            projected[m] = projected[m] * getattr(self, f"present_{m}")
        return projected

    def _inputs(self, *raw: Tensor) -> Tensor:
        """The projected features of all modalities after dropout, [I, M · d]."""
        return torch.cat([self._dropped(x) for x in self._projected(*raw)], 1)

    def _again(self) -> bool:
        """Whether the backward pass computes parts of the forward pass again."""
        if not self.recompute or torch.compiler.is_compiling() or is_transforming():
            return False
        return not torch.is_autocast_enabled(self.user_embedding.device.type)

    def _attended(self, table: Tensor, views: list[Tensor]) -> Tensor:
        """table + η ē/‖ē‖ [N, d], with the attention ē of the views (Eq. 9)."""
        if not self._again():
            return table + self.eta * unit_rows(self.attention(torch.stack(views)))
        weights, heads, eta = self.attention, self.attention.heads, self.eta

        def attended(*tensors: Tensor) -> Tensor:
            *views, wq, wk, wo = tensors
            return eta * unit_rows(modality_attention(torch.stack(views), wq, wk, wo, heads))

        return table + in_row_blocks(attended, views, [weights.wq, weights.wk, weights.wo])

    def views(self) -> tuple[list[Tensor], list[Tensor]]:
        """e_u^m [U, d] and e_i^m [I, d] of every modality (Eq. 8): sums of id embeddings over the semantic neighbours,
        or zeros if there are none."""
        users, items = self._start_views(*(one.wait() for one in self._start_ids()))
        return [one.wait() for one in users], [one.wait() for one in items]

    def _start_ids(self) -> tuple[Exchange, Exchange]:
        """The columns of the id embeddings of users and items."""
        graph, ranks = self.graph, self.ranks
        users = start_rows_to_columns(self.user_embedding, graph.n_users, ranks)
        return users, start_rows_to_columns(self.item_embedding, graph.n_items, ranks)

    def _start_views(self, users: Tensor, items: Tensor) -> tuple[list[Exchange], list[Exchange]]:
        """The views of users and items, from the columns of the id embeddings."""
        if not self.neighbours:
            tables = self.user_embedding, self.item_embedding
            by_user, by_item = ([Exchange(torch.zeros_like(x))] * len(self.modalities) for x in tables)
            return by_user, by_item
        graphs, ranks, n = self._semantic_graphs(), self.ranks, (self.graph.n_users, self.graph.n_items)
        return (
            [start_columns_to_rows(propagate(graph, items, ranks, "users"), self.dim, ranks, n[0]) for graph in graphs],
            [start_columns_to_rows(propagate(graph, users, ranks, "items"), self.dim, ranks, n[1]) for graph in graphs],
        )

    def high_order(self, users: Tensor, items: Tensor) -> tuple[Tensor, Tensor]:
        """The mean over the layers 0 to L (Eq. 10), from the zero-order embeddings Ê⁰ [U, d] and [I, d]."""
        graph, ranks = self.graph, self.ranks
        sent = start_rows_to_columns(users, graph.n_users, ranks), start_rows_to_columns(items, graph.n_items, ranks)
        users, items = (one.wait() for one in self._start_layers(*(one.wait() for one in sent)))
        return users, items

    def _start_layers(self, users: Tensor, items: Tensor) -> tuple[Exchange, Exchange]:
        """The mean over the layers of users and items, from the columns of Ê⁰."""
        graph, ranks = self.interactions(), self.ranks
        if not self.final_softmax or not self.layers:
            mean_users, mean_items = lightgcn(graph, users, items, self.layers, ranks, self.norm)
        else:
            sum_users, sum_items = users, items
            for layer in range(self.layers):
                users = propagate(graph, items, ranks, "users", self.norm)
                if layer == self.layers - 1:
                    users = distributed.column_softmax(users, ranks)
                items = propagate(graph, users, ranks, "items", self.norm)
                if layer == self.layers - 1:
                    items = distributed.column_softmax(items, ranks)
                sum_users, sum_items = sum_users + users, sum_items + items
            mean_users, mean_items = sum_users / (self.layers + 1), sum_items / (self.layers + 1)
        sent = start_columns_to_rows(mean_users, self.dim, ranks, graph.n_users)
        return sent, start_columns_to_rows(mean_items, self.dim, ranks, graph.n_items)

    def forward(self, views: bool = True) -> Encoded:
        """Encodes all users and items (Eq. 2, 8, 9, 10 and 12). If `views` is False, Eq. 8 is computed only if Eq. 9
        needs it.

        With several ranks, tables are propagated by columns. Those of the modality features (Eq. 2) and those of the id
        embeddings (Eq. 8 to 10) do not depend on each other before Eq. 12, so that tables of one kind are exchanged
        while those of the other are propagated.
        """
        graph, ranks = self.interactions(), self.ranks
        attends = bool(self.neighbours and self.eta)
        inputs, ids = self._start_inputs(), self._start_ids()
        features = self._start_features(inputs.wait())
        users, items = (one.wait() for one in ids)
        found: tuple[list[Exchange], list[Exchange]] = self._start_views(users, items) if views or attends else ([], [])
        modal_users, modal_items = self._by_modality(features)
        if attends:
            view_users = [one.wait() for one in found[0]]
            sent_users = start_rows_to_columns(self._attended(self.user_embedding, view_users), graph.n_users, ranks)
            view_items = [one.wait() for one in found[1]]
            sent_items = start_rows_to_columns(self._attended(self.item_embedding, view_items), graph.n_items, ranks)
            users, items = sent_users.wait(), sent_items.wait()
        layers = self._start_layers(users, items)
        if not attends:
            view_users, view_items = ([one.wait() for one in side] for side in found)
        users, items = (one.wait() for one in layers)
        for f_u, f_i in zip(modal_users, modal_items, strict=True):
            users, items = users + self.omega * unit_rows(f_u), items + self.omega * unit_rows(f_i)
        return Encoded(users, items, modal_users, modal_items, view_users, view_items)

    def interactions(self) -> InteractionGraph:
        """The interaction graph on the device of the parameters."""
        graph = self.graph.to(self.user_embedding.device)
        if graph is not self.graph and not self.user_embedding.is_meta:  # a graph on "meta" would lose its values
            self.graph = graph
        return graph

    @torch.no_grad()
    def _user_scale(self, present: Tensor) -> Tensor:
        """[U, 1]: the weights of all items of a user in Eq. 2, divided by those of the items that are present; 0 if
        there is none."""
        present, graph = present.to(self.user_embedding.device), self.interactions()
        both = (torch.ones_like(present), present)
        whole, known = (distributed.propagate(graph, x, self.ranks, "users", self.norm) for x in both)
        return torch.where(known > 0, whole / torch.where(known > 0, known, 1.0), 0.0)

    def _dropped(self, x: Tensor) -> Tensor:
        """Dropout of the rows of items."""
        if self.ranks.size == 1 or not self.training:
            return self.dropout(x)
        return distributed.dropout(x, self.graph.n_items, self.dropout.p, self.ranks)

    def _semantic_graphs(self) -> list[InteractionGraph]:
        neighbours, cached = self.semantic_neighbours, self._neighbour_graphs
        if cached is not None and (torch.compiler.is_compiling() or is_traced(neighbours) or neighbours.is_meta):
            return [graph.to(neighbours.device) for graph in cached[1]]
        # An empty table, of a rank without users, has no address; ranks must agree, because they build graphs together.
        place = neighbours.data_ptr() or id(neighbours)
        key = neighbours.device, place, 0 if neighbours.is_inference() else neighbours._version
        if cached is None or cached[0] != key:
            with outside_modes():
                sizes = self.graph.n_items, self.ranks, self.graph.n_users
                cached = key, [neighbour_graph(items, *sizes) for items in neighbours]
            self._neighbour_graphs = cached
        return cached[1]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> MMSSL:
        super()._apply(fn, recurse)
        device = self.user_embedding.device
        if device.type != "meta":
            self.graph = self.graph.to(device)
            if self._neighbour_graphs is not None:
                key, graphs = self._neighbour_graphs
                self._neighbour_graphs = key, [graph.to(device) for graph in graphs]
        return self

    def extra_repr(self) -> str:
        return (
            f"{self.graph.n_users} users x {self.graph.n_items} items, modalities={', '.join(self.modalities)}, "
            f"dim={self.dim}, layers={self.layers}, eta={self.eta}, omega={self.omega}, norm={self.norm!r}, "
            f"neighbours={self.neighbours}, final_softmax={self.final_softmax}"
        )


def _after_load(module: MMSSL, _: object) -> None:
    module._neighbour_graphs = None
    if module.neighbours and not module.semantic_neighbours.is_meta and not is_traced(module.semantic_neighbours):
        module._semantic_graphs()


def _check_settings(layers: int, neighbours: int, norm: str, dropout: float, method: str, ranks: Ranks) -> None:
    if layers < 0 or neighbours < 0:
        raise ValueError(f"MMSSL: layers and neighbours must not be negative, got {layers} and {neighbours}")
    if norm not in NORMS:
        raise ValueError(f"MMSSL: norm must be one of {', '.join(NORMS)}, got {norm!r}")
    if not 0 <= dropout < 1:
        raise ValueError(f"MMSSL: dropout must lie in [0, 1), got {dropout}")
    if method not in ("auto", "exact", "ivf"):
        raise ValueError(f"MMSSL: neighbours_method must be auto, exact or ivf, got {method!r}")
    if method == "ivf" and ranks.size > 1:
        raise ValueError(f"MMSSL: neighbours_method = 'ivf' needs a single process, got {ranks.size} ranks; use exact")
