"""The folder of a run: config.toml, metrics.jsonl, result.json, model.safetensors, curves.png, baselines.json, and the
checkpoints in state/ as long as the run can be resumed. Files are written atomically."""

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

from mmssl_fast import __version__, distributed

from ..config.load import load
from ..config.sections import Config
from ..config.toml import to_toml
from ..data import Dataset, summarise
from ..errors import InputError
from ..files import lock, replacing, unlock, write_text
from ..systems import title
from ..training import state_file
from ..training.checkpoints import FOLDER, resume_command
from ..training.progress import Fit, NullObserver
from . import saved_model

CONFIG, METRICS, RESULT, MODEL, CURVES, BASELINES = FILES = (
    "config.toml",
    "metrics.jsonl",
    "result.json",
    saved_model.FILE,
    "curves.png",
    "baselines.json",
)


class RunFolder:
    """The folder of a run, as an observer (training.progress.Observer) that fills it during training.

    Nothing is written before the system has accepted the configuration and the data (`accepted`), so that a refused run
    leaves no folder, and an earlier run in it stays intact. result.json is written last and marks a finished run. The
    folder is locked against other processes until then.
    """

    def __init__(
        self, path: Path, dataset: Dataset, config: Config, overwrite: bool = False, resume: bool = False
    ) -> None:
        """overwrite, resume: whether the folder may contain files already.

        Raises InputError, without changing anything, if the folder is not empty, cannot be created, or is locked.
        """
        self.path, self.dataset, self.config = Path(path), dataset, config
        self.overwrite, self.resume = overwrite, resume
        with _unwritable(self.path):
            self._refuse_occupied()
            if self.path.exists():
                self._lock()
            else:
                _check_creatable(self.path)

    def accepted(self) -> None:
        """Create the folder and write config.toml. With overwrite, the files of an earlier run are removed; with
        resume, only result.json is removed, because the run is no longer finished. Other files stay."""
        with _unwritable(self.path):
            if not self.path.exists():
                self.path.mkdir(parents=True)
            else:
                self._refuse_occupied()  # another process may have created it in the meantime
            self._lock()
            with replacing(self.path / CONFIG) as temporary:
                temporary.write_text(to_toml(self.config), encoding="utf-8")
                for name in (RESULT,) if self.resume else FILES[1:]:
                    (self.path / name).unlink(missing_ok=True)
                if not self.resume:
                    state_file.remove(self.path / FOLDER)
            if not self.resume:  # otherwise `resumed` replaces the file
                (self.path / METRICS).touch()

    def _lock(self) -> None:
        lock(self.path, f"{self.path}: another process is using this run; wait for it, or give another folder")

    def _refuse_occupied(self) -> None:
        occupied = self.path.exists() and (not self.path.is_dir() or any(self.path.iterdir()))
        if occupied and not self.path.is_dir():
            raise InputError(f"{self.path}: is a file; give a folder with --out")
        if occupied and not (self.overwrite or self.resume):
            raise InputError(f"{self.path}: is not empty; give another folder with --out, or --overwrite")

    def resumed(self, fit: Fit) -> None:
        """Restore metrics.jsonl and model.safetensors from a checkpoint: a killed run may have written more."""
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
        saved_model.save(saved_model.Model.of(fit, self.dataset, self.config), self.path / MODEL)

    def finish(
        self,
        fit: Fit,
        test: dict[str, float],
        baselines: dict[str, dict[str, Any]] | None = None,
        groups: dict[str, dict[str, float]] | None = None,
        keep_state: bool = False,
    ) -> None:
        """Write curves.png, baselines.json (if there are baselines) and then result.json, and remove the checkpoints.

        groups: ranking.breakdown of the test split. keep_state: keep the last checkpoint of a run that has reached
        train.epochs, so that it can be continued with more epochs.
        """
        if fit.epochs:
            with replacing(self.path / CURVES) as temporary:
                self._draw(fit, temporary)
        if baselines:
            write_text(self.path / BASELINES, json.dumps(baselines, indent=2) + "\n")
        content = result(fit, test, self.dataset, self.config) | ({"breakdown": groups} if groups else {})
        write_text(self.path / RESULT, json.dumps(content, indent=2) + "\n")
        if keep_state and len(fit.epochs) == self.config.train.epochs:
            state_file.keep_newest(self.path / FOLDER)
        else:
            state_file.remove(self.path / FOLDER)
        unlock(self.path)

    def _draw(self, fit: Fit, path: Path) -> None:
        from .curves import draw  # importing matplotlib takes half a second, and evaluate and recommend do not need it

        name = f"{title(self.config.model.system)} on {self.dataset.name}"
        draw(fit.epochs, path, name, self.config.train.select_by)


