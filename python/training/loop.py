"""The training loop: batches, epochs, validation, early stopping; whatever the system."""

from __future__ import annotations

import math
import resource
import sys
import time
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, backends, sample_bpr
from mmssl_fast.tiles import TILE_ELEMENTS

from ..config.sections import Config
from ..data import Dataset
from ..errors import InputError, OutOfMemory, is_out_of_memory
from ..memory.plan import largest, peak, readable, sizes_of, stages
from ..memory.retry import GoBack, Tiles
from ..ranking import split_metrics
from ..study.balance import Balance
from ..systems import create
from ..systems.base import Batch, System

if TYPE_CHECKING:
    from .checkpoints import Checkpoints

WATCHED = "recall@20"
REPORT_SECONDS = 0.25


class NonFiniteLoss(RuntimeError):
    """A loss term, a parameter or an embedding became NaN or infinite; names it, the epoch and the step."""


class Observer(Protocol):
    """What is told of a run's progress; every call comes from the training thread."""

    def accepted(self) -> None:
        """First of all: the system is built and nothing is left that could refuse the configuration or the data."""

    def resumed(self, fit: Fit) -> None:
        """Before `started`, where the run goes on from a state; fit holds what it had come to."""

    def started(self, epochs: int, steps: int) -> None:
        """Before the first step; there are at most `epochs` epochs, each of `steps` steps."""

    def stepped(self, epoch: int, step: int, losses: dict[str, float] | None) -> None:
        """After step 1..steps of an epoch; losses: its terms, now and then (reading them waits for the device)."""

    def epoch_ended(self, record: dict[str, Any]) -> None:
        """After an epoch; record is its line of metrics.jsonl."""

    def improved(self, fit: Fit) -> None:
        """The model is the best so far by validation; fit holds it."""


class Silent:
    """An observer that does nothing."""

    def accepted(self): ...
    def resumed(self, fit): ...
    def started(self, epochs, steps): ...
    def stepped(self, epoch, step, losses): ...
    def epoch_ended(self, record): ...
    def improved(self, fit): ...


@dataclass
class Fit:
    """What training has come to: the best model so far, and how it went.

    users [U, d], items [I, d], parameters: the best epoch's, on the CPU. val: its validation metrics. epochs: the
    records of all epochs. step: steps taken. stale: validations since the best. tile: entries of an item tile by now.
    """

    users: Tensor
    items: Tensor
    parameters: dict[str, Tensor]
    val: dict[str, float] = field(default_factory=dict)
    best_epoch: int = 0
    best: float = -math.inf
    step: int = 0
    stale: int = 0
    tile: int = TILE_ELEMENTS
    epochs: list[dict[str, Any]] = field(default_factory=list)

    @property
    def seconds_per_epoch(self) -> float:
        """Mean training time of an epoch, without its validation; 0 where nothing was trained."""
        return float(np.mean([record["seconds"] for record in self.epochs])) if self.epochs else 0.0


