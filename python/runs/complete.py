"""One run from its configuration to its finished folder, and the steps of it that the commands share."""

from __future__ import annotations

import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from .. import data
from ..config.sections import SYNTHETIC, DataSection
from ..data import Dataset
from ..errors import InputError, NonFiniteLoss, OutOfMemory, shown


def load_data(
    path: str | Path = SYNTHETIC,
    layout: str = "auto",
    modalities: Sequence[str] = (),
    split_seed: int = 0,
    **options: Any,
) -> Dataset:
    """Read a data folder, or make the embedded catalogue. The arguments are the keys of the configuration's [data].

    path: the folder; "synthetic" is the embedded catalogue. layout: auto, diffmm, hkuds, mmrec or plain. modalities:
    names to read, in this order; none: all there are. split_seed: of the 8:1:1 split per user where the data has none,
    and of the embedded catalogue. options: the section's other keys, such as split="time" or min_rating=4
    (data.options.LoadOptions); the embedded catalogue takes none. Raises InputError, one line that names the file and
    what to do.

    >>> load_data().modalities
    ['image', 'text']
    """
    if str(path) == SYNTHETIC:
        for name, value in options.items():
            if value != DataSection.model_fields[name].default:
                raise InputError(
                    f"data.{name} = {shown(value)}: the embedded catalogue has no table; give --data FOLDER"
                )
        dataset = data.synthetic(split_seed)
        return dataset.with_modalities(list(modalities)) if modalities else dataset
    return data.load(path, layout, split_seed, list(modalities) or None, **options)


def fit_and_test(dataset, config, name: str, folder=None, checkpoints=None):
    """Fit one system, fill the folder where there is one: (Fit, test metrics, seconds in all)."""
    from ..console.progress import ProgressObserver
    from ..ranking import split_metrics
    from ..systems import title
    from ..training import loop, signals
    from ..training.progress import ObserverList

    config = config.changed("model", system=name)
    start = None
    if folder is not None and config.train.start and not checkpoints.opened:
        start = _parameters_of(config.train.start, dataset, name)
    started = time.perf_counter()
    with ProgressObserver(title(name)) as progress:
        if folder is None:
            fit = loop.fit(dataset, config, progress)
        else:
            with signals.defer_signals() as checkpoints.stop:
                try:
                    observers = ObserverList(progress, folder)
                    fit = loop.fit(dataset, config, observers, checkpoints=checkpoints, start=start)
                except (NonFiniteLoss, OutOfMemory) as error:
                    kept = f"; the state {checkpoints.last} is kept in {checkpoints.folder}" if checkpoints.last else ""
                    raise type(error)(f"{error}{kept}") from None
            checkpoints.leave_if_asked()
    seconds = time.perf_counter() - started
    how = config.evaluate
    test = split_metrics(fit.users, fit.items, dataset, "test", how.ks, how.mask_validation, how.batch)
    return fit, test, seconds


def _parameters_of(source: str, dataset, system: str) -> dict[str, Any]:
    """The parameters of the model in a run folder or file. Raises InputError where it is another system's, or its users
    or items are others."""
    from ..systems import create, title
    from . import saved_model

    model = saved_model.load(source)
    there = model.metadata.get("system", "")
    if there != system:
        raise InputError(f"{source}: is a model of {title(there)}, this run trains {title(system)}")
    if not create(system).trains:
        raise InputError(f"{source}: {title(system)} is not trained, so no run can begin from its model")
    for side, count in (("users", "n_users"), ("items", "n_items")):
        pairs = [(one, getattr(one, count)) for one in (model.interactions, dataset)]
        before, now = ([*map(str, getattr(one, f"original_{side}")(range(n)).tolist())] for one, n in pairs)
        if before != now:
            other = next((at for at, (old, new) in enumerate(zip(before, now, strict=False)) if old != new), None)
            what = f"{len(before):,} {side} there, {len(now):,} in {dataset.name}"
            if other is not None:
                what = f"row {other} is {shown(before[other])} there, {shown(now[other])} in {dataset.name}"
            raise InputError(
                f"{source}: was trained on other {side}: {what}; a run can begin only from a model of the same users "
                "and items"
            )
    return model.parameters


def complete(dataset, config, place: Path) -> bool:
    """Bring the run in `place` to its end: begun where nothing is there, resumed where it was interrupted, left alone
    where it is finished. Returns whether anything was left to do.

    Raises InputError where the folder holds a run of another configuration or of other data.
    """
    from ..memory import budget
    from ..training.checkpoints import Checkpoints
    from .folder import CONFIG, RESULT, RunFolder

    if (place / CONFIG).exists():
        refuse_other_run(place, dataset, config)
    if (place / RESULT).exists():
        return False
    budget.refuse_what_cannot_fit(dataset, config)
    checkpoints = Checkpoints(place, dataset, config)
    going_on = checkpoints.open()
    folder = RunFolder(place, dataset, config, overwrite=True, resume=going_on)
    warnings.filterwarnings("ignore", message="sample_bpr: ")  # that it leaves out users who have every item
    fit, test, _ = fit_and_test(dataset, config, config.model.system, folder, checkpoints)
    folder.finish(fit, test)
    return True


def refuse_other_run(place: Path, dataset, config) -> None:
    """Raise InputError where the run folder's configuration or, as far as it is finished, its data is another."""
    from ..config.compare import refuse_other
    from ..config.load import load
    from .folder import CONFIG, RESULT, read_result

    refuse_other(place, load(place / CONFIG).model_dump(), config.model_dump())
    if (place / RESULT).exists():
        refuse_other_data({str(place): read_result(place), "the data": {"data": {"fingerprint": dataset.fingerprint}}})


def refuse_other_data(results: dict[str, dict[str, Any]]) -> None:
    """Raise InputError where results (result.json's contents by name) are of more than one split of more than one
    catalogue: their figures say nothing of each other."""
    found = {name: result["data"]["fingerprint"] for name, result in results.items()}
    first = next(iter(found), None)
    for name, fingerprint in found.items():
        if fingerprint != found[first]:
            raise InputError(
                f"{name}: its data has the fingerprint {fingerprint[:16]}, that of {first} is {found[first][:16]}; "
                "figures of different splits do not go into one table"
            )
