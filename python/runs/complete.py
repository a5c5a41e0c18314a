"""One run from its configuration to its finished folder, and the steps of it that the commands share."""

from __future__ import annotations

import time
import warnings
from pathlib import Path
from typing import Any

from ..errors import InputError, OutOfMemory, shown


def load_data(section):
    """The Dataset that the configuration's data section names."""
    from ..config.sections import SYNTHETIC
    from ..data import load, synthetic

    if section.path == SYNTHETIC:
        dataset = synthetic(section.split_seed)
        return dataset.with_modalities(section.modalities) if section.modalities else dataset
    return load(section.path, section.layout, section.split_seed, section.modalities or None)


def changed(config, section: str, **values):
    """The configuration with other values in one section."""
    return config.model_copy(update={section: getattr(config, section).model_copy(update=values)})


def fit_and_test(dataset, config, name: str, folder=None, checkpoints=None):
    """Fit one system, fill the folder where there is one: (Fit, test metrics, seconds in all)."""
    from ..console import output as report
    from ..ranking import split_metrics
    from ..systems import TITLES
    from ..training import loop as training
    from ..training import signals

    config = changed(config, "model", system=name)
    start = None
    if folder is not None and config.train.start and not checkpoints.opened:
        start = _parameters_of(config.train.start, dataset, name)
    started = time.perf_counter()
    with report.ProgressObserver(TITLES[name]) as progress:
        if folder is None:
            fit = training.fit(dataset, config, progress)
        else:
            with signals.kept() as checkpoints.stop:
                try:
                    observers = report.Several(progress, folder)
                    fit = training.fit(dataset, config, observers, checkpoints=checkpoints, start=start)
                except (training.NonFiniteLoss, OutOfMemory) as error:
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
    from ..systems import TITLES, create
    from . import saved_model

    model = saved_model.load(source)
    there = model.metadata.get("system", "")
    if there != system:
        raise InputError(f"{source}: is a model of {TITLES.get(there, there)}, this run trains {TITLES[system]}")
    if not create(system).trains:
        raise InputError(f"{source}: {TITLES[system]} is not trained, so no run can begin from its model")
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
    from ..memory import plan
    from ..training import checkpoints as checkpoint
    from . import folder as run_folder

    if (place / run_folder.CONFIG).exists():
        refuse_other_run(place, dataset, config)
    if (place / run_folder.RESULT).exists():
        return False
    plan.refuse_what_cannot_fit(dataset, config)
    checkpoints = checkpoint.Checkpoints(place, dataset, config)
    going_on = checkpoints.open()
    folder = run_folder.RunFolder(place, dataset, config, overwrite=True, resume=going_on)
    warnings.filterwarnings("ignore", message="sample_bpr: ")  # that it leaves out users who have every item
    fit, test, _ = fit_and_test(dataset, config, config.model.system, folder, checkpoints)
    folder.finish(fit, test)
    return True


def refuse_other_run(place: Path, dataset, config) -> None:
    """Raise InputError where the run folder's configuration or, as far as it is finished, its data is another."""
    from ..config.sections import load
    from ..training.checkpoints import refuse_other
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