class LossTable:
    """Every step's loss terms of one epoch, kept on the device: nothing is read back until somebody asks."""

    def __init__(self, steps: int, device: torch.device) -> None:
        self.steps, self.device = steps, device
        self.filled = self.checked = 0
        self._name([])

    def _name(self, names: list[str]) -> None:
        self.names = names
        self.values = torch.zeros(self.steps, len(names), dtype=torch.float64, device=self.device)

    def add(self, terms: dict[str, Tensor]) -> None:
        if not self.names:
            self._name(list(terms))
        elif self.names != list(terms):
            raise ValueError(f"LossTable: terms {list(terms)} after {self.names}")
        self.values[self.filled] = torch.stack([term.detach() for term in terms.values()])
        self.filled += 1

    def check(self, epoch: int) -> dict[str, float]:
        """The last step's terms. Raises NonFiniteLoss for the first that is not finite in a step not yet checked."""
        fresh = self.values[self.checked : self.filled].cpu()
        bad = (~fresh.isfinite()).nonzero()
        if bad.numel():
            row, term = bad[0].tolist()
            raise NonFiniteLoss(
                f"loss term {self.names[term]!r} became {fresh[row, term].item()} in epoch {epoch}, step "
                f"{self.checked + row + 1} of {self.steps}; try a lower optimiser.lr"
            )
        self.checked = self.filled
        return dict(zip(self.names, fresh[-1].tolist(), strict=True)) if len(fresh) else {}

    def rows(self) -> Tensor:
        """float64 [steps so far, terms]."""
        return self.values[: self.filled]

    def fill(self, names: list[str], rows: Tensor) -> None:
        """Take over the steps that another table's `names` and `rows()` hold, all of them checked."""
        self._name(names)
        self.filled = self.checked = len(rows)
        self.values[: self.filled] = rows.to(self.device)

    def means(self) -> dict[str, float]:
        """The mean of every term over the epoch's steps so far."""
        return dict(zip(self.names, self.values[: self.filled].mean(0).tolist(), strict=True))


@dataclass
class Position:
    """Where a run stands: its epoch (counted from 1), that epoch's steps so far in `table`, the seconds they took."""

    epoch: int
    table: LossTable
    seconds: float = 0.0


def fit(
    dataset: Dataset,
    config: Config,
    observer: Observer | None = None,
    system: System | None = None,
    checkpoints: Checkpoints | None = None,
    start: dict[str, Tensor] | None = None,
) -> Fit:
    """Train config.model.system on the dataset and return its best model by validation Recall@20.

    One epoch is n_train // batch + 1 steps; a step's triples are drawn by sample_bpr from (train.seed, step), so a run
    is a function of its configuration and data. Validation every train.validate_every epochs; training ends after
    train.patience validations without a better Recall@20, or after train.epochs. Without validation interactions the
    last epoch's model is kept. With checkpoints the run goes on from the newest state, and writes states as it goes.
    start: the parameters of an earlier model of the same users and items, which replace the random initial values.

    A step that runs out of memory is undone and taken once more with item tiles of half the size, from the newest state
    (without one: from the beginning) where it had written to a large tensor already.

    Raises NonFiniteLoss, Interrupted (with checkpoints, after a signal), OutOfMemory with the plan's figures, and
    InputError where no user has an item left to draw as a negative or the device is missing.
    """
    try:
        return _fit(dataset, config, observer or Silent(), system, checkpoints, start)
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = (str(error).splitlines() or [type(error).__name__])[0]
    found = stages(sizes_of(dataset, config))
    raise OutOfMemory(
        f"out of memory {reason}; the plan was {readable(peak(found))}, the largest parts: {largest(found)}; choose a "
        "smaller model.dim or model.hidden, or free memory"
    )


