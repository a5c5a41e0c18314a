"""Running a configuration: load the data, train, test, and fill the run folder. Shared by train, tune and reproduce."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from .. import data
from ..config.sections import SYNTHETIC, Config, DataSection
from ..data import Dataset
from ..errors import InputError, NonFiniteLoss, OutOfMemory, shown

if TYPE_CHECKING:  # `data check` needs no torch
    from ..training.checkpoints import Checkpoints
    from ..training.progress import Fit
    from .folder import OtherRank, RunFolder


def load_data(
    path: str | Path = SYNTHETIC,
    layout: str = "auto",
    modalities: Sequence[str] = (),
    split_seed: int = 0,
    **options: Any,
) -> Dataset:
    """Read a data folder, or generate the built-in synthetic data set. The arguments are the keys of section [data].

    path: folder; "synthetic" is the built-in data set. layout: auto, diffmm, hkuds, mmrec, plain or prepared.
    modalities: names of the modalities to read, in this order; empty: all. split_seed: seed of the random split, and of
    the built-in data set. options: other keys of the section, such as split="time" or min_rating=4 (see
    data.options.LoadOptions); not for the built-in data set. Raises InputError: one line that names the file and says
    what to do.

    >>> load_data().modalities
    ['image', 'text']
    """
    if str(path) == SYNTHETIC:
        for name, value in options.items():
            if value != DataSection.model_fields[name].default:
                raise InputError(
                    f"data.{name} = {shown(value)}: the built-in data set has no interaction table; give --data FOLDER"
                )
        dataset = data.synthetic(split_seed)
        return dataset.with_modalities(list(modalities)) if modalities else dataset
    return data.load(path, layout, split_seed, list(modalities) or None, **options)


def fit_and_test(
    dataset: Dataset,
    config: Config,
    name: str,
    folder: RunFolder | OtherRank | None = None,
    checkpoints: Checkpoints | None = None,
    note: Callable[[str], None] | None = None,
) -> tuple[Fit, dict[str, float], float]:
    """Train one system and test it. Returns (Fit, test metrics, total seconds).

    folder, checkpoints: where the run is saved; without them nothing is written. note: called with a remark about the
    model that the run starts from (train.start).
    """
    from ..console.progress import ProgressObserver
    from ..ranking import split_metrics
    from ..systems import title
    from ..training import loop, signals
    from ..training.progress import ObserverList
    from .folder import RunFolder
    from .logs import open_log

    config = config.changed("model", system=name)
    start = None
    if checkpoints is not None and config.train.start and not checkpoints.opened:
        from .warm_start import start_from

        start, remark = start_from(config.train.start, dataset, name, config.train.start_scale)
        if remark and note is not None:
            note(f"{config.train.start}: {remark}")
    log = None if folder is None else open_log(folder.path, config)
    started = time.perf_counter()
    with ProgressObserver(title(name), config.train.select_by) as progress:
        if folder is None or checkpoints is None:
            fit = loop.fit(dataset, config, progress)
        else:
            with signals.defer_signals() as checkpoints.stop:
                try:
                    observers = ObserverList(
                        progress, folder, *([log] if log and isinstance(folder, RunFolder) else [])
                    )
                    fit = loop.fit(dataset, config, observers, checkpoints=checkpoints, start=start)
                except (NonFiniteLoss, OutOfMemory) as error:
                    last, path = checkpoints.last, checkpoints.folder
                    saved = f"; the last checkpoint, written {last}, is in {path}" if last else ""
                    raise type(error)(f"{error}{saved}") from None
            checkpoints.raise_if_stopped()
    seconds = time.perf_counter() - started
    options = config.evaluate
    test = split_metrics(fit.users, fit.items, dataset, "test", options.ks, options.mask_validation, options.batch)
    if log is not None and isinstance(folder, RunFolder):
        log.finish(fit.best_epoch, test)
    return fit, test, seconds


def complete(dataset: Dataset, config: Config, path: Path) -> bool:
    """Start the run in folder `path`, or resume it if it was interrupted. Returns False if it was already finished.

    Raises InputError if the folder contains a run with another configuration or other data.
    """
    from ..memory import budget
    from ..training.checkpoints import Checkpoints
    from .folder import CONFIG, RESULT, RunFolder

    if (path / CONFIG).exists():
        refuse_other_run(path, dataset, config)
    if (path / RESULT).exists():
        return False
    budget.refuse_what_cannot_fit(dataset, config)
    checkpoints = Checkpoints(path, dataset, config)
    has_checkpoint = checkpoints.open()
    folder = RunFolder(path, dataset, config, overwrite=True, resume=has_checkpoint)
    warnings.filterwarnings("ignore", message="sample_bpr: ")  # users who have every item are skipped
    fit, test, _ = fit_and_test(dataset, config, config.model.system, folder, checkpoints)
    folder.finish(fit, test)
    return True


def refuse_other_run(path: Path, dataset: Dataset, config: Config) -> None:
    """Raise InputError if the run in this folder has another configuration or, if it is finished, other data."""
    from ..config.compare import refuse_other
    from ..config.load import load
    from .folder import CONFIG, RESULT, read_result

    refuse_other(path, load(path / CONFIG).model_dump(), config.model_dump())
    if (path / RESULT).exists():
        refuse_other_data({str(path): read_result(path), "the data": {"data": {"fingerprint": dataset.fingerprint}}})


def refuse_other_data(results: dict[str, dict[str, Any]]) -> None:
    """Raise InputError if the results {name: contents of result.json} are not all from the same data and split, because
    their metrics cannot be compared."""
    fingerprints = {name: result["data"]["fingerprint"] for name, result in results.items()}
    first, expected = next(iter(fingerprints.items()), ("", ""))
    for name, fingerprint in fingerprints.items():
        if fingerprint != expected:
            raise InputError(
                f"{name}: its data has the fingerprint {fingerprint[:16]}, but that of {first} is "
                f"{expected[:16]}; results on different splits cannot be compared"
            )
