"""The protocol between the training loop and what it trains, and what systems made of one module share."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, NamedTuple, Protocol

import torch
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, bpr_loss
from mmssl_fast.nn.encoder import standardised

from ..errors import InputError

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset


class Batch(NamedTuple):
    """One step's triples. users, positives, negatives: int64 [B]; step: steps taken before it, counted from the run's
    start, which is also the offset of every counter-based draw the step makes."""

    users: Tensor
    positives: Tensor
    negatives: Tensor
    step: int


class System(Protocol):
    """A recommender whose score of an item for a user is the dot product of two embeddings.

    trains: whether it learns in steps; one that does not is done after `build`.
    least_batch: the fewest triples a step can learn from, known after `build`.
    reads_features: whether it cannot be built without the items' features.
    optimisers: by name, what a checkpoint must hold beside the parameters.
    """

    trains: bool
    reads_features: bool
    least_batch: int
    optimisers: dict[str, torch.optim.Optimizer]

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        """Make the parameters on graph.device. The caller has seeded torch's generators."""

    def start_epoch(self, epoch: int) -> None:
        """Called before the first step of epoch 1, 2, …; not when an epoch is resumed after that step."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the parameters; returns every loss term (0-dim, detached or not, on the device) by name."""

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of the recommender at this batch, with their graph, the one that ranks first; nothing learns
        from them. Large tensors of `state` are left as they were."""

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """By name what `terms` have gradients on."""

    def embeddings(self) -> tuple[Tensor, Tensor]:
        """Users [U, d] and items [I, d], detached, as evaluation uses them (no dropout). Users and items without
        training interactions have the rows of `without_interactions`."""

    def cold_items(self) -> Tensor | None:
        """Items [I, d] by their features alone, detached, for items that nobody has interacted with; None where
        features play no part."""

    def parameters(self) -> dict[str, Tensor]:
        """The learnt parameters by name, detached."""

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `parameters` of an equally built system gave."""

    def state(self) -> dict[str, Tensor]:
        """Every tensor by name that `step` reads and writes, buffers too; without the optimisers' own."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Take over, in place, what `state` of an equally built system gave. Raises KeyError, ValueError or
        RuntimeError for missing, unknown or wrongly shaped tensors."""


class Recommender(nn.Module):
    """A baseline's parameters and equations. A subclass makes its parameters on the CPU in __init__(dataset, graph,
    config), so that every device starts from the same numbers, and gives `forward`; ModuleSystem does the rest."""

    def __init__(self, graph: InteractionGraph) -> None:
        super().__init__()
        self.graph = graph

    def forward(self) -> tuple[Tensor, Tensor]:
        """Users [U, d] and items [I, d], whose dot products are the scores."""
        raise NotImplementedError

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of one step by name; their sum is minimised. By default BPR (Eq. 14) alone."""
        return {"bpr": bpr_loss(*self(), batch.users, batch.positives, batch.negatives)}

    def start_epoch(self, epoch: int) -> None:
        """What is renewed once an epoch."""

    def cold_items(self) -> Tensor | None:
        """Items [I, d] by their features alone, for items that nobody has interacted with; None where features play no
        part."""
        return None


class ModuleSystem:
    """A System made of one Recommender, `model_type`, under one AdamW."""

    trains = True
    reads_features = False
    least_batch = 1
    model_type: type[Recommender]

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        self.model = self.model_type(dataset, graph, config).to(graph.device)
        rates = config.optimiser
        self.optimisers: dict[str, torch.optim.Optimizer] = {
            "adamw": torch.optim.AdamW(self.model.parameters(), lr=rates.lr, weight_decay=rates.weight_decay)
        }

    def start_epoch(self, epoch: int) -> None:
        self.model.train()
        self.model.start_epoch(epoch)

    def step(self, batch: Batch) -> dict[str, Tensor]:
        terms = self.model.terms(batch)
        total = torch.stack(list(terms.values())).sum()
        optimiser = self.optimisers["adamw"]
        optimiser.zero_grad(set_to_none=True)
        total.backward()
        optimiser.step()
        return terms if len(terms) == 1 else terms | {"total": total}

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return self.model.terms(batch)

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        return without_interactions(self.model.graph, *self._without_dropout(self.model), self.cold_items)

    @torch.no_grad()
    def cold_items(self) -> Tensor | None:
        """See Recommender.cold_items."""
        return self._without_dropout(self.model.cold_items)

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        return self.parameters()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(tensors)

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Take over what `parameters` of an equally built system gave."""
        self.model.load_state_dict(tensors)

    def _without_dropout(self, call: Callable[[], Any]) -> Any:
        training = self.model.training
        self.model.eval()
        try:
            return call()
        finally:
            self.model.train(training)