class OtherRank(NullObserver):
    """What stands in for a RunFolder on every rank but the first: it writes nothing and sends its rows of a model."""

    def __init__(self, path: Path, dataset: Dataset, config: Config) -> None:
        self.path, self.dataset, self.config = path, dataset, config

    def resumed(self, fit: Fit) -> None:
        if fit.best_epoch:
            self.improved(fit)

    def improved(self, fit: Fit) -> None:
        saved_model.save(saved_model.Model.of(fit, self.dataset, self.config), self.path / MODEL)

    def finish(self, *args: Any, **options: Any) -> None: ...


def open_folder(path: Path, dataset: Dataset, config: Config, overwrite: bool, resume: bool) -> RunFolder | OtherRank:
    """The run's folder on the first rank, and what stands in for it on the others."""
    kind = OtherRank(path, dataset, config) if distributed.current().rank else None
    return kind or RunFolder(path, dataset, config, overwrite, resume)


@contextmanager
def _unwritable(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror}); give another folder with --out") from None


def _check_creatable(path: Path) -> None:
    """Create a folder and remove it again. Raises OSError if it cannot be created."""
    missing = [folder for folder in (path, *path.parents) if not folder.exists()]
    path.mkdir(parents=True, exist_ok=True)
    with suppress(OSError):  # another process may have put something into one of them
        for folder in missing:
            folder.rmdir()


def result(fit: Fit, test: dict[str, float], dataset: Dataset, config: Config) -> dict[str, Any]:
    """The content of result.json."""
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


def unfinished(path: str | Path) -> str | None:
    """A sentence about a run that has not ended, with the command that resumes it. None for anything else.

    >>> import tempfile
    >>> from mmssl_trainer import configure, train
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(configure({"model.system": "popularity", "train.compare": "no"}), f"{folder}/run")
    ...     print(unfinished(run.path))
    None
    """
    path = Path(path)
    folder = path.parent if path.is_file() else path
    if not (folder / CONFIG).is_file() or (folder / RESULT).exists():
        return None
    try:
        epochs = f", {len(read_epochs(folder))} of at most {load(folder / CONFIG).train.epochs} epochs done"
    except InputError:  # the last line of the file is incomplete while it is being written
        epochs = ""
    return f"{folder}: the run has not ended{epochs}; if it was interrupted, resume it: {resume_command(folder)}"


def read_result(path: Path) -> dict[str, Any]:
    """The content of result.json of a finished run. Raises InputError if it is missing or malformed."""
    if note := unfinished(path):
        raise InputError(note)
    try:
        content = json.loads((path / RESULT).read_text(encoding="utf-8"))
        content["test"], content["data"]["fingerprint"]
    except OSError:
        raise InputError(f"{path}: contains no {RESULT}; give the folder of a finished run") from None
    except (ValueError, KeyError, TypeError):
        raise InputError(f"{path / RESULT}: was not written by mmssl-fast; train again") from None
    return content


def read_baselines(path: Path) -> dict[str, Any]:
    """The content of baselines.json of a run, by system; {} if there is none. Raises InputError if it is malformed."""
    try:
        baselines = json.loads((path / BASELINES).read_text(encoding="utf-8"))
        for baseline in baselines.values():
            [baseline["test"][f"{metric}@20"] for metric in ("recall", "precision", "ndcg")]
            baseline["best_epoch"]
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, KeyError, TypeError, AttributeError):
        raise InputError(f"{path / BASELINES}: was not written by mmssl-fast; remove it or train again") from None
    return baselines


def read_epochs(path: Path) -> list[dict[str, Any]]:
    """The lines of metrics.jsonl of a run. Raises InputError if it cannot be read."""
    try:
        lines = (path / METRICS).read_text(encoding="utf-8").splitlines()
        return [json.loads(line) for line in lines if line.strip()]
    except (OSError, ValueError) as error:
        raise InputError(f"{path / METRICS}: cannot be read ({error}); train again") from None


def default_path(config: Config, dataset: Dataset) -> Path:
    """runs/<system>-<data>-<local time> in the current folder, with a number if that exists."""
    name = f"{config.model.system}-{dataset.name}-{time.strftime('%Y%m%d-%H%M%S')}"
    paths = (Path("runs") / (name if n == 1 else f"{name}-{n}") for n in itertools.count(1))
    return next(path for path in paths if not path.exists())
