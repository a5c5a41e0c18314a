"""The training loop of all systems: batches, epochs, validation and early stopping."""

from __future__ import annotations

import math
import resource
import sys
import time
from typing import Any

import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, backends, distributed
from mmssl_fast.tiles import TILE_ELEMENTS

from ..config.byte_size import readable
from ..config.sections import Config
from ..data import Dataset
from ..data.npy import release
from ..embeddings import is_finite, on_cpu
from ..errors import InputError, NonFiniteLoss, OutOfMemory, first_line, is_out_of_memory
from ..memory.plan import largest, peak, stages
from ..memory.retry import RestoreNeeded, Tiles
from ..memory.sizes import sizes_of
from ..systems import create, refuse_item_item, refuse_over_groups, title
from ..systems.base import Batch, System
from .balance import Balance, measure
from .checkpoints import Checkpoints
from .critic import measure_critic
from .progress import Fit, LossTable, NullObserver, Observer, Position
from .ranks import refuse_different_results
from .selection import Validation, selection
from .start import Start
from .weighted import WeightedSampler

REPORT_SECONDS = 0.25


def fit(
    dataset: Dataset,
    config: Config,
    observer: Observer | None = None,
    system: System | None = None,
    checkpoints: Checkpoints | None = None,
    start: Start | None = None,
) -> Fit:
    """Train config.model.system on the dataset. Returns the best model by validation Recall@20, or train.select_by.

    An epoch has n_train // batch + 1 steps. sample_bpr draws the triples of a step from (train.seed, step), so that a
    run depends only on its configuration and data. The model is validated every train.validate_every epochs; with
    train.select, the metric may be that of cold items among themselves. Training ends after train.patience validations
    without a better one, or after train.epochs. If the data has no validation interactions, the model of the last epoch
    is returned.

    observer: is called after every step and epoch. system: replaces config.model.system, for tests. checkpoints: resume
    from the newest checkpoint and write new ones. start: values of a model, which replace the random initial values.

    A step that runs out of memory is undone and repeated with item tiles of half the size. If it cannot be undone, the
    run continues from the newest checkpoint, or from the start. With several ranks the run ends instead, because the
    other ranks are already in the step.

    Raises NonFiniteLoss; Interrupted after a signal (with checkpoints); OutOfMemory with the memory estimate; and
    InputError if no user has an item left that can be drawn as a negative, or the device is missing.
    """
    try:
        return Run(dataset, config, observer or NullObserver(), system, checkpoints, start).complete()
    except Exception as error:
        if not is_out_of_memory(error):
            raise
        reason = first_line(error)
    plan = stages(sizes_of(dataset, config))
    raise OutOfMemory(
        f"out of memory {reason}; the estimate was {readable(peak(plan))}, largest parts: {largest(plan)}; choose a "
        "smaller model.dim or model.hidden, or free some memory"
    )


