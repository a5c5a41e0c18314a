"""A run's folder: config.toml, metrics.jsonl, result.json, model.safetensors, curves.png, state/ while the run is not
finished, and nothing half-written."""

from __future__ import annotations

import itertools
import json
import platform
import time
from pathlib import Path
from typing import Any

import numpy as np
import scipy
import torch

from mmssl_fast import __version__

from ..config.sections import Config
from ..config.toml import to_toml
from ..data import Dataset, summarise
from ..errors import InputError
from ..files import lock, replacing, unlock, write_text
from ..systems import title
from ..training import state_file
from ..training.checkpoints import FOLDER
from ..training.progress import Fit
from . import saved_model
from .curves import draw

CONFIG, METRICS, RESULT, MODEL, CURVES, BASELINES = FILES = (
    "config.toml", "metrics.jsonl", "result.json", saved_model.FILE, "curves.png", "baselines.json",
)  # fmt: skip


class RunFolder:
    """One training run's folder, and the observer (mmssl_trainer.training.loop.Observer) that fills it as the run goes.

    result.json appears last: a folder that has it holds a finished run. Until then, or until this process ends, no
    other process gets the folder.
    """

    def __init__(
        self, path: Path, dataset: Dataset, config: Config, overwrite: bool = False, resume: bool = False
    ) -> None:
        """Make the folder and write config.toml. A folder that holds anything is refused; with overwrite, the files of
        an earlier run in it are removed and others stay; with resume all of them stay. Raises InputError, leaving
        everything as it was, where it cannot be written."""
        self.path, self.dataset, self.config = Path(path), dataset, config
        try:
            occupied = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
            if occupied and not self.path.is_dir():
                raise InputError(f"{self.path}: is a file; give a folder with --out")
            if occupied and not (overwrite or resume):
                raise InputError(f"{self.path}: is not empty; give another folder with --out, or --overwrite")
            self.path.mkdir(parents=True, exist_ok=True)
            lock(self.path, f"{self.path}: another process is at work on this run; let it end, or give another folder")
            with replacing(self.path / CONFIG) as temporary:
                temporary.write_text(to_toml(config), encoding="utf-8")
                if not resume:
                    for name in FILES[1:]:
                        (self.path / name).unlink(missing_ok=True)
                    state_file.remove(self.path / FOLDER)
            if not resume:  # where a run goes on, `resumed` puts the file in the place of whatever has its name
                (self.path / METRICS).touch()
        except OSError as error:
            raise InputError(
                f"{self.path}: cannot be written ({error.strerror}); give another folder with --out"
            ) from None

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

    def finish(self, fit: Fit, test: dict[str, float], baselines: dict[str, dict[str, Any]] | None = None) -> None:
        """Write curves.png, baselines.json (where there are any) and, last, result.json; then state/ goes."""
        if fit.epochs:
            with replacing(self.path / CURVES) as temporary:
                draw(fit.epochs, temporary, title=f"{title(self.config.model.system)} on {self.dataset.name}")
        if baselines:
            write_text(self.path / BASELINES, json.dumps(baselines, indent=2) + "\n")
        write_text(self.path / RESULT, json.dumps(result(fit, test, self.dataset, self.config), indent=2) + "\n")
        state_file.remove(self.path / FOLDER)
        unlock(self.path)


def result(fit: Fit, test: dict[str, float], dataset: Dataset, config: Config) -> dict[str, Any]:
    """What result.json holds."""
    return {
        "test": test,
        "val": fit.val,
        "best_epoch": fit.best_epoch,
        "seconds_per_epoch": fit.seconds_per_epoch,
        "seed": config.train.seed,
        "versions": {
            "mmssl_fast": __version__, "torch": torch.__version__, "numpy": np.__version__,
            "scipy": scipy.__version__, "python": platform.python_version(),
        },
        "data": {"path": config.data.path, **summarise(dataset)},
    }  # fmt: skip


def read_result(path: Path) -> dict[str, Any]:
    """What the result.json of a finished run holds. Raises InputError where there is none, or it is not one."""
    try:
        found = json.loads((path / RESULT).read_text(encoding="utf-8"))
        found["test"], found["data"]["fingerprint"]
    except OSError:
        raise InputError(f"{path}: holds no {RESULT}; give the folder of a finished run") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path / RESULT}: is not what a run writes; train again") from None
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
