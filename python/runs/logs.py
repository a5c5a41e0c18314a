"""train.log_to: the metrics of a run in TensorBoard, Weights & Biases or MLflow, by their own writers."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from ..config.sections import Config
from ..config.toml import to_toml
from ..errors import InputError, needed
from ..files import write_text
from ..training.progress import Fit, NullObserver

PROJECT = "mmssl_fast"


class RunLog(NullObserver):
    """An observer that logs the losses, validation metrics and seconds of every epoch, at the number of the epoch.

    A resumed run goes on with the same log: epochs after its checkpoint, which a killed run may have logged, are
    written again.
    """

    def __init__(self, path: Path, config: Config) -> None:
        """path: folder of the run. Raises InputError if the package of the writer is not installed."""
        self.path, self.config, self.done = path, config, 0
        self.resumes = self.is_open = False

    def resumed(self, fit: Fit) -> None:
        self.resumes, self.done = True, len(fit.epochs)

    def started(self, epochs: int, steps: int) -> None:
        self.open()
        self.is_open = True

    def epoch_ended(self, record: dict[str, Any]) -> None:
        parts = {"loss": record["losses"], "val": record.get("val", {})}
        values = {f"{part}/{name}": value for part, each in parts.items() for name, value in each.items()}
        self.write(values | {"seconds": record["seconds"]}, record["epoch"])

    def finish(self, best_epoch: int, test: Mapping[str, float]) -> None:
        """Log the test metrics, at the best epoch, and close the log."""
        if not self.is_open:  # a system without training
            self.open()
        self.write_test({f"test/{name}": value for name, value in test.items()}, best_epoch)
        self.close()

    def write_test(self, values: Mapping[str, float], best_epoch: int) -> None:
        self.write(values, best_epoch)

    def open(self) -> None: ...
    def write(self, values: Mapping[str, float], epoch: int) -> None: ...
    def close(self) -> None: ...


class TensorBoard(RunLog):
    """RUN/tensorboard. `purge_step` hides what a killed run has logged after the checkpoint, or an earlier run that is
    overwritten."""

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__(path, config)
        needed("tensorboard", "log")
        from torch.utils.tensorboard import SummaryWriter

        self.writer_class = SummaryWriter

    def open(self) -> None:
        self.writer = self.writer_class(str(self.path / "tensorboard"), purge_step=self.done + 1)
        if not self.resumes:
            self.writer.add_text("config", f"```\n{to_toml(self.config)}\n```")

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.writer.add_scalar(name, value, epoch)
        self.writer.flush()

    def close(self) -> None:
        self.writer.close()


class WandB(RunLog):
    """RUN/wandb, offline unless the environment variable WANDB_MODE says otherwise; `wandb sync` uploads it."""

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__(path, config)
        self.wandb = needed("wandb", "log")

    def open(self) -> None:
        self.run = self.wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            dir=str(self.path),
            name=self.path.name,
            id=_run_id(self.path / "wandb_run", self.resumes, lambda: secrets.token_hex(4)),
            resume="allow",
            mode=os.environ.get("WANDB_MODE", "offline"),
            config=self.config.model_dump(),
            settings=self.wandb.Settings(silent=True),
        )

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        self.run.log({**values, "epoch": epoch})

    def write_test(self, values: Mapping[str, float], best_epoch: int) -> None:
        self.run.summary.update({**values, "best_epoch": best_epoch})

    def close(self) -> None:
        self.run.finish()


class MLflow(RunLog):
    """The server of the environment variable MLFLOW_TRACKING_URI, or the SQLite database RUN/mlflow.db."""

    def __init__(self, path: Path, config: Config) -> None:
        super().__init__(path, config)
        self.mlflow = needed("mlflow", "log")

    def open(self) -> None:
        uri = os.environ.get("MLFLOW_TRACKING_URI") or f"sqlite:///{self.path.resolve()}/mlflow.db"
        self.client = self.mlflow.MlflowClient(tracking_uri=uri)
        self.run = _run_id(self.path / "mlflow_run", self.resumes, self._create)

    def _create(self) -> str:
        found = self.client.get_experiment_by_name(PROJECT)
        experiment = found.experiment_id if found else self.client.create_experiment(PROJECT)
        run = self.client.create_run(experiment, run_name=self.path.name).info.run_id
        for name, value in self.config.flat().items():
            self.client.log_param(run, name, value)
        return run

    def write(self, values: Mapping[str, float], epoch: int) -> None:
        for name, value in values.items():
            self.client.log_metric(self.run, name.replace("@", "_at_"), value, step=epoch)  # it refuses names with @

    def close(self) -> None:
        self.client.set_terminated(self.run)


LOGS = {"tensorboard": TensorBoard, "wandb": WandB, "mlflow": MLflow}


def open_log(path: Path, config: Config) -> RunLog:
    """The log that train.log_to chooses; without one, a log that does nothing.

    Raises InputError if its package is not installed.
    """
    name = config.train.log_to
    if not name:
        return RunLog(path, config)
    try:
        return LOGS[name](path, config)
    except InputError as error:
        raise InputError(f'train.log_to = "{name}": {error}') from None


def _run_id(path: Path, resumes: bool, create: Callable[[], str]) -> str:
    """The id of the run in the log, which the file `path` keeps for when the run is resumed."""
    if resumes and path.is_file():
        return path.read_text(encoding="utf-8").strip()
    run = create()
    write_text(path, f"{run}\n")
    return run
