"""The protocol `System` that the training loop uses, and base classes for the baselines."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, NamedTuple, Protocol, TypeVar

import torch
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, distributed

from ..embeddings import Table
from ..optimisers import without_compiler
from .features import features_of, present_of
from .item_item import ItemItemPart

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset

_T = TypeVar("_T")


class Batch(NamedTuple):
    """The (user, positive, negative) triples of one training step.

    users, positives, negatives: int64 [B].
    step: number of steps since the start of the run. It is also the offset of the counter-based random numbers that the
        step draws, so that a resumed run draws the same numbers.
    """

    users: Tensor
    positives: Tensor
    negatives: Tensor
    step: int


class System(Protocol):
    """A recommender that scores an item for a user by the dot product of their embeddings.

    Embeddings are dense tensors, or for a system that is not trained in steps, SciPy matrices on the CPU: those of the
    users, or of both. So a score can be a sum over the user's items or neighbours (`embeddings.Table`).

    trains: whether the system is trained in steps. If not, it is ready after `build`.
    least_batch: smallest batch size that a step accepts; set by `build`.
    reads_features: whether `build` needs item features.
    over_ranks: {tensor of `parameters` or `state`: "users" or "items"} for those whose rows are divided among the
        ranks, "columns of users" or "columns of items" for those whose second dimension is; all others are equal on all
        ranks. None, or no such attribute: only one process can train the system.
    over_groups: whether the graph that `build` gets may be a `distributed.GroupGraph`. No such attribute: it may not.
    optimisers: optimisers by name; their state is part of a checkpoint.
    started_from_model: optional method, called after a run has loaded the parameters of a model of other data, for
        what is computed from them.
    uses_weights: optional attribute of a system that is not trained in steps: whether `build` uses the weights of the
        interactions. Weighted data is refused otherwise. A system that is trained in steps gets positives that are
        drawn in proportion to the weights.
    measurements: optional method; its entries are added to the record of every epoch in metrics.jsonl.
    inference: a subclass of `inference.Inference`, which embeds users and items that training has not seen. Without
        this attribute the system can do neither.
    """

    trains: bool
    reads_features: bool
    least_batch: int
    optimisers: dict[str, torch.optim.Optimizer]

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        """Create the parameters on graph.device. The caller seeds torch's generators first."""

    def start_epoch(self, epoch: int) -> None:
        """Called before the first step of each epoch (1, 2, …). Not called when a run resumes within an epoch."""

    def step(self, batch: Batch) -> dict[str, Tensor]:
        """Update the parameters. Returns the loss terms by name: 0-dim tensors on the device, detached or not."""

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of this batch, with their autograd graph and without an update. The ranking loss comes first.

        Must not write to the large tensors of `state`.
        """

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """(name, parameter) of every parameter that `terms` depends on."""

    def other_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """(name in `state`, parameter) of the parameters that `optimisers` update besides `trained_parameters`."""

    def embeddings(self) -> tuple[Table, Table]:
        """Users [U, d] and items [I, d], detached, as evaluation uses them (no dropout). Users and items without
        training interactions have the rows of `without_interactions`."""

    def cold_items(self) -> Table | None:
        """Embeddings of all items as if they were cold (without interactions), from their features alone: [I, d],
        detached.

        None if the system does not use features.
        """

    def parameters(self) -> dict[str, Tensor]:
        """The trained parameters by name, detached."""

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Copy the result of `parameters` of a system built the same way."""

    def state(self) -> dict[str, Tensor]:
        """All tensors that `step` reads and writes, by name, including buffers but not the state of the optimisers."""

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        """Copy, in place, the result of `state` of a system built the same way.

        Raises KeyError, ValueError or RuntimeError if a tensor is missing, unknown or has the wrong shape.
        """


