"""A run's folder: config.toml, metrics.jsonl, result.json, model.safetensors, curves.png, state/ while the run is not
finished or can go on for more epochs, and nothing half-written."""

from __future__ import annotations

import itertools
import json
import platform
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from mmssl_fast import __version__

from ..config.load import load
from ..config.sections import Config
from ..config.toml import to_toml
from ..data import Dataset, summarise
from ..errors import InputError
from ..files import lock, replacing, unlock, write_text
from ..systems import title
from ..training import state_file
from ..training.checkpoints import FOLDER, resume_command
from ..training.progress import Fit
from . import saved_model
from .curves import draw

CONFIG, METRICS, RESULT, MODEL, CURVES, BASELINES = FILES = (
    "config.toml",
    "metrics.jsonl",
    "result.json",
    saved_model.FILE,
    "curves.png",
    "baselines.json",
)


class RunFolder:
    """One training run's folder, and the observer (mmssl_trainer.training.loop.Observer) that fills it as the run goes.

    Nothing is written until the system accepts the configuration and the data (`accepted`): a refusal leaves no folder,
    and an earlier run that was to be overwritten or continued stays as it was. result.json appears last: a folder that
    has it holds a finished run. Until then, or until this process ends, no other process gets the folder.
    """

    def __init__(
        self, path: Path, dataset: Dataset, config: Config, overwrite: bool = False, resume: bool = False
    ) -> None:
        """A folder that holds anything is refused, but for overwrite and resume. Raises InputError, leaving everything
        as it was, where the folder cannot be made or another process has it."""
        self.path, self.dataset, self.config = Path(path), dataset, config
        self.overwrite, self.resume = overwrite, resume
        with _unwritable(self.path):
            self._refuse_occupied()
            if self.path.exists():
                self._lock()
            else:
                _try_to_make(self.path)

    def accepted(self) -> None:
        """Make the folder and write config.toml. With overwrite, the files of an earlier run are removed and others
        stay; with resume all of them stay but result.json, since the run is no longer finished."""
        with _unwritable(self.path):
            if not self.path.exists():
                self.path.mkdir(parents=True)
            else:
                self._refuse_occupied()  # it may have been made meanwhile
            self._lock()
            with replacing(self.path / CONFIG) as temporary:
                temporary.write_text(to_toml(self.config), encoding="utf-8")
                for name in (RESULT,) if self.resume else FILES[1:]:
                    (self.path / name).unlink(missing_ok=True)
                if not self.resume:
                    state_file.remove(self.path / FOLDER)
            if not self.resume:  # where a run goes on, `resumed` puts the file in the place of whatever has its name
                (self.path / METRICS).touch()

    def _lock(self) -> None:
        lock(self.path, f"{self.path}: another process is at work on this run; let it end, or give another folder")

    def _refuse_occupied(self) -> None:
        occupied = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if occupied and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; give a folder with --out")
        if occupied and not (self.overwrite or self.resume):
            raise InputError(f"{self.path}: is not empty; give another folder with --out, or --overwrite")

    def resumed(self, fit: Fit) -> None:
        """metrics.jsonl and model.safetensors as they were at that moment."""
        write_text(self.path / METRICS, "".join(json.dumps(record) + "\n" for record in fit.epochs))
        if fit.best_epoch:
            self.improved(fit)

    def started(self, epochs: int, steps: int) -> None: ...

    def stepped(self, epoch: int, step: int, losses: dict[str, float] | None) -> None: ...

    def epoch_ended(self, record: dict[str, Any]) -> None:
        try:
            with open(self.path / METRICS, "a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise InputError(f"{self.path / METRICS}: cannot be written ({error.strerror})") from None

    def improved(self, fit: Fit) -> None:
        saved_model.save(saved_model.Model.of(fit, self.dataset, self.config.model.system), self.path / MODEL)

    def finish(
        self,
        fit: Fit,
        test: dict[str, float],
        baselines: dict[str, dict[str, Any]] | None = None,
        groups: dict[str, dict[str, float]] | None = None,
        keep_state: bool = False,
    ) -> None:
        """Write curves.png, baselines.json (where there are any) and, last, result.json; then state/ goes.

        groups: ranking.breakdown of the test. keep_state: where the run ended by train.epochs, keep its last state, so
        that it can go on for more epochs."""
        if fit.epochs:
            with replacing(self.path / CURVES) as temporary:
                draw(fit.epochs, temporary, title=f"{title(self.config.model.system)} on {self.dataset.name}")
        if baselines:
            write_text(self.path / BASELINES, json.dumps(baselines, indent=2) + "\n")
        found = result(fit, test, self.dataset, self.config) | ({"breakdown": groups} if groups else {})
        write_text(self.path / RESULT, json.dumps(found, indent=2) + "\n")
        if keep_state and len(fit.epochs) == self.config.train.epochs:
            state_file.keep_newest(self.path / FOLDER)
        else:
            state_file.remove(self.path / FOLDER)
        unlock(self.path)


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another folder with --out") from None


def _try_to_make(path: Path) -> None:
    """Make a folder and remove it again. Raises OSError where it cannot be made."""
    missing = [one for one in (path, *path.parents) if not one.exists()]
    path.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another process has put something into one of them
        for one in missing:
            one.rmdir()


def result(fit: Fit, test: dict[str, float], dataset: Dataset, config: Config) -> dict[str, Any]:
    """What result.json holds."""
    return {
        "test": test,
        "val": fit.val,
        "best_epoch": fit.best_epoch,
        "seconds_per_epoch": fit.seconds_per_epoch,
        "seed": config.train.seed,
        "versions": {
            "mmssl_fast": __version__,
            "torch": torch.__version__,
            "numpy": np.__version__,
            "scipy": scipy.__version__,
            "python": platform.python_version(),
        },
        "data": {"path": config.data.path, **summarise(dataset)},
    }


def unfinished(path: Path) -> str | None:
    """What to say of a run that has not ended, with the command that goes on; None for any other folder or file."""
    folder = path.parent if path.is_file() else path
    if not (folder / CONFIG).is_file() or (folder / RESULT).exists():
        return None
    try:
        epochs = f"after epoch {len(read_epochs(folder))} of at most {load(folder / CONFIG).train.epochs}"
    except InputError:  # the last line is being written
        epochs = "in training"
    return f"{folder}: has not ended, it is {epochs}; {resume_command(folder)} goes on if it was interrupted"


def read_result(path: Path) -> dict[str, Any]:
    """What the result.json of a finished run holds. Raises InputError where there is none, or it is not one."""
    if note := unfinished(path):
        raise InputError(note)
    try:
        found = json.loads((path / RESULT).read_text(encoding="utf-8"))
        found["test"], found["data"]["fingerprint"]
    except OSError:
        raise InputError(f"{path}: holds no {RESULT}; give the folder of a finished run") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path / RESULT}: is not what a run writes; train again") from None
    return found


def read_baselines(path: Path) -> dict[str, Any]:
    """What baselines.json of a run holds, by system; {} without one. Raises InputError for another content."""
    try:
        found = json.loads((path / BASELINES).read_text(encoding="utf-8"))
        for one in found.values():
            one["test"]["recall@20"], one["test"]["precision@20"], one["test"]["ndcg@20"], one["best_epoch"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path / BASELINES}: is not what a run writes; remove it or train again") from None
    return found


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The lines of a run's metrics.jsonl. Raises InputError for a line that is not one."""
    try:
        lines = (path / METRICS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path / METRICS}: cannot be read ({error}); train again") from None


def default_path(config: Config, dataset: Dataset) -> Path:
    """runs/<system>-<data>-<local time>, in the current folder; numbered where that is taken."""
    name = f"{config.model.system}-{dataset.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    paths = (Path("runs") / (name if at == 1 else f"{name}-{at}") for at in itertools.count(1))
    return next(path for path in paths if not path.exists())