def _fit(dataset, config, observer, system, checkpoints, start) -> Fit:
    device = pick_device(config.train.device)
    if config.train.threads:
        torch.set_num_threads(config.train.threads)
    graph = InteractionGraph.from_scipy(dataset.train).to(device)
    system = system or create(config.model.system)
    fitted = Fit(*(torch.empty(0),) * 2, parameters={})
    _begin(system, dataset, graph, config, fitted, start)
    if not system.trains or config.train.epochs == 0:
        observer.accepted()
        fitted.val = split_metrics(
            *system.embeddings(), dataset, "val", config.evaluate.ks, batch=config.evaluate.batch
        )
        fitted.best, fitted.parameters = fitted.val[WATCHED], _copies(system)
        observer.improved(fitted)
        return fitted
    batch = _batch(dataset, graph, config)
    if batch < system.least_batch:
        raise InputError(
            f"train.batch = {batch} triples a step: {config.model.system} needs at least {system.least_batch} with "
            "these losses; raise it, sample over interactions, or set loss.adversarial to false"
        )
    steps = graph.nnz // config.train.batch + 1
    position = Position(1, LossTable(steps, device))
    restored = checkpoints and checkpoints.restore(system, fitted, position)
    observer.accepted()
    if restored:
        observer.resumed(fitted)
    observer.started(config.train.epochs, steps)
    tiles = Tiles(fitted.tile)
    while position.epoch <= config.train.epochs and not _out_of_patience(fitted, config):
        try:
            _train_epoch(system, graph, config, fitted, position, batch, observer, checkpoints, tiles)
        except GoBack:
            position.table, position.epoch, position.seconds = LossTable(steps, device), 1, 0.0
            if not (checkpoints and checkpoints.open() and checkpoints.restore(system, fitted, position)):
                _begin(system, dataset, graph, config, fitted, start)
            tiles.elements = fitted.tile
            observer.resumed(fitted)
            continue
        epoch = position.epoch
        if checkpoints and epoch == config.train.epochs:
            # Before the last validation, which a run of more epochs may not have here.
            checkpoints.keep_last(system, fitted, position)
        record = {"epoch": epoch, "seconds": position.seconds, "losses": position.table.means()}
        if config.train.balance:
            record["balance"] = _balance(system, graph, config, fitted, batch, epoch)
        if epoch == config.train.epochs or epoch % config.train.validate_every == 0:
            _validate(system, dataset, config, fitted, record)
        record["peak_memory_bytes"] = peak_memory(device)
        fitted.epochs.append(record)
        observer.epoch_ended(record)
        if fitted.best_epoch == epoch:
            observer.improved(fitted)
        position.epoch, position.table, position.seconds = epoch + 1, LossTable(steps, device), 0.0
        if checkpoints and epoch < config.train.epochs:
            checkpoints.visit(system, fitted, position, epoch_ended=True)
    return fitted


def _begin(
    system: System, dataset: Dataset, graph: InteractionGraph, config: Config, fitted: Fit,
    start: dict[str, Tensor] | None,
) -> None:  # fmt: skip
    """Make the system and what it has come to as they are before the first step."""
    torch.manual_seed(config.train.seed)
    system.build(dataset, graph, config)
    if start is not None:
        _take_over(system, start, config.train.start)
    fresh = Fit(*_to_cpu(system.embeddings()), parameters={}, tile=config.train.tile or TILE_ELEMENTS)
    vars(fitted).update(vars(fresh))


def _take_over(system: System, start: dict[str, Tensor], source: str) -> None:
    """Replace the system's initial values by a model's. Raises InputError where a learnt parameter does not fit."""
    own = system.parameters()
    learnt = dict(system.model.named_parameters()) if system.trains else {}
    fitting = {name: tensor for name, tensor in start.items() if name in own and own[name].shape == tensor.shape}
    for name, parameter in learnt.items():
        if name not in fitting:
            there = f"is {tuple(start[name].shape)} there" if name in start else "is not there"
            raise InputError(
                f"{source}: its model does not fit this configuration: {name} {there}, {tuple(parameter.shape)} here; "
                "leave out the settings that change it"
            )
    system.load_parameters(own | fitting)  # buffers that hang on the interactions keep their own shape


def _balance(system, graph, config, fitted, batch, epoch) -> Balance:
    """How the loss terms of the step to come pull on the model. Raises NonFiniteLoss where one is not finite, and
    OutOfMemory saying what to leave out."""
    if not config.train.cuda_graph:  # whose recording owns them
        for optimiser in system.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
    triples = sample_bpr(graph, batch, config.train.seed, fitted.step, config.train.sample_over)
    try:
        found = system.balance(Batch(*triples, fitted.step))
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        raise OutOfMemory(
            f"after epoch {epoch}, in what train.balance = true asks for: out of memory; set it to false"
        ) from None
    for part, terms in found.items():
        for term, pull in terms.items():
            if not math.isfinite(pull["norm"]):
                raise NonFiniteLoss(
                    f"the gradient of {term!r} on {part!r} became {pull['norm']} after epoch {epoch}; try a lower "
                    "optimiser.lr"
                )
    return found