class UntrainedSystem:
    """A System whose `build` makes the two embeddings, `users` [U, d] and `items` [I, d], without a step."""

    trains = False
    reads_features = False
    least_batch = 1
    users: Tensor
    items: Tensor

    def __init__(self) -> None:
        self.optimisers: dict[str, torch.optim.Optimizer] = {}

    def start_epoch(self, epoch: int) -> None:
        pass

    def step(self, batch: Batch) -> dict[str, Tensor]:
        raise RuntimeError(f"{type(self).__name__} has nothing to train")

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return {}

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ()

    def embeddings(self) -> tuple[Tensor, Tensor]:
        return self.users, self.items

    def cold_items(self) -> Tensor | None:
        return None

    def parameters(self) -> dict[str, Tensor]:
        return {}

    def state(self) -> dict[str, Tensor]:
        return {}

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        pass

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        pass


def without_interactions(
    graph: InteractionGraph, users: Tensor, items: Tensor, cold_items: Callable[[], Tensor | None]
) -> tuple[Tensor, Tensor]:
    """The embeddings with other rows for users and items that have no interaction: their own are little more than the
    random initial values.

    Users get 0, so `ranking.Ranking` gives them the most popular items. Items get their row of cold_items(), made of
    their features, or 0 where the system reads none; `ranking.Ranking` puts those after all other items.
    """
    new, cold = (graph.user_degree == 0)[:, None], (graph.item_degree == 0)[:, None]
    if new.any():
        users = torch.where(new, 0, users)
    if cold.any():
        by_features = cold_items()
        items = torch.where(cold, 0 if by_features is None else by_features, items)
    return users, items


def table(rows: int, dim: int) -> nn.Parameter:
    """A Xavier-uniform embedding table [rows, dim]."""
    return nn.Parameter(nn.init.xavier_uniform_(torch.empty(rows, dim)))


def thinned(graph: InteractionGraph, kept: Tensor) -> InteractionGraph:
    """The graph with only those of its edges where kept, bool [nnz], says so."""
    users = torch.repeat_interleave(torch.arange(graph.n_users, device=graph.device), graph.user_degree)
    return InteractionGraph.from_pairs(users[kept], graph.col[kept], graph.n_users, graph.n_items).to(graph.device)


class ThinnedViews:
    """For a Recommender whose loss contrasts graphs that keep every edge with probability 1 − drop, drawn anew each
    epoch: the edges kept are in its state, the graphs are made of them when they are asked for."""

    graph: InteractionGraph
    kept: Tensor

    def draw_views(self, count: int, drop: float) -> None:
        """To be called once the graph is there: so many views; until the first epoch they keep every edge."""
        self.drop = drop
        self.register_buffer("kept", torch.ones(count, self.graph.nnz, dtype=torch.bool))
        self._views: list[InteractionGraph] = []
        self.register_load_state_dict_post_hook(lambda module, _: module._views.clear())

    def start_epoch(self, epoch: int) -> None:
        drawn = torch.rand(self.kept.shape) >= self.drop  # on the CPU: alike on every device
        self.kept.copy_(drawn)
        self._views.clear()

    def views(self) -> list[InteractionGraph]:
        """This epoch's graphs."""
        if not self._views:
            self._views += [thinned(self.graph, kept) for kept in self.kept]
        return self._views


def features_of(dataset: Dataset, config: Config) -> list[Tensor]:
    """The modalities' features, float32 [I, d_m], columns of mean 0 and variance 1 with model.standardise.

    Raises InputError where the dataset has none.
    """
    if not dataset.features:
        raise InputError(
            f"{dataset.name}: {config.model.system} needs features; add a <modality>_feat.npy or .parquet, or train "
            "--system lightgcn"
        )
    raw = [torch.from_numpy(values).float() for values in dataset.features.values()]
    return [standardised(one).float() for one in raw] if config.model.standardise else raw
