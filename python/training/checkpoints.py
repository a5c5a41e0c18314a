"""Checkpoints of a run, in the folder state/ of its run folder. A resumed run continues as if it had not been
interrupted: a checkpoint contains the parameters, the optimisers, the random generators, the best model so far and the
position within the epoch."""

from __future__ import annotations

import json
import shlex
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from mmssl_fast import __version__, distributed

from ..config.compare import refuse_other
from ..config.sections import Config
from ..data import Dataset
from ..errors import InputError, Interrupted, NonFiniteLoss, first_line
from ..systems.base import System
from . import sharded_state
from .progress import Fit, Position
from .ranks import agreed
from .signals import Stop
from .state_file import SEAL, State, newest, read, write

FOLDER = "state"


class Checkpoints:
    """Writes the checkpoints of one run and reads the newest one.

    A checkpoint is written every train.checkpoint_every epochs; train.checkpoint_minutes after the last one, but not
    before 20 times the time that writing it took; when `stop` has received a signal; and after the last step of the
    last epoch, so that a finished run can be continued with more epochs.
    """

    def __init__(self, run: Path, dataset: Dataset, config: Config, stop: Stop | None = None) -> None:
        self.run, self.folder, self.dataset, self.config = run, run / FOLDER, dataset, config
        self.stop = stop or Stop()
        self.written_at, self.took = time.monotonic(), 0.0
        self.last = ""
        self._state: State | None = None

    def open(self) -> bool:
        """Read the newest checkpoint. Returns False if there is none.

        Raises InputError that names the difference if the data or the configuration differs, a file is damaged, or
        `state` is a link or a file.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise InputError(f"{self.folder}: must be a folder, not a link or a file; restore it, or start a new run")
        path = newest(self.folder)
        if path is None:
            return False
        state = State(path, {}, sharded_state.read_body(path)) if path.name == SEAL else read(path)
        self._check_same(state.body)
        self._state, self.last = state, state.body["where"]
        return True

    def notes(self) -> list[str]:
        """Sentences about the checkpoint that was opened."""
        if self._state is None:
            return []
        body, threads = self._state.body, self.config.train.threads or torch.get_num_threads()
        notes = [f"resumed from the checkpoint written {self.last}"]
        if body["threads"] != threads:
            notes.append(f"the number of threads changes from {body['threads']} to {threads}: results may differ")
        if body["versions"] != _versions():
            notes.append(f"the versions change from {body['versions']} to {_versions()}: results may differ")
        return notes

    def restore(self, system: System, fit: Fit, position: Position) -> bool:
        """Load the opened checkpoint into all three and into torch's random generators. Returns False without one."""
        if self._state is None:
            return False
        state, ranks = self._state, distributed.current()
        side = sharded_state.sides(system, self.config.model.system)
        if state.path.name == SEAL:
            state = sharded_state.read(state.path, state.body, side)
        elif ranks.size > 1:
            state = sharded_state.cut(state, side)
        _restore(state, system, fit, position)
        self._state = None
        return True

    def visit(self, system: System, fit: Fit, position: Position, epoch_ended: bool = False) -> None:
        """Call this after each step and each epoch. It writes a checkpoint if one is due.

        Raises NonFiniteLoss if a value to be saved is not finite, InputError if the checkpoint cannot be written (the
        previous one stays), and Interrupted after a signal.
        """
        due = self._due(position, epoch_ended) and distributed.current().rank == 0
        # stop.received is not assigned here: a signal that arrives while the ranks agree would be overwritten.
        received, due = agreed(self.stop.received, due)
        if not (received or due):
            return
        started = time.monotonic()
        self._write(system, fit, position)
        self.written_at = time.monotonic()
        self.took = self.written_at - started
        self.raise_if_stopped()

    def keep_last(self, system: System, fit: Fit, position: Position) -> None:
        """Call this after the last step of the last epoch. It writes a checkpoint, unless there is one of this position
        or the configuration disables checkpoints."""
        every, minutes = self.config.train.checkpoint_every, self.config.train.checkpoint_minutes
        if (every or minutes) and self.last != str(position):
            self._write(system, fit, position)

    @property
    def opened(self) -> bool:
        """Whether a checkpoint has been opened and not been restored yet."""
        return self._state is not None

    def raise_if_stopped(self) -> None:
        """Raise Interrupted after a signal, on all ranks if any rank has received one."""
        received, _ = agreed(self.stop.received)
        if received:
            position = self.last or "before the first checkpoint"
            raise Interrupted(f"interrupted {position}; to resume: {resume_command(self.run)}", received)

    def _due(self, position: Position, epoch_ended: bool) -> bool:
        every, minutes = self.config.train.checkpoint_every, self.config.train.checkpoint_minutes
        if epoch_ended and every and (position.epoch - 1) % every == 0:
            return True
        return bool(minutes) and time.monotonic() - self.written_at >= max(60 * minutes, 20 * self.took)

    def _write(self, system: System, fit: Fit, position: Position) -> None:
        position.table.check(position.epoch)
        tensors, body = _collect(system, fit, position)
        _check_finite(tensors, position)
        body |= {
            "config": self.config.model_dump(),
            "fingerprint": self.dataset.fingerprint,
            "threads": torch.get_num_threads(),
            "versions": _versions(),
        }
        last = f"the checkpoint written {self.last} is kept" if self.last else "there is no earlier checkpoint"
        advice = f"{last}; free some disk space, then {resume_command(self.run)}"
        if distributed.current().size == 1:
            write(self.folder, fit.step, tensors, body, advice)
        else:
            rows = {"users": self.dataset.n_users, "items": self.dataset.n_items}
            side = sharded_state.sides(system, self.config.model.system)
            sharded_state.write(self.folder, fit.step, tensors, body, side, rows, advice)
        self.last = str(position)

    def _check_same(self, body: dict[str, Any]) -> None:
        if body["fingerprint"] != self.dataset.fingerprint:
            raise InputError(
                f"{self.run}: the data has changed since the run was started: its fingerprint was "
                f"{body['fingerprint'][:16]}, but is {self.dataset.fingerprint[:16]} now; restore the data, or start a "
                "new run"
            )
        refuse_other(self.run, body["config"], self.config.model_dump(), more_epochs=True)


