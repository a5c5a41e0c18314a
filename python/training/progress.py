"""The progress of a run: the best model so far, the losses of the epoch, the position, and the observers."""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np
import torch
from torch import Tensor

from mmssl_fast.tiles import TILE_ELEMENTS

from ..embeddings import Table, packed, unpacked
from ..errors import NonFiniteLoss

_FIT_VALUES = ("step", "tile", "stale", "best_epoch", "val", "epochs")


@dataclass
class Fit:
    """The result of training so far.

    users [U, d], items [I, d], parameters, val: embeddings, parameters and validation metrics of the best epoch, on the
    CPU. best: its Recall@20, or the metric of `selection`. step: number of steps taken. stale: number of validations
    since the best epoch. tile: current number of entries in an item tile. epochs: the records of all epochs, the lines
    of metrics.jsonl.
    """

    users: Table
    items: Table
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
        """Mean training time of an epoch without validation; 0 if nothing was trained."""
        return float(np.mean([record["seconds"] for record in self.epochs])) if self.epochs else 0.0

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint stores: tensors, and values for JSON."""
        tensors = packed("best.users", self.users) | packed("best.items", self.items)
        tensors |= {f"best.parameter.{name}": tensor for name, tensor in self.parameters.items()}
        best = self.best if math.isfinite(self.best) else None
        return tensors, {name: getattr(self, name) for name in _FIT_VALUES} | {"best": best}

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Load the result of `state`. Raises KeyError or ValueError for missing embeddings or a wrong shape."""
        best = {side: unpacked(tensors, f"best.{side}") for side in ("users", "items")}
        for side, saved in best.items():
            current = getattr(self, side)
            if type(saved) is not type(current) or saved.shape != current.shape or saved.dtype != current.dtype:
                raise ValueError(f"best.{side} is {saved.dtype} {tuple(saved.shape)}")
        self.users, self.items = best["users"], best["items"]
        prefix = "best.parameter."
        self.parameters = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
        for name in _FIT_VALUES:
            setattr(self, name, values[name])
        self.best = -math.inf if values["best"] is None else values["best"]


class LossTable:
    """The loss terms of all steps of an epoch. They stay on the device, because reading them waits for it."""

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
        """The terms of the last step. Raises NonFiniteLoss if a step since the last check has a non-finite term."""
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
        """The terms of all steps so far, float64 [steps, terms]."""
        return self.values[: self.filled]

    def fill(self, names: list[str], rows: Tensor) -> None:
        """Load the `names` and `rows()` of another table, which have been checked."""
        self._name(names)
        self.filled = self.checked = len(rows)
        self.values[: self.filled] = rows.to(self.device)

    def means(self) -> dict[str, float]:
        """The mean of every term over the steps so far."""
        return dict(zip(self.names, self.values[: self.filled].mean(0).tolist(), strict=True))


@dataclass
class Position:
    """The position of a run: the epoch (from 1), the losses of its steps so far, and their time in seconds."""

    epoch: int
    table: LossTable
    seconds: float = 0.0

    def __str__(self) -> str:
        if not self.table.filled:
            return f"after epoch {self.epoch - 1}"
        return f"in epoch {self.epoch}, after step {self.table.filled} of {self.table.steps}"

    def state(self) -> tuple[dict[str, Tensor], dict[str, Any]]:
        """What a checkpoint stores: tensors, and values for JSON."""
        values = {"where": str(self), "epoch": self.epoch, "seconds": self.seconds, "terms": self.table.names}
        return {"losses": self.table.rows()}, values

    def load_state(self, tensors: dict[str, Tensor], values: dict[str, Any]) -> None:
        """Load the result of `state`."""
        self.table.fill(values["terms"], tensors["losses"])
        self.epoch, self.seconds = values["epoch"], values["seconds"]


class Observer(Protocol):
    """Receives calls about the progress of a run, from the training thread.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> class Epochs(NullObserver):
    ...     def epoch_ended(self, record):
    ...         print("epoch", record["epoch"])
    >>> settings = {"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}
    >>> model = fit(load_data(), configure(settings), Epochs())
    epoch 1
    """

    def accepted(self) -> None:
        """The first call. The system has been built, so the configuration and the data are valid."""

    def resumed(self, fit: Fit) -> None:
        """Called when the run continues from a checkpoint, with the progress stored in it."""

    def started(self, epochs: int, steps: int) -> None:
        """Called before the first step, with the maximum number of epochs and the number of steps per epoch."""

    def stepped(self, epoch: int, step: int, losses: dict[str, float] | None) -> None:
        """Called after each step (1, 2, …). losses is mostly None, because reading the losses waits for the device."""

    def epoch_ended(self, record: dict[str, Any]) -> None:
        """Called after each epoch, with its line of metrics.jsonl."""

    def improved(self, fit: Fit) -> None:
        """Called when the model is the best so far on the validation split."""


class NullObserver:
    """An observer that does nothing."""

    def accepted(self) -> None: ...
    def resumed(self, fit: Fit) -> None: ...
    def started(self, epochs: int, steps: int) -> None: ...
    def stepped(self, epoch: int, step: int, losses: dict[str, float] | None) -> None: ...
    def epoch_ended(self, record: dict[str, Any]) -> None: ...
    def improved(self, fit: Fit) -> None: ...


class ObserverList:
    """An observer that passes every call on to several observers, in order."""

    def __init__(self, *observers: Observer) -> None:
        self.observers = observers

    def accepted(self) -> None:
        self._call("accepted")

    def resumed(self, *args: Any) -> None:
        self._call("resumed", *args)

    def started(self, *args: Any) -> None:
        self._call("started", *args)

    def stepped(self, *args: Any) -> None:
        self._call("stepped", *args)

    def epoch_ended(self, *args: Any) -> None:
        self._call("epoch_ended", *args)

    def improved(self, *args: Any) -> None:
        self._call("improved", *args)

    def _call(self, name: str, *args: Any) -> None:
        for observer in self.observers:
            getattr(observer, name)(*args)
