"""state/ in a run's folder: everything that a run is at one moment, so that it can go on as if nothing had happened.

A state is two files named after the steps taken: <step>.safetensors holds the tensors and <step>.json, written after
it, the rest and a checksum of both. A pair without its .json was never finished and is not looked at; a finished one is
never written to again: a second state of the same step takes the next number. Nothing in either file names a path.
"""

from __future__ import annotations

import hashlib
import json
import math
import re
import shlex
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmssl_fast import __version__

from ..errors import InputError, Interrupted, shown
from ..files import write_tensors, write_text
from .signals import Stop

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset
    from ..systems.base import System
    from .loop import Fit, Position

FOLDER = "state"
FORMAT = "mmssl_fast state 1"
KEPT = 2
MAY_DIFFER = (
    "data.path", "data.layout", "train.balance", "train.checkpoint_every", "train.checkpoint_minutes", "train.memory",
    "train.threads",
)  # fmt: skip
_NAME = re.compile(r"(\d{10})\.(json|safetensors)")
_OURS = re.compile(r"\d{10}\.(json|safetensors)|\.\d{10}\.(json|safetensors)\.\d+\.tmp")
_LARGEST_JSON = 1 << 28
_HOLDS = {
    "step": int, "stale": int, "best": (int, float, type(None)), "best_epoch": int, "val": dict, "epochs": list,
    "optimisers": dict, "where": str, "epoch": int, "tile": int, "seconds": (int, float), "terms": list, "config": dict,
    "fingerprint": str, "threads": int, "versions": dict, "tensors": dict,
}  # fmt: skip
_WITHIN = {"step": (0, 2**32 - 1), "stale": (0, math.inf), "best_epoch": (0, math.inf), "epoch": (1, math.inf),
           "tile": (1, math.inf)}  # fmt: skip


@dataclass
class State:
    """One state as read back. path: its .json; tensors by name; body: what the .json holds."""

    path: Path
    tensors: dict[str, Tensor]
    body: dict[str, Any]


class Checkpoints:
    """Writes the states of one run and reads the newest.

    A state is written after every train.checkpoint_every epochs, after the first step that ends
    train.checkpoint_minutes after the last one (but not before 20 times what writing that one took), when `stop` has
    received a signal, and after the last step of the last epoch, so that a finished run can go on for more epochs.
    """

    def __init__(self, run: Path, dataset: Dataset, config: Config, stop: Stop | None = None) -> None:
        self.run, self.folder, self.dataset, self.config = run, run / FOLDER, dataset, config
        self.stop = stop or Stop()
        self.written_at, self.took = time.monotonic(), 0.0
        self.last = ""
        self._state: State | None = None

    def open(self) -> bool:
        """Read the newest state and check that this run may go on from it; False where there is none yet.

        Raises InputError naming the difference where the data or the configuration is another, a file is damaged, or
        `state` is no folder of the run's own.
        """
        if self.folder.is_symlink() or (self.folder.exists() and not self.folder.is_dir()):
            raise InputError(f"{self.folder}: is a link or no folder; put the folder with the states in its place")
        path = newest(self.folder)
        if path is None:
            return False
        state = read(path)
        self._check_same(state.body)
        self._state, self.last = state, state.body["where"]
        return True

    def notes(self) -> list[str]:
        """What to say about the state that was opened."""
        if self._state is None:
            return []
        body, threads = self._state.body, self.config.train.threads or torch.get_num_threads()
        notes = [f"resumed from the state {self.last}"]
        if body["threads"] != threads:
            notes.append(f"{body['threads']} threads then, {threads} now: results may differ in the last bits")
        if body["versions"] != _versions():
            notes.append(f"written with {body['versions']}, this is {_versions()}: results may differ in the last bits")
        return notes

    def restore(self, system: System, fit: Fit, position: Position) -> bool:
        """Bring all three, and torch's generators, to the state that was opened; False where none was."""
        if self._state is None:
            return False
        _restore(self._state, system, fit, position)
        self._state = None
        return True

    def visit(self, system: System, fit: Fit, position: Position, epoch_ended: bool = False) -> None:
        """To be called after each step and each epoch: writes a state where one is due.

        Raises NonFiniteLoss where the state would hold a value that is not finite, InputError where it cannot be
        written (the one before stays), and Interrupted after a signal.
        """
        if not (self.stop.received or self._due(position, epoch_ended)):
            return
        started = time.monotonic()
        self._write(system, fit, position)
        self.written_at = time.monotonic()
        self.took = self.written_at - started
        self.leave_if_asked()

    def keep_last(self, system: System, fit: Fit, position: Position) -> None:
        """To be called after the last step of the last epoch: writes its state, unless there is one or the
        configuration asks for no states."""
        every, minutes = self.config.train.checkpoint_every, self.config.train.checkpoint_minutes
        if (every or minutes) and self.last != _where(position):
            self._write(system, fit, position)

    @property
    def opened(self) -> bool:
        """Whether there is a state to restore."""
        return self._state is not None

    def leave_if_asked(self) -> None:
        """Raise Interrupted after a signal."""
        if self.stop.received:
            where = f"interrupted {self.last}" if self.last else "interrupted before there was a state"
            on = "goes on from there" if self.last else "starts again"
            raise Interrupted(f"{where}; {resume_command(self.run)} {on}", self.stop.received)

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
            "format": FORMAT, "config": self.config.model_dump(), "fingerprint": self.dataset.fingerprint,
            "threads": torch.get_num_threads(), "versions": _versions(),
        }  # fmt: skip
        kept = f"the state {self.last} is kept" if self.last else "there is no earlier state"
        advice = f"{kept}; make room, then {resume_command(self.run)}"
        try:
            if self.folder.is_symlink():
                raise OSError("is a link")
            self.folder.mkdir(exist_ok=True)
            path = self.folder / f"{_number(self.folder, fit.step):010d}.safetensors"
            write_tensors(path, tensors, advice=advice)
            body["tensors"] = {"bytes": path.stat().st_size, "sha256": _digest(path)}
            write_text(path.with_suffix(".json"), _sealed(body), advice=advice)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror or error}); {advice}") from None
        self.last = _where(position)
        _thin(self.folder)

    def _check_same(self, body: dict[str, Any]) -> None:
        if body["fingerprint"] != self.dataset.fingerprint:
            raise InputError(
                f"{self.run}: the data is not what the run began with: fingerprint was {body['fingerprint'][:16]}, is "
                f"{self.dataset.fingerprint[:16]}; bring back the data, or start another run"
            )
        refuse_other(self.run, body["config"], self.config.model_dump(), more_epochs=True)