class Recommender(nn.Module):
    """The parameters and equations of a baseline; ModuleSystem turns it into a System.

    A subclass defines `forward`, and creates its parameters in __init__(dataset, graph, config). It creates them on the
    CPU, so that the initial values do not depend on the device.
    """

    def __init__(self, graph: InteractionGraph) -> None:
        super().__init__()
        self.graph = graph

    def take_features(self, dataset: Dataset, config: Config) -> list[Tensor]:
        """features_of, also kept as the buffers features_0, …, and with missing rows present_0, … [I, 1]."""
        features = features_of(dataset, config)
        for m, (raw, present) in enumerate(zip(features, present_of(dataset), strict=True)):
            self.register_buffer(f"features_{m}", raw, persistent=False)
            self.register_buffer(f"present_{m}", None if present.all() else present, persistent=False)
        return features

    def projected(self, m: int, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """layer(f^m) [I, d] for the features of a modality; 0 for missing rows, also where the layer has a bias."""
        x, present = layer(getattr(self, f"features_{m}")), getattr(self, f"present_{m}")
        return x if present is None else x * present

    def forward(self) -> tuple[Tensor, Tensor]:
        """User embeddings [U, d] and item embeddings [I, d]; their dot products are the scores."""
        raise NotImplementedError

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        """The loss terms of one step by name. Their sum is minimised. Default: BPR (Eq. 14)."""
        (users, items), graph, ranks = self(), self.graph, distributed.current()
        triples = batch.users, batch.positives, batch.negatives
        return {"bpr": distributed.bpr_loss(users, items, *triples, graph.n_users, graph.n_items, ranks)}

    def start_epoch(self, epoch: int) -> None:
        """Hook for what is recomputed once per epoch."""

    def cold_items(self) -> Tensor | None:
        """Embeddings [I, d] of all items as if they were cold, from their features alone. None without features."""
        return None


class NetworkSystem:
    """A System whose parameters are those of the module `model`. A subclass defines `build`, the steps,
    `own_embeddings` and `own_cold_items`.

    With model.item_item, an `ItemItemPart` is beside the dot product of these embeddings. `build` calls
    `build_item_item`.
    """

    trains = True
    reads_features = False
    least_batch = 1
    model: nn.Module
    optimisers: dict[str, torch.optim.Optimizer]
    item_item: ItemItemPart | None = None

    def build_item_item(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        """Compute the item-item part, if there is one."""
        self.item_item = ItemItemPart(dataset, graph, config) if config.model.item_item else None

    def own_embeddings(self) -> tuple[Tensor, Tensor]:
        """System.embeddings without the item-item part."""
        raise NotImplementedError

    def own_cold_items(self) -> Tensor | None:
        """System.cold_items without the item-item part."""
        return None

    @torch.no_grad()
    def embeddings(self) -> tuple[Table, Table]:
        users, items = self.own_embeddings()
        return (users, items) if self.item_item is None else self.item_item.beside(users, items)

    @torch.no_grad()
    def cold_items(self) -> Table | None:
        own = self.own_cold_items()
        if self.item_item is None:
            return own
        return self.item_item.cold_items(own, self.own_embeddings()[1].shape[1] if own is None else own.shape[1])

    def trained_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return self.model.named_parameters()

    def other_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        return ()

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor.detach() for name, tensor in self.model.state_dict().items()}

    def state(self) -> dict[str, Tensor]:
        return self.parameters()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self.model.load_state_dict(tensors)

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Copy the result of `parameters` of a system built the same way."""
        self.model.load_state_dict(tensors)

    def _without_dropout(self, call: Callable[[], _T]) -> _T:
        training = self.model.training
        self.model.eval()
        try:
            return call()
        finally:
            self.model.train(training)


class ModuleSystem(NetworkSystem):
    """A System that trains one Recommender, of class `model_type`, with AdamW."""

    model: Recommender
    model_type: Callable[[Dataset, InteractionGraph, Config], Recommender]

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        self.model = self.model_type(dataset, graph, config).to(graph.device)
        present = present_of(dataset)
        self._described = torch.cat(present, 1).amax(1, keepdim=True).to(graph.device) if present else None
        settings = config.optimiser
        self.optimisers = {
            "adamw": without_compiler(torch.optim.AdamW)(
                self.model.parameters(), lr=settings.lr, weight_decay=settings.weight_decay
            )
        }
        self.build_item_item(dataset, graph, config)

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

    def own_embeddings(self) -> tuple[Tensor, Tensor]:
        users, items = self._without_dropout(self.model)
        return without_interactions(self.model.graph, users, items, self.own_cold_items)

    def own_cold_items(self) -> Tensor | None:
        """See Recommender.cold_items. Items without features in any modality have 0, which ranks them last."""
        items = self._without_dropout(self.model.cold_items)
        return items if items is None or self._described is None else torch.where(self._described > 0, items, 0)


def without_interactions(
    graph: InteractionGraph, users: Tensor, items: Tensor, cold_items: Callable[[], Tensor | None]
) -> tuple[Tensor, Tensor]:
    """The embeddings, with other rows for users and items without interactions. Their own rows are little more than the
    random initial values.

    Users get 0, so `ranking.Ranking` gives them the most popular items. Items get their row of cold_items(), or 0 if
    the system does not use features; `ranking.Ranking` puts those after all other items.
    """
    ranks = distributed.current()
    new, cold = (ranks.mine(degree == 0)[:, None] for degree in (graph.user_degree, graph.item_degree))
    if new.any():
        users = torch.where(new, 0, users)
    if cold.any():
        by_features = cold_items()
        items = torch.where(cold, 0 if by_features is None else by_features, items)
    return users, items


def table(rows: int, dim: int) -> nn.Parameter:
    """An embedding table [rows, dim] with Xavier-uniform initialisation; over several processes this rank's rows of
    it."""
    return nn.Parameter(distributed.xavier_uniform(rows, dim, distributed.current()))