def _out_of_patience(fitted: Fit, config: Config) -> bool:
    return bool(config.train.patience) and fitted.stale >= config.train.patience


def _validate(system: System, dataset: Dataset, config: Config, fitted: Fit, record: dict[str, Any]) -> None:
    """Rank the validation items, add the metrics to the epoch's record, and keep the model where it is the best."""
    started = time.perf_counter()
    users, items = system.embeddings()
    for name, table in (("user", users), ("item", items)):
        if not table.isfinite().all():
            raise NonFiniteLoss(
                f"{name} embeddings became non-finite in epoch {record['epoch']}; try a lower optimiser.lr"
            )
    metrics = split_metrics(users, items, dataset, "val", config.evaluate.ks, batch=config.evaluate.batch)
    record["val"], record["validation_seconds"] = metrics, time.perf_counter() - started
    better = metrics["users"] == 0 or metrics[WATCHED] > fitted.best
    fitted.stale = 0 if better else fitted.stale + 1
    if better:
        fitted.users, fitted.items = _to_cpu((users, items))
        fitted.parameters, fitted.val, fitted.best_epoch = _copies(system), metrics, record["epoch"]
        fitted.best = metrics[WATCHED]


def _batch(dataset: Dataset, graph: InteractionGraph, config: Config) -> int:
    """Triples of a step: train.batch, but no more than there are users to draw where each is drawn once."""
    eligible = int(((graph.user_degree > 0) & (graph.user_degree < graph.n_items)).sum())
    if not eligible:
        raise InputError(f"{dataset.name}: every user has interacted with every item, there is no negative to draw")
    return min(config.train.batch, eligible) if config.train.sample_over == "users" else config.train.batch


def _train_epoch(system, graph, config, fitted, position, batch, observer, checkpoints, tiles) -> None:
    """Take the steps that are left of position's epoch, filling its table. Raises GoBack where only an earlier state
    can undo a step that ran out of memory, and OutOfMemory where one did twice."""
    began = reported = time.perf_counter()
    epoch, table, before = position.epoch, position.table, position.seconds
    if not table.filled:
        system.start_epoch(epoch)
    for step in range(table.filled + 1, table.steps + 1):

        def act() -> dict[str, Tensor]:
            triples = sample_bpr(graph, batch, config.train.seed, fitted.step, config.train.sample_over)
            return system.step(Batch(*triples, fitted.step))

        try:
            table.add(tiles.take(system, table.device, fitted.step, act, not config.train.cuda_graph))
        except OutOfMemory as error:
            raise OutOfMemory(f"in epoch {epoch}, step {step} of {table.steps}, {error}") from None
        fitted.step, fitted.tile = fitted.step + 1, tiles.elements
        losses = None
        if step == table.steps or time.perf_counter() - reported > REPORT_SECONDS:
            losses, reported = table.check(epoch), time.perf_counter()
        observer.stepped(epoch, step, losses)
        position.seconds = before + time.perf_counter() - began
        if checkpoints:
            checkpoints.visit(system, fitted, position)


def pick_device(name: str) -> torch.device:
    """The torch device of that name. Raises InputError where there is none, or an op has no kernel for it."""
    try:
        device = torch.device(name)
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); choose cpu, or a device this torch has") from None
    missing = [op for op, where in backends().items() if where.get(device.type, "no kernel") == "no kernel"]
    if missing:
        raise InputError(f"device {name!r}: this build has no kernel there for {', '.join(missing)}; choose cpu")
    return device


def peak_memory(device: torch.device) -> int:
    """Bytes at the highest so far: allocated on the device for CUDA, resident in this process otherwise."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _to_cpu(tensors) -> tuple[Tensor, ...]:
    return tuple(tensor.detach().to("cpu", copy=True) for tensor in tensors)


def _copies(system: System) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in system.parameters().items()}