def refuse_other(run: Path, old: dict[str, Any], new: dict[str, Any], more_epochs: bool = False) -> None:
    """Raise InputError where two configurations (as model_dump gives them) differ in a key that matters to a run.
    more_epochs: train.epochs may be higher in the new one."""
    before = old.get("train", {}).get("epochs")
    if more_epochs and isinstance(before, int) and before < new["train"]["epochs"]:
        old = {**old, "train": {**old["train"], "epochs": new["train"]["epochs"]}}
    differences = list(_differences(old, new))
    if differences:
        key, before, after = differences[0]
        more = f" (and {len(differences) - 1} more keys)" if len(differences) > 1 else ""
        raise InputError(
            f"{run}: {key} was {before} when the run began, is {after} now{more}; resume without the change, or start "
            "another run"
        )


def resume_command(run: Path) -> str:
    """What to type to go on."""
    return f"mmssl-fast train --resume {shlex.quote(str(run))}"


def newest(folder: Path) -> Path | None:
    """The .json of the newest finished state, None without one."""
    found = [path for path in _entries(folder) if path.suffix == ".json" and _NAME.fullmatch(path.name)]
    return max(found, default=None)


def _number(folder: Path, step: int) -> int:
    """What the state of that step is called: above every finished one, none of which is touched."""
    last = newest(folder)
    return step if last is None else max(step, int(last.stem) + 1)


def keep_newest(folder: Path) -> None:
    """Remove all states but the newest."""
    kept = newest(folder)
    for path in _entries(folder):
        if _OURS.fullmatch(path.name) and (kept is None or path.stem != kept.stem):
            path.unlink(missing_ok=True)


def remove(folder: Path) -> None:
    """Remove the states, finished or not, and the folder where nothing else is in it."""
    for path in _entries(folder):
        if _OURS.fullmatch(path.name):
            path.unlink(missing_ok=True)
    if folder.is_dir() and not any(folder.iterdir()):
        folder.rmdir()


