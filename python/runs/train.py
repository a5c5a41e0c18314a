"""Training with a run folder: a new run, a run that starts from another model, and a run that is resumed."""

from __future__ import annotations

import shlex
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch

from mmssl_fast.nn.clustered import search_method

from ..config.compare import refuse_other
from ..config.load import load
from ..config.sections import SYNTHETIC, SYNTHETIC_EPOCHS, Config
from ..data import Dataset
from ..errors import InputError, check_counts
from ..memory import budget
from ..ranking import breakdown, check_list_lengths
from ..systems import create, over_groups, refuse_over_groups, refuse_over_ranks, refuse_without_features, title
from ..training import ranks as together
from ..training import signals
from ..training.checkpoints import FOLDER, Checkpoints, ranks_of_checkpoint, resume_command
from ..training.loop import pick_device
from ..training.progress import Fit
from ..training.state_file import newest
from .complete import fit_and_test, load_data
from .folder import CONFIG, RESULT, default_path, open_folder, read_epochs
from .saved_model import Model

COMPARED = ("popularity", "lightgcn")  # what train.compare trains besides


class TrainedRun(NamedTuple):
    """A finished run of `train` or `resume`.

    path: its folder. config: the configuration with all values that were chosen for the run. model: the model of the
    best epoch. test: metrics on the test split, as `evaluate` returns them. breakdown: the same for known and new users
    and for known and cold items; {} if the test split has neither new users nor cold items. seconds: training and
    testing. baselines: {system: {"test", "val", "best_epoch", "seconds"}} of the systems that train.compare adds.

    >>> import tempfile
    >>> from mmssl_trainer import configure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     settings = {"model.system": "popularity", "train.compare": "no"}
    ...     finished = train(configure(settings), f"{folder}/run")
    >>> finished.config.model.system, finished.test["users"] > 1000
    ('popularity', True)
    """

    path: Path
    config: Config
    model: Model
    test: dict[str, float]
    breakdown: dict[str, dict[str, float]]
    seconds: float
    baselines: dict[str, dict[str, Any]]


def train(
    config: Config | None = None,
    out: str | Path | None = None,
    *,
    overwrite: bool = False,
    note: Callable[[str], None] | None = None,
) -> TrainedRun:
    """Load the data of config.data, train config.model.system, test it, and write a run folder that `resume`,
    `mmssl-fast report` and the other commands read. `fit` does the same without a folder.

    out: the folder; None: runs/<system>-<data>-<time> in the current folder. overwrite: replace the files of an earlier
    run in it. note: called with each remark about the data, the memory or the run; None: they are dropped. A progress
    bar is drawn on stderr. After SIGINT or SIGTERM the current step is completed and a checkpoint is written. In
    processes that torchrun has started, all of them train together.

    Raises InputError if the data, the configuration or the folder cannot be used, Interrupted after a signal,
    NonFiniteLoss and OutOfMemory.

    >>> import tempfile
    >>> from mmssl_trainer import configure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     settings = {"model.system": "lightgcn", "train.epochs": 1, "train.compare": "no"}
    ...     run = train(configure(settings), Path(folder) / "run")
    ...     sorted(file.name for file in run.path.iterdir() if file.is_file())
    ['config.toml', 'curves.png', 'metrics.jsonl', 'model.safetensors', 'result.json']
    """
    return _run(config or Config(), None if out is None else Path(out), note, overwrite=overwrite)