def resume_command(run: Path) -> str:
    """The command that resumes a run."""
    return f"mmssl-fast train --resume {shlex.quote(str(run))}"


def ranks_of_checkpoint(run: Path) -> int:
    """The number of ranks that wrote the newest checkpoint of a run, 0 if there is none or it cannot be read."""
    path = newest(run / FOLDER)
    if path is None or path.name != SEAL:
        return int(path is not None)
    try:
        return int(json.loads(path.read_text(encoding="utf-8"))["state"]["tensors"]["ranks"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def _collect(system: System, fit: Fit, position: Position) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """The content of a checkpoint: (tensors by name, values for JSON)."""
    tensors = {f"system.{name}": tensor for name, tensor in system.state().items()}
    optimisers = {}
    for name, optimiser in system.optimisers.items():
        saved = optimiser.state_dict()
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in saved["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{name}.{index}.{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        optimisers[name] = {"scalars": scalars}
    tensors["generator.cpu"] = torch.get_rng_state()
    if position.table.device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(position.table.device)
    body = {"optimisers": optimisers}
    for part in (fit, position):
        part_tensors, values = part.state()
        tensors |= part_tensors
        body |= values
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, body


def _restore(state: State, system: System, fit: Fit, position: Position) -> None:
    tensors, body = state.tensors, state.body

    def of(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}

    try:
        system.load_state(of("system."))
        for name, optimiser in system.optimisers.items():
            _restore_optimiser(optimiser, body["optimisers"][name], of(f"optimiser.{name}."))
        fit.load_state(tensors, body)
        torch.set_rng_state(tensors["generator.cpu"])
        if position.table.device.type == "cuda":
            torch.cuda.set_rng_state(tensors["generator.cuda"], position.table.device)
        position.load_state(tensors, body)
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(f"{state.path}: cannot be used with this version ({reason}); start a new run") from None


def _restore_optimiser(optimiser: torch.optim.Optimizer, saved: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Load the state of an optimiser. Learning rates and betas come from the configuration, which has not changed.

    Each tensor gets the memory layout of its parameter, because another layout could round differently.
    """
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in saved["scalars"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        elif key != "step" or tensor.numel() != 1:
            raise ValueError(f"{name} has the shape {tuple(tensor.shape)}, its parameter {tuple(parameter.shape)}")
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _check_finite(tensors: dict[str, Tensor], position: Position) -> None:
    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.startswith("best.") and not tensor.isfinite().all():
            raise NonFiniteLoss(
                f"{name} became non-finite in epoch {position.epoch}, at or before step {position.table.filled} of "
                f"{position.table.steps}; try a lower optimiser.lr"
            )


def _versions() -> dict[str, str]:
    return {"mmssl_fast": __version__, "torch": torch.__version__}