class Run:
    """A training run: the system, its data, its progress, and the methods of the loop."""

    def __init__(
        self,
        dataset: Dataset,
        config: Config,
        observer: Observer,
        system: System | None = None,
        checkpoints: Checkpoints | None = None,
        start: Start | None = None,
    ) -> None:
        self.dataset, self.config, self.observer, self.checkpoints = dataset, config, observer, checkpoints
        self.start = start
        self.device = pick_device(config.train.device)
        if config.train.threads:
            torch.set_num_threads(config.train.threads)
        self.graph = graph_of(dataset, config.model.system).to(self.device)
        self.system = system or create(config.model.system)
        self.weighted = self._sampler()
        self.steps = self.graph.nnz // config.train.batch + 1
        self._begin()
        self.trains = self.system.trains and config.train.epochs > 0
        self.batch = self._batch() if self.trains else 0

    def _sampler(self) -> WeightedSampler | None:
        """What draws the triples if the interactions have weights. Raises InputError if nothing would use these."""
        name, weights = self.dataset.name, self.dataset.weights
        if weights is None:
            return None
        if distributed.current().size > 1:
            raise InputError(
                f"{name}: only one process can train on interactions with weights; leave out --weight-column, or "
                "--ranks and torchrun"
            )
        if self.system.trains:
            return WeightedSampler(self.graph, weights)
        if not getattr(self.system, "uses_weights", False):
            system = title(self.config.model.system)
            raise InputError(
                f"{name}: {system} does not use the weights of the interactions; leave out --weight-column"
            )
        return None

    def _begin(self) -> None:
        """Initialise the system and the progress of the run."""
        refuse_item_item(self.config)
        torch.manual_seed(self.config.train.seed)
        self.system.build(self.dataset, self.graph, self.config)
        self.dataset.release_features()
        if self.start is not None:
            self.start.load(self.system)
        tile = self.config.train.tile or TILE_ELEMENTS
        users, items = (on_cpu(table, copy=self.system.trains) for table in self.system.embeddings())
        self.validation = Validation(self.dataset, items, self.config)
        self.fit = Fit(users, items, parameters={}, tile=tile)
        self._start_epoch(1)

    def _start_epoch(self, epoch: int) -> None:
        self.position = Position(epoch, LossTable(self.steps, self.device))

    def complete(self) -> Fit:
        """Train until the last epoch or early stopping; see `fit`."""
        if not self.trains:
            self.observer.accepted()
            self.fit.val = self.validation.metrics(*self.system.embeddings())
            self.fit.best, self.fit.parameters = selection(self.fit.val), _copies(self.system)
            self.observer.improved(self.fit)
            return self.fit
        restored = self._restore()
        self.observer.accepted()
        if restored:
            self.observer.resumed(self.fit)
        self.observer.started(self.config.train.epochs, self.steps)
        self.tiles = Tiles(self.fit.tile)
        while self.position.epoch <= self.config.train.epochs and not self._out_of_patience():
            try:
                self._train_epoch()
            except RestoreNeeded:
                self._start_epoch(1)
                if not (self.checkpoints and self.checkpoints.open() and self._restore()):
                    self._begin()
                self.tiles.elements = self.fit.tile
                self.observer.resumed(self.fit)
                continue
            self._end_epoch()
        return self.fit

    def _restore(self) -> bool:
        return self.checkpoints is not None and self.checkpoints.restore(self.system, self.fit, self.position)

    def _out_of_patience(self) -> bool:
        return bool(self.config.train.patience) and self.fit.stale >= self.config.train.patience

    def _batch(self) -> int:
        """Triples per step. If users are drawn without replacement, there cannot be more triples than users."""
        batch, by_user = self.config.train.batch, self.config.train.sample_over == "users"
        eligible = self.graph.n_eligible
        if not eligible:
            raise InputError(
                f"{self.dataset.name}: every user has interacted with every item, so there are no negatives to sample"
            )
        batch = min(batch, eligible) if by_user else batch
        if batch < self.system.least_batch:
            count = self.config.train.microbatches
            parts = f" and train.microbatches = {count}" if count > 1 else ""
            raise InputError(
                f"train.batch = {batch} triples per step: {self.config.model.system} needs at least "
                f"{self.system.least_batch} with these losses{parts}; increase it, set train.sample_over = "
                '"interactions", or set loss.adversarial = false'
            )
        return batch

    def next_batch(self) -> Batch:
        """The triples of the next step."""
        train, step = self.config.train, self.fit.step
        if self.weighted is not None:
            return Batch(*self.weighted(self.batch, train.seed, step, train.sample_over), step)
        return Batch(*distributed.sample_bpr(self.graph, self.batch, train.seed, step, train.sample_over), step)

    def _train_epoch(self) -> None:
        """Take the remaining steps of the current epoch. Raises RestoreNeeded if a step ran out of memory and cannot be
        undone, and OutOfMemory if a step ran out of memory twice."""
        began = reported = time.perf_counter()
        epoch, table, before = self.position.epoch, self.position.table, self.position.seconds
        if not table.filled:
            self.system.start_epoch(epoch)
        for step in range(table.filled + 1, table.steps + 1):
            try:
                table.add(
                    self.tiles.take(
                        self.system,
                        self.device,
                        self.fit.step,
                        lambda: self.system.step(self.next_batch()),
                        undoable=not self.config.train.cuda_graph,
                        repeatable=distributed.current().size == 1,
                    )
                )
            except OutOfMemory as error:
                raise OutOfMemory(f"in epoch {epoch}, step {step} of {table.steps}, {error}") from None
            self.fit.step, self.fit.tile = self.fit.step + 1, self.tiles.elements
            check_every = self.config.distributed.check_every
            if check_every and self.fit.step % check_every == 0:
                refuse_different_results(table.rows()[-1], f"the losses of step {step} of epoch {epoch}")
            losses = None
            if step == table.steps or time.perf_counter() - reported > REPORT_SECONDS:
                losses, reported = table.check(epoch), time.perf_counter()
            self.observer.stepped(epoch, step, losses)
            self.position.seconds = before + time.perf_counter() - began
            if self.checkpoints:
                self.checkpoints.visit(self.system, self.fit, self.position)

    def _end_epoch(self) -> None:
        """Validate, record the epoch, and write a checkpoint if one is due."""
        epoch, train = self.position.epoch, self.config.train
        refuse_different_results(self.position.table.rows(), f"the losses of epoch {epoch}")
        if self.checkpoints and epoch == train.epochs:
            # Before the last validation, because a run with more epochs may not validate after this epoch.
            self.checkpoints.keep_last(self.system, self.fit, self.position)
        record = {"epoch": epoch, "seconds": self.position.seconds, "losses": self.position.table.means()}
        record |= getattr(self.system, "measurements", dict)()
        if train.balance:
            record["balance"] = self._balance()
            users = self.next_batch().users
            if critic := measure_critic(self.system, users, self.fit.step * train.discriminator_steps, self.device):
                record["critic"] = critic
        if epoch == train.epochs or epoch % train.validate_every == 0:
            self._validate(record)
        record["peak_memory_bytes"] = peak_memory(self.device)
        self.fit.epochs.append(record)
        self.observer.epoch_ended(record)
        if self.fit.best_epoch == epoch:
            self.observer.improved(self.fit)
        self._start_epoch(epoch + 1)
        if self.checkpoints and epoch < train.epochs:
            self.checkpoints.visit(self.system, self.fit, self.position, epoch_ended=True)

    def _balance(self) -> Balance:
        """The gradient statistics of train.balance for the next step. Raises NonFiniteLoss, and OutOfMemory that
        suggests disabling train.balance."""
        after = f"after epoch {self.position.epoch}"
        if not self.config.train.cuda_graph:  # a captured graph writes to fixed gradient tensors, which must stay
            for optimiser in self.system.optimisers.values():
                optimiser.zero_grad(set_to_none=True)
        try:
            balance = measure(self.system, self.next_batch(), self.device)
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            raise OutOfMemory(
                f"out of memory {after}, in the computation of train.balance; set train.balance = false"
            ) from None
        for part, terms in balance.items():
            for term, gradient in terms.items():
                if not math.isfinite(gradient["norm"]):
                    raise NonFiniteLoss(
                        f"the gradient of {term!r} on {part!r} became {gradient['norm']} {after}; try a lower "
                        "optimiser.lr"
                    )
        return balance

    def _validate(self, record: dict[str, Any]) -> None:
        """Validate, add the metrics to the record of the epoch, and keep a copy of the model if it is the best."""
        started = time.perf_counter()
        users, items = self.system.embeddings()
        for name, table in (("user", users), ("item", items)):
            if not is_finite(table):
                raise NonFiniteLoss(
                    f"{name} embeddings became non-finite in epoch {record['epoch']}; try a lower optimiser.lr"
                )
        metrics = self.validation.metrics(users, items)
        record["val"], record["validation_seconds"] = metrics, time.perf_counter() - started
        fit = self.fit
        better = metrics["users"] == 0 or selection(metrics) > fit.best
        fit.stale = 0 if better else fit.stale + 1
        if better:
            fit.users, fit.items = on_cpu(users), on_cpu(items)
            fit.parameters, fit.val, fit.best_epoch = _copies(self.system), metrics, record["epoch"]
            fit.best = selection(metrics)