def resume(
    run: str | Path,
    config: Config | None = None,
    *,
    threads: int | None = None,
    note: Callable[[str], None] | None = None,
) -> TrainedRun:
    """Resume an interrupted run with its configuration, from its last checkpoint.

    run: its folder. config: the configuration to resume with; only where and how fast it is computed may differ (such
    as train.memory or data.path), and train.epochs may be higher, which also continues a finished run. None: that of
    the run. threads: number of threads of this process; 0: chosen anew; None: train.threads, or chosen anew if the
    checkpoint is of another number of ranks. note: see `train`. Raises InputError if the folder contains no run that
    can be resumed, and as `train`.

    >>> import tempfile
    >>> from mmssl_trainer import configure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     settings = {"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096, "train.compare": "no"}
    ...     short = train(configure(settings), f"{folder}/run")
    ...     longer = resume(short.path, short.config.changed("train", epochs=2))
    >>> len(short.model.epochs), len(longer.model.epochs)
    (1, 2)
    """
    run = Path(run)
    saved = load(configuration_file(run))
    chosen = saved if config is None else config
    refuse_other(run, saved.model_dump(), chosen.model_dump(), more_epochs=True)
    _refuse_finished(run, saved, chosen.train.epochs)
    group = together.join(chosen.train.device, chosen.distributed)
    if threads is not None:
        check_counts(threads=threads or 1)
        chosen = chosen.changed("train", threads=threads)
    elif chosen.train.threads == saved.train.threads and ranks_of_checkpoint(run) not in (0, group.size):
        chosen = chosen.changed("train", threads=0)  # those of another number of ranks
    return _run(chosen, run, note, resumed=True)


def configuration_file(run: str | Path) -> Path:
    """The configuration file of a run. Raises InputError if the folder contains none.

    >>> import tempfile
    >>> from mmssl_trainer import configure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(configure({"model.system": "popularity", "train.compare": "no"}), f"{folder}/run")
    ...     configure(file=configuration_file(run.path)).model.system
    'popularity'
    """
    folder = Path(run).parent if Path(run).is_file() else Path(run)
    if not folder.exists():
        raise InputError(f"{run}: no such folder; give the folder of an interrupted or finished run")
    if not (folder / CONFIG).is_file():
        raise InputError(f"{run}: contains no {CONFIG}; give the folder of an interrupted or finished run")
    return folder / CONFIG


def _run(
    config: Config,
    out: Path | None,
    note: Callable[[str], None] | None,
    overwrite: bool = False,
    resumed: bool = False,
) -> TrainedRun:
    config, dataset, chosen = _prepared(config, resumed)
    path = out or Path(together.first_ranks(lambda: str(default_path(config, dataset))))
    checkpoints = Checkpoints(path, dataset, config)
    has_checkpoint = resumed and checkpoints.open()
    folder = open_folder(path, dataset, config, overwrite or resumed, has_checkpoint)
    notes = checkpoints.notes() or ["the run has no checkpoint yet, so it starts from the beginning"] if resumed else []
    for line in (*notes, *_notes(dataset, config), *chosen):
        if note is not None:
            note(line)
    system, baselines = config.model.system, {}
    # During training, a signal takes effect after the current step; elsewhere at once.
    with warnings.catch_warnings(), signals.raise_on_signal(lambda: _interrupted(path)):
        warnings.filterwarnings("ignore", message="sample_bpr: ")  # one of the notes replaces this warning
        fit, test, seconds = fit_and_test(dataset, config, system, folder, checkpoints, note)
        for name in _compared(config):
            baselines[name] = _baseline(*fit_and_test(dataset, config, name))
        options = config.evaluate
        groups = breakdown(fit.users, fit.items, dataset, "test", options.ks, options.mask_validation, options.batch)
        folder.finish(fit, test, baselines, groups, keep_state=True)
    return TrainedRun(path, config, Model.of(fit, dataset, config), test, groups, seconds, baselines)


def _interrupted(run: Path) -> str:
    if (run / CONFIG).is_file():
        return f"interrupted; to resume: {resume_command(run)}"
    return "interrupted before training began; nothing was written"