def read(path: Path) -> State:
    """The state whose .json is `path`. Raises InputError where either file is missing, cut off, changed, of another
    format, or a link."""
    tensors_path = path.with_suffix(".safetensors")
    older = f"to go on from the state before it, if there is one, remove {path.name} and {tensors_path.name}"
    try:
        for one in (path, tensors_path):
            if one.is_symlink() or not one.is_file():
                raise InputError(f"{one}: is missing or no ordinary file; {older}")
        if path.stat().st_size > _LARGEST_JSON:
            raise InputError(f"{path}: is {path.stat().st_size} bytes, more than any state has; {older}")
        body = _opened(path, path.read_text(encoding="utf-8"), older)
        held, written = tensors_path.stat().st_size, body["tensors"]
        if held != written.get("bytes"):
            raise InputError(f"{tensors_path}: is {held} bytes, was written as {shown(written.get('bytes'))}; {older}")
        if _digest(tensors_path) != written.get("sha256"):
            raise InputError(f"{tensors_path}: is not as it was written, its sha256 differs; {older}")
        with safe_open(tensors_path, "pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}
    except (OSError, UnicodeDecodeError, SafetensorError) as error:
        raise InputError(f"{path}: cannot be read ({error}); {older}") from None
    return State(path, tensors, body)


def _sealed(body: dict[str, Any]) -> str:
    return json.dumps({"sha256": _digest_of(body), "state": body}, indent=1) + "\n"


def _opened(path: Path, text: str, older: str) -> dict[str, Any]:
    try:
        content = json.loads(text)
        body = dict(content["state"])
        sound = content["sha256"] == _digest_of(body)
    except (ValueError, TypeError, KeyError, RecursionError):
        raise InputError(f"{path}: is cut off or no state; {older}") from None
    if not sound:
        raise InputError(f"{path}: is not as it was written, its sha256 differs; {older}")
    if body.get("format") != FORMAT:
        raise InputError(f"{path}: its format is {shown(body.get('format'))}, this version reads {FORMAT!r}")
    wrong = next((key for key, kind in _HOLDS.items() if not isinstance(body.get(key, ...), kind)), None)
    wrong = wrong or next((key for key, (low, high) in _WITHIN.items() if not low <= body[key] <= high), None)
    if wrong or not all(isinstance(one, dict) for one in (*body["epochs"], *body["config"].values())):
        what = f"{wrong} is {shown(body.get(wrong))}" if wrong else "an epoch or a section is no table"
        raise InputError(f"{path}: does not hold a state: {what}; {older}")
    if not all(_is_record(one, body["terms"], body["epochs"][0]) for one in body["epochs"]):
        raise InputError(f"{path}: does not hold a state: what it says of an epoch; {older}")
    return body


def _is_record(one: dict[str, Any], terms: list, first: dict[str, Any]) -> bool:
    """Whether one line of metrics.jsonl has what is read of it again: the losses of `terms` and of the first among
    it."""
    losses, val = one.get("losses"), one.get("val", {})
    if not isinstance(losses, dict) or not isinstance(val, dict):
        return False
    needed = [one.get("epoch"), one.get("seconds"), *losses.values(), *val.values()]
    needed += [val.get(name) for name in ("users", "recall@20", "ndcg@20") if val]
    names = [*terms, *first["losses"]]
    numbers = all(isinstance(value, (int, float)) for value in needed)
    return numbers and bool(names) and all(name in list(losses) for name in names)


def _digest_of(body: dict[str, Any]) -> str:
    return hashlib.sha256(json.dumps(body, sort_keys=True).encode()).hexdigest()


def _digest(path: Path) -> str:
    with open(path, "rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _entries(folder: Path) -> list[Path]:
    return list(folder.iterdir()) if folder.is_dir() and not folder.is_symlink() else []


def _thin(folder: Path) -> None:
    """Keep the last states only; a temporary file left by a killed process goes too."""
    finished = sorted(path.stem for path in _entries(folder) if re.fullmatch(r"\d{10}\.json", path.name))
    for path in _entries(folder):
        if _OURS.fullmatch(path.name) and path.stem not in finished[-KEPT:]:
            path.unlink(missing_ok=True)


def _collect(system: System, fit: Fit, position: Position) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """(tensors by name, what JSON holds)."""
    tensors = {f"system.{name}": tensor for name, tensor in system.state().items()}
    optimisers = {}
    for name, optimiser in system.optimisers.items():
        held = optimiser.state_dict()
        scalars: dict[str, dict[str, Any]] = {}
        for index, values in held["state"].items():
            for key, value in values.items():
                if isinstance(value, Tensor):
                    tensors[f"optimiser.{name}.{index}.{key}"] = value
                else:
                    scalars.setdefault(str(index), {})[key] = value
        optimisers[name] = {"scalars": scalars}
    tensors |= {"generator.cpu": torch.get_rng_state(), "best.users": fit.users, "best.items": fit.items}
    if position.table.device.type == "cuda":
        tensors["generator.cuda"] = torch.cuda.get_rng_state(position.table.device)
    tensors |= {f"best.parameter.{name}": tensor for name, tensor in fit.parameters.items()}
    tensors["losses"] = position.table.rows()
    body = {
        "step": fit.step, "tile": fit.tile, "stale": fit.stale, "best": fit.best if math.isfinite(fit.best) else None,
        "best_epoch": fit.best_epoch, "val": fit.val, "epochs": fit.epochs, "optimisers": optimisers,
        "where": _where(position), "epoch": position.epoch, "seconds": position.seconds, "terms": position.table.names,
    }  # fmt: skip
    return {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}, body


def _restore(state: State, system: System, fit: Fit, position: Position) -> None:
    tensors, body = dict(state.tensors), state.body

    def taken(prefix: str) -> dict[str, Tensor]:
        return {name.removeprefix(prefix): tensors.pop(name) for name in list(tensors) if name.startswith(prefix)}

    try:
        system.load_state(taken("system."))
        for name, optimiser in system.optimisers.items():
            _restore_optimiser(optimiser, body["optimisers"][name], taken(f"optimiser.{name}."))
        fit.parameters = taken("best.parameter.")
        best = {f"best.{side}": getattr(fit, side) for side in ("users", "items")}
        for name, like in best.items():
            if tensors[name].shape != like.shape or tensors[name].dtype != like.dtype:
                raise ValueError(f"{name} is {tensors[name].dtype} {tuple(tensors[name].shape)}")
        fit.users, fit.items = (tensors.pop(name) for name in best)
        torch.set_rng_state(tensors.pop("generator.cpu"))
        if position.table.device.type == "cuda":
            torch.cuda.set_rng_state(tensors.pop("generator.cuda"), position.table.device)
        position.table.fill(body["terms"], tensors.pop("losses"))
    except (KeyError, IndexError, ValueError, RuntimeError, TypeError, AttributeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else (str(error).splitlines() or ["?"])[0]
        raise InputError(f"{state.path}: does not fit this version: {reason}; start another run") from None
    fit.step, fit.stale, fit.best_epoch, fit.val = body["step"], body["stale"], body["best_epoch"], body["val"]
    fit.best = -math.inf if body["best"] is None else body["best"]
    fit.epochs, fit.tile = body["epochs"], body["tile"]
    position.epoch, position.seconds = body["epoch"], body["seconds"]


def _restore_optimiser(optimiser, held: dict[str, Any], tensors: dict[str, Tensor]) -> None:
    """Load an optimiser's state with each tensor in its parameter's memory order: another order could round another
    way. Rates and betas are the optimiser's own, from a configuration that is the same and that nothing changes."""
    parameters = [parameter for group in optimiser.param_groups for parameter in group["params"]]
    state: dict[int, dict[str, Any]] = {int(index): dict(values) for index, values in held["scalars"].items()}
    for name, tensor in tensors.items():
        index, _, key = name.partition(".")
        parameter = parameters[int(index)]
        if tensor.shape == parameter.shape:
            tensor = torch.empty_like(parameter, dtype=tensor.dtype, requires_grad=False).copy_(tensor)
        elif key != "step" or tensor.numel() != 1:
            raise ValueError(f"{name} is {tuple(tensor.shape)}, its parameter {tuple(parameter.shape)}")
        state.setdefault(int(index), {})[key] = tensor
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})


def _check_finite(tensors: dict[str, Tensor], position: Position) -> None:
    from .loop import NonFiniteLoss

    for name, tensor in tensors.items():
        if tensor.is_floating_point() and not name.startswith("best.") and not tensor.isfinite().all():
            raise NonFiniteLoss(
                f"{name} became non-finite in epoch {position.epoch}, by step {position.table.filled} of "
                f"{position.table.steps}; try a lower optimiser.lr"
            )


def _versions() -> dict[str, str]:
    return {"mmssl_fast": __version__, "torch": torch.__version__}


def _where(position: Position) -> str:
    if not position.table.filled:
        return f"after epoch {position.epoch - 1}"
    return f"in epoch {position.epoch}, after step {position.table.filled} of {position.table.steps}"


def _differences(old: dict[str, Any], new: dict[str, Any]) -> Iterator[tuple[str, str, str]]:
    """(section.key, old, new) of the configuration's keys that matter to a run and are not the same."""
    for section in sorted({*old, *new}):
        before, after = old.get(section, {}), new.get(section, {})
        for key in sorted({*before, *after}):
            if f"{section}.{key}" not in MAY_DIFFER and before.get(key) != after.get(key):
                yield _key(f"{section}.{key}"), _short(before.get(key)), _short(after.get(key))


def _key(name: str) -> str:
    """A key as it is, unless a file made up what no configuration calls one."""
    return name if name.isascii() and name.isprintable() and len(name) < 60 else shown(name)


def _short(value: Any) -> str:
    return json.dumps(value) if isinstance(value, list) else shown(value)
