"""MMSSL: the encoder, discriminator and objective of mmssl_fast.nn with their optimisers."""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, ClassVar

import torch
from torch import Tensor, nn

from mmssl_fast import InteractionGraph, distributed
from mmssl_fast.distributed import Ranks
from mmssl_fast.nn import MMSSL, Discriminator, Encoded, MMSSLObjective, TiledAdam
from mmssl_fast.ops.unit_rows import unit_rows
from mmssl_fast.relation.algebra.pending_gradient import pending_gradient

from ..data import Dataset
from ..errors import InputError
from ..optimisers import without_compiler
from .base import Batch, NetworkSystem, without_interactions
from .microbatches import Part, Terms, backward, backward_through, leaves_of, parts_of
from .mmssl_inference import MMSSLInference, scale_of_present
from .step_graph import StepGraph

if TYPE_CHECKING:
    from ..config.sections import Config


class MMSSLSystem(NetworkSystem):
    """Discriminator steps with Adam, then one generator step with AdamW, on the same batch (Eq. 2 to 14)."""

    reads_features = True
    inference = MMSSLInference
    model: MMSSL
    # By the names in `parameters` and in `state`.
    over_ranks: ClassVar = {
        "user_embedding": "users",
        "item_embedding": "items",
        "model.user_embedding": "users",
        "model.item_embedding": "items",
        "discriminator.linear.weight": "columns of items",
        "semantic_neighbours": "columns of users",
        "model.semantic_neighbours": "columns of users",
    }
    over_groups: ClassVar = True

    def build(self, dataset: Dataset, graph: InteractionGraph, config: Config) -> None:
        model, loss, optimiser, ranks = config.model, config.loss, config.optimiser, distributed.current()
        if not dataset.features:
            raise InputError(
                f"{dataset.name}: MMSSL needs features; add <modality>_feat.npy or .parquet, or train --system lightgcn"
            )
        self.build_item_item(dataset, graph, config)
        _refuse_with_graph(config, graph.device)
        narrow = optimiser.first_layer_weight == "bfloat16"
        if ranks.size > 1:
            _refuse_over_ranks(config)
        features = {name: torch.from_numpy(values) for name, values in dataset.features.items()}
        self.refresh_every, self.discriminator_steps = config.train.refresh_every, config.train.discriminator_steps
        half = config.train.feature_dtype == "float16"
        # Standardised features are small enough.
        overflowing = half and not model.standardise and _first_overflowing_float16(features, ranks)
        if overflowing:
            raise InputError(
                f"{dataset.name}: features of {overflowing!r} are too large for torch.float16; set "
                'train.feature_dtype = "float32" or model.standardise = true'
            )
        self.model = MMSSL(
            graph,
            features,
            dim=model.dim,
            layers=model.layers,
            heads=model.heads,
            eta=model.eta,
            omega=model.omega,
            dropout=model.dropout,
            norm=model.norm,
            neighbours=model.neighbours,
            standardise=model.standardise,
            exclude_seen_neighbours=model.exclude_seen_neighbours,
            neighbours_method=model.neighbours_method,
            final_softmax=model.final_softmax,
            feature_dtype=torch.float16 if half else None,
            recompute=config.train.recompute == "on",
            ranks=ranks,
        ).to(graph.device)
        # Every part of a batch needs two rows for BatchNorm, whose variance is that of more than one row.
        self.microbatches = config.train.microbatches
        self.least_batch = self.microbatches * (1 + (loss.adversarial and model.critic_norm == "batch"))
        self.discriminator = None
        gemm = _gemm(config.train.precision, graph.device)
        if loss.adversarial:
            hidden = (model.hidden[0], model.hidden[1]) if model.hidden else None
            options: dict[str, Any] = {
                "norm": model.critic_norm,
                "sigmoid": model.critic_sigmoid,
                "weight_dtype": torch.bfloat16 if narrow else None,
                "gemm": gemm,
                "ranks": ranks,
            }
            self.discriminator = Discriminator(graph.n_items, hidden=hidden, **options).to(graph.device)
        self.objective = MMSSLObjective(
            self.model,
            self.discriminator,
            seed=config.train.seed,
            max_repeats=1 if config.train.sample_over == "users" else None,
            gemm=gemm,
            **loss.model_dump(),
        )
        use_graph = config.train.cuda_graph
        self.step_graph = StepGraph(self._update) if use_graph else None
        self.optimisers = {
            "adamw": without_compiler(torch.optim.AdamW)(
                self.model.parameters(), lr=optimiser.lr, weight_decay=optimiser.weight_decay, capturable=use_graph
            )
        }
        if self.discriminator is not None:
            options = {
                "lr": optimiser.discriminator_lr,
                "betas": (optimiser.discriminator_beta1, optimiser.discriminator_beta2),
            }
            first, rest = self.discriminator.linear.weight, list(self.discriminator.parameters())
            if not use_graph:  # TiledAdam reads its step count on the host, which a captured step cannot
                rest = [parameter for parameter in rest if parameter is not first]
                moments = getattr(torch, optimiser.first_layer_moments)
                first_item, _ = ranks.span(graph.n_items)
                self.optimisers["first_layer"] = without_compiler(TiledAdam)(
                    first, **options, moments=moments, first_item=first_item
                )
            self.optimisers["adam"] = without_compiler(torch.optim.Adam)(rest, **options, capturable=use_graph)

    def start_epoch(self, epoch: int) -> None:
        self.model.train()
        if epoch > 1 and (epoch - 1) % self.refresh_every == 0:
            self.model.refresh_neighbours()
            if self.step_graph is not None:
                self._encoded()  # builds the neighbour graphs lazily, which must not happen during capture
                self.step_graph.reset()

    def step(self, batch: Batch) -> dict[str, Tensor]:
        triples = batch.users, batch.positives, batch.negatives
        if self.step_graph is None:
            return self._update(*triples, batch.step)
        return self.step_graph(*triples, torch.full((), batch.step, device=batch.users.device))

    def terms(self, batch: Batch) -> dict[str, Tensor]:
        return self.objective.generator_terms(self._encoded(), batch.users, batch.positives, batch.negatives)

    def _update(self, users: Tensor, positives: Tensor, negatives: Tensor, step: int | Tensor) -> dict[str, Tensor]:
        terms: dict[str, Tensor] = {}
        encoded = self._encoded()
        parts = parts_of(len(users), self.microbatches, self.objective.options.anchors, users.device)
        if self.discriminator is not None:
            for i in range(self.discriminator_steps):
                offset: Any = step * self.discriminator_steps + i  # every discriminator step draws its own noise
                found = Terms()
                each = self.objective.discriminator_parts(encoded, users, offset, [part.rows for part in parts])
                losses = (found.add(part, own) for part, own in zip(parts, each, strict=True))
                self._descend_discriminator(self.discriminator, losses)
                terms |= {f"D {name}": value for name, value in found.values.items()}
                del each, losses
        found = Terms()
        triples = users, positives, negatives
        if len(parts) == 1:
            total = found.add(parts[0], self.objective.generator_terms(encoded, *triples))
            del encoded  # so that the backward pass frees what it has used
            self._descend("adamw", [total])
        else:
            self._descend_in_parts(encoded, parts, triples, found)
        return terms | found.values

    def _descend_in_parts(
        self, encoded: Encoded, parts: list[Part], triples: tuple[Tensor, Tensor, Tensor], found: Terms
    ) -> None:
        """The generator step for the parts of a batch, with one backward pass of the encoder."""
        leaves = leaves_of(encoded)

        def terms_of(part: Part) -> dict[str, Tensor]:
            users, positives, negatives = (ids[part.rows] for ids in triples)
            return self.objective.generator_terms(leaves, users, positives, negatives, part.anchors)

        losses = (found.add(part, terms_of(part)) for part in parts)
        self._descend("adamw", losses, lambda each: backward_through(encoded, each, leaves))

    def _encoded(self) -> Encoded:
        return self.model(views=self.objective.contrastive)

    def _descend_discriminator(self, discriminator: Discriminator, losses: Iterable[Tensor]) -> None:
        first_layer = self.optimisers.get("first_layer")
        if not isinstance(first_layer, TiledAdam):
            self._descend("adam", losses)
            return
        # The gradient of the first weight is formed tile by tile within the optimiser step, never as a whole.
        with pending_gradient(discriminator.linear.weight) as pending:
            self._descend("adam", losses)
        first_layer.step(pending)

    def _descend(
        self, name: str, losses: Iterable[Tensor], backward: Callable[[Iterable[Tensor]], None] = backward
    ) -> None:
        """An optimiser step with the gradient of the sum of the losses, which `backward` computes."""
        optimiser = self.optimisers[name]
        optimiser.zero_grad(set_to_none=True)
        backward(losses)
        if name == "adamw":
            distributed.reduce_gradients(self.model.shared_parameters(), distributed.current())
        optimiser.step()

    def other_parameters(self) -> Iterable[tuple[str, nn.Parameter]]:
        """(name in `state`, parameter) of the parameters that `trained_parameters` leaves out."""
        parts = {"discriminator": self.discriminator} if self.discriminator is not None else {}
        return nn.ModuleDict(parts).named_parameters()

    def started_from_model(self) -> None:
        """Called once, if a run starts from a model of other data: its neighbours are items of that data."""
        self.model.refresh_neighbours()

    def measurements(self) -> dict[str, object]:
        """The recall and the numbers of clusters of the last clustered searches for semantic neighbours, if any."""
        searches = self.model.searches
        return {"neighbours": {name: search._asdict() for name, search in searches.items()}} if searches else {}

    def own_embeddings(self) -> tuple[Tensor, Tensor]:
        encoded = self._without_dropout(lambda: self.model(views=False))
        graph = self.model.interactions()
        return without_interactions(graph, encoded.users, encoded.items, self.own_cold_items)

    def own_cold_items(self) -> Tensor:
        """ω M/M_i Σ_m f̄_i^m/‖f̄_i^m‖ [I, d]: Eq. 12 for items without interactions, over the M_i of M modalities that
        the item has. The item's own projected features replace those aggregated from its users, and there is no id
        embedding."""
        parts = [unit_rows(part) for part in self._without_dropout(self.model.projected)]
        return self.model.omega * scale_of_present(parts) * torch.stack(parts).sum(0)

    def state(self) -> dict[str, Tensor]:
        return self._parts().state_dict()

    def load_state(self, tensors: dict[str, Tensor]) -> None:
        self._parts().load_state_dict(tensors)

    def _parts(self) -> torch.nn.ModuleDict:
        parts = {"model": self.model, "discriminator": self.discriminator}
        return torch.nn.ModuleDict({name: part for name, part in parts.items() if part is not None})


