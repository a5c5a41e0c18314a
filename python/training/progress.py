"""How far a run has come and what it has come to, and who is told of it."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmssl_fast.tiles import TILE_ELEMENTS

from ..errors import NonFiniteLoss

SELECTION_METRIC = "recall@20"
_FIT_VALUES = ("step", "tile", "stale", "best_epoch", "val", "epochs")


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

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of it: tensors, and what goes into JSON."""
        tensors = {"best.users": self.users, "best.items": self.items}
        tensors |= {f"best.parameter.{name}": tensor for name, tensor in self.parameters.items()}
        best = self.best if math.isfinite(self.best) else None
        return tensors, {name: getattr(self, name) for name in _FIT_VALUES} | {"best": best}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what `state` gave. Raises KeyError or ValueError for missing or wrongly shaped embeddings."""
        for side in ("users", "items"):
            saved, like = tensors[f"best.{side}"], getattr(self, side)
            if saved.shape != like.shape or saved.dtype != like.dtype:
                raise ValueError(f"best.{side} is {saved.dtype} {tuple(saved.shape)}")
        self.users, self.items = tensors["best.users"], tensors["best.items"]
        prefix = "best.parameter."
        self.parameters = {name.removeprefix(prefix): one for name, one in tensors.items() if name.startswith(prefix)}
        for name in _FIT_VALUES:
            setattr(self, name, values[name])
        self.best = -math.inf if values["best"] is None else values["best"]


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

    def __str__(self) -> str:
        if not self.table.filled:
            return f"after epoch {self.epoch - 1}"
        return f"in epoch {self.epoch}, after step {self.table.filled} of {self.table.steps}"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint holds of it: tensors, and what goes into JSON."""
        values = {"where": str(self), "epoch": self.epoch, "seconds": self.seconds, "terms": self.table.names}
        return {"losses": self.table.rows()}, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Take over what `state` gave."""
        self.table.fill(values["terms"], tensors["losses"])
        self.epoch, self.seconds = values["epoch"], values["seconds"]


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


class NullObserver:
    """An observer that does nothing."""

    def accepted(self): ...
    def resumed(self, fit): ...
    def started(self, epochs, steps): ...
    def stepped(self, epoch, step, losses): ...
    def epoch_ended(self, record): ...
    def improved(self, fit): ...


class ObserverList:
    """Observers told in turn."""

    def __init__(self, *observers) -> None:
        self.observers = observers

    def accepted(self) -> None:
        for one in self.observers:
            one.accepted()

    def resumed(self, *args) -> None:
        for one in self.observers:
            one.resumed(*args)

    def started(self, *args) -> None:
        for one in self.observers:
            one.started(*args)

    def stepped(self, *args) -> None:
        for one in self.observers:
            one.stepped(*args)

    def epoch_ended(self, *args) -> None:
        for one in self.observers:
            one.epoch_ended(*args)

    def improved(self, *args) -> None:
        for one in self.observers:
            one.improved(*args)