def _prepared(config: Config, resumed: bool) -> tuple[Config, Dataset, list[str]]:
    """The configuration with all values chosen that depend on the data and on this machine, the data, and remarks on
    the groups of ranks. Raises InputError for what the data or the processes cannot do."""
    group = together.join(config.train.device, config.distributed)
    if group.size > 1:
        refuse_over_ranks(config.model.system)
        refuse_over_groups(config.model.system, group.groups.size)
        together.refuse_one_process_settings(config)
    pick_device(config.train.device)
    dataset = load_data(**config.data.model_dump())
    refuse_without_features(dataset, [config.model.system])
    check_list_lengths("evaluate.ks", config.evaluate.ks, dataset.n_items)
    check_list_lengths("train.select_by", [config.train.select_k], dataset.n_items)
    config = config.with_absolute_path()
    if config.data.path == SYNTHETIC and "epochs" not in config.train.model_fields_set:
        config = config.changed("train", epochs=SYNTHETIC_EPOCHS)
    together.refuse_differences(config, dataset)
    if not config.train.threads:  # saved in config.toml, because results may depend on it and it depends on the load
        config = config.changed("train", threads=torch.get_num_threads())
    if config.model.system == "mmssl":
        method = search_method(config.model.neighbours_method, dataset.n_users, dataset.n_items, group.size)
        if resumed and "neighbours_method" not in config.model.model_fields_set:
            method = "exact"  # the run is older than the key
        config = config.changed("model", neighbours_method=method)
    choose_groups = config.distributed.groups == "auto"
    if choose_groups:
        config = _with_groups(dataset, config, group.size)
    config = together.one_config(budget.fit_to_budget(dataset, config, resumed))
    remarks = [budget.groups_remark(dataset, config)] if choose_groups and group.size > 1 else []
    if unequal := budget.unequal_groups(dataset):
        remarks.append(unequal)
    return config, dataset, remarks


def _with_groups(dataset: Dataset, config: Config, ranks: int) -> Config:
    """The configuration with a number in place of distributed.groups = "auto". The ranks form these groups."""
    groups = 1
    if ranks > 1 and over_groups(config.model.system):
        groups = together.first_ranks(lambda: budget.chosen_groups(dataset, config))
    config = config.changed("distributed", groups=groups)
    together.join(config.train.device, config.distributed)
    return config


def _notes(dataset: Dataset, config: Config) -> list[str]:
    """Remarks about the data, and the line about the memory budget if there is one."""
    notes = list(dataset.notes)
    if n_full := int((np.diff(dataset.train.indptr) == dataset.n_items).sum()):
        notes.append(f"{n_full} users have interacted with every item; no triple is sampled for them")
    if config.model.system == "mmssl" and config.model.neighbours and config.model.neighbours_method == "ivf":
        notes.append(
            f"semantic neighbours of {dataset.n_users:,} users among {dataset.n_items:,} items are searched by "
            'clusters, at least 95% of them are found (model.neighbours_method = "exact" finds all)'
        )
    if dataset.weights is not None and create(config.model.system).trains:
        notes.append("weights: interactions are drawn in proportion to them; graphs and evaluation do not use them")
    if line := budget.summary(dataset, config):
        notes.append(line)
    return notes


def _compared(config: Config) -> list[str]:
    """The systems that train.compare adds, without the one that is trained."""
    chosen = config.train.compare
    if chosen == "yes" or (chosen == "auto" and config.data.path == SYNTHETIC):
        return [name for name in COMPARED if name != config.model.system]
    return []


def _baseline(fit: Fit, test: dict[str, float], seconds: float) -> dict[str, Any]:
    return {"test": test, "val": fit.val, "best_epoch": fit.best_epoch, "seconds": seconds}


def _refuse_finished(run: Path, saved: Config, epochs: int) -> None:
    """Raise InputError if the run is finished and cannot be continued to this number of epochs."""
    if not (run / RESULT).exists():
        return
    finished = f"{run}: the run is finished, see {RESULT}"
    if not create(saved.model.system).trains:
        raise InputError(f"{finished}; {title(saved.model.system)} has no training to resume")
    new_run = f"to start a new run from its model: mmssl-fast train --from {shlex.quote(str(run))}"
    if (n_epochs := len(read_epochs(run))) < saved.train.epochs:
        raise InputError(f"{finished}; it stopped early after epoch {n_epochs} (train.patience); {new_run}")
    if epochs <= saved.train.epochs:
        raise InputError(f"{finished}; to continue it, give --epochs above {saved.train.epochs}; {new_run}")
    if newest(run / FOLDER) is None:
        raise InputError(f"{finished}; it has no checkpoint; {new_run}")