def graph_of(dataset: Dataset, system: str) -> InteractionGraph:
    """The training interactions as a graph, with several groups of ranks the part of this rank's group."""
    ranks = distributed.current()
    if ranks.groups.size == 1:
        return InteractionGraph.from_scipy(dataset.train)
    refuse_over_groups(system, ranks.groups.size)
    matrix = dataset.train
    graph = distributed.GroupGraph.from_csr(matrix.indptr, matrix.indices, dataset.n_items, ranks)
    release(matrix.indices)
    return graph


def pick_device(name: str) -> torch.device:
    """The torch device of this name. Raises InputError if it is not available, or an op has no kernel for it."""
    try:
        device = torch.device(name)
    except RuntimeError:
        raise InputError(f"device {name!r}: must be cpu, cuda, or a device such as cuda:1") from None
    try:
        torch.empty(0, device=device)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"device {name!r} cannot be used ({reason}); choose cpu or an available device") from None
    missing = [op for op, kernels in backends().items() if kernels.get(device.type, "no kernel") == "no kernel"]
    if missing:
        raise InputError(f"device {name!r}: this build has no kernel for {', '.join(missing)} on it; choose cpu")
    return device


def peak_memory(device: torch.device) -> int:
    """Peak memory in bytes: allocated on the device for CUDA, otherwise resident in this process."""
    if device.type == "cuda":
        return torch.cuda.max_memory_allocated(device)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def _copies(system: System) -> dict[str, Tensor]:
    return {name: tensor.detach().to("cpu", copy=True) for name, tensor in system.parameters().items()}