def _refuse_over_ranks(config: Config) -> None:
    """Raise InputError for settings that need one process."""
    if config.model.neighbours_method == "ivf":
        raise InputError(
            'model.neighbours_method = "ivf": the clustered search needs one process; set it to "exact", or leave '
            "out --ranks or torchrun"
        )
    if config.optimiser.first_layer_weight == "bfloat16":
        raise InputError(
            'optimiser.first_layer_weight = "bfloat16": needs one process; set it to "float32", or leave out --ranks '
            "or torchrun"
        )


def _refuse_with_graph(config: Config, device: torch.device) -> None:
    """Raise InputError for settings with which a step cannot be captured as a CUDA graph."""
    if not config.train.cuda_graph:
        return
    if device.type != "cuda" or config.loss.mask_seen:
        raise InputError(
            f"train.cuda_graph = true: needs a CUDA device and loss.mask_seen = false, got {device.type} and "
            f"{str(config.loss.mask_seen).lower()}; set train.cuda_graph = false"
        )
    for key, value in (("train.recompute", "on"), ("optimiser.first_layer_weight", "bfloat16")):
        if config.flat()[key] == value:
            raise InputError(f'train.cuda_graph = true: does not work with {key} = "{value}"; change one of them')
    if config.train.microbatches > 1:
        raise InputError(
            f"train.cuda_graph = true: does not work with train.microbatches = {config.train.microbatches}; change one "
            "of them"
        )


def _gemm(precision: str, device: torch.device) -> torch.dtype | None:
    """The argument `gemm` of Discriminator and MMSSLObjective.

    Without oneDNN support, torch multiplies bfloat16 matrices on a CPU in plain loops, about a hundred times slower.
    """
    if precision == "float32":
        return None
    if device.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        raise InputError(
            f'train.precision = "{precision}": torch has no fast {precision} product on this processor (on x86 it '
            'needs AVX-512); set train.precision = "float32"'
        )
    return getattr(torch, precision)


def _first_overflowing_float16(features: dict[str, Tensor], ranks: Ranks) -> str | None:
    """The first modality with a value outside the range of float16; None if there is none. Each rank reads the features
    of its items."""
    limit = torch.finfo(torch.float16).max
    for name, values in features.items():
        own = ranks.mine(values)
        largest = own.nan_to_num(0).abs().max() if len(own) else own.new_zeros(())
        if distributed.all_max(largest.float(), ranks) > limit:
            return name
    return None
