"""mmssl-fast train."""

from __future__ import annotations

import shlex
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.names import SYSTEMS
from ..errors import InputError
from .data_options import Interactions, MinRating, MissingFeatures, SplitColumn, SplitRule, data_flags
from .options import (
    ConfigOption,
    DataOption,
    DeviceOption,
    LayoutOption,
    SetOption,
    ThreadsOption,
    configuration,
)


def train(
    data: DataOption = None,
    layout: LayoutOption = None,
    config: ConfigOption = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Settings found to work: a bundled name, or a TOML file; --config goes above it."
        ),
    ] = None,
    system: Annotated[str | None, typer.Option(help=f"{', '.join(SYSTEMS)}.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Triples of a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random in training.")] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    memory: Annotated[
        str | None,
        typer.Option(help="Memory the run may take, as 4GiB. [default: 80% of what is free]", show_default=False),
    ] = None,
    compare: Annotated[
        bool | None,
        typer.Option(
            help="Fit popularity and LightGCN too. [default: on the embedded catalogue only]", show_default=False
        ),
    ] = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="The run's folder. [default: runs/<system>-<data>-<time>]", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run's files in that folder.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Go on with the interrupted run in this folder, as it was configured; with more --epochs also with a "
            "finished one.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Begin another run from the model of this one, with its settings and data unless others are given.",
            show_default=False,
        ),
    ] = None,
    interactions: Interactions = None,
    split_column: SplitColumn = None,
    split: SplitRule = None,
    min_rating: MinRating = None,
    missing_features: MissingFeatures = None,
) -> None:
    """Train a recommender, keep its best model and say how good it is."""
    import numpy as np
    import torch

    from ..config import presets
    from ..config.compare import refuse_other
    from ..config.sections import SYNTHETIC, SYNTHETIC_EPOCHS
    from ..console import output
    from ..memory import budget
    from ..ranking import breakdown, check_list_lengths
    from ..runs.complete import fit_and_test, load_data
    from ..runs.folder import RunFolder, default_path
    from ..systems import refuse_without_features
    from ..training import signals
    from ..training.checkpoints import Checkpoints, resume_command
    from ..training.loop import pick_device

    flags = {
        "data.path": (data, "--data"),
        "data.layout": (layout, "--layout"),
        "model.system": (system, "--system"),
        "train.epochs": (epochs, "--epochs"),
        "train.batch": (batch, "--batch"),
        "train.seed": (seed, "--seed"),
        "train.device": (device, "--device"),
        "train.threads": (threads, "--threads"),
        "train.memory": (memory, "--memory"),
        "train.compare": (None if compare is None else "yes" if compare else "no", "--compare"),
        **data_flags(interactions, split_column, split, min_rating, missing_features),
    }
    if resume is not None:
        config = _resumed_configuration(
            resume, {"--config": config, "--preset": preset, "--out": out, "--overwrite": overwrite, "--from": start}
        )
    below = None if preset is None else presets.find(preset)
    if start is not None:
        below = _configuration_of(start, preset)
        flags["train.start"] = str(start.resolve()), "--from"
    chosen = configuration(config, flags, settings or [], below)
    if resume is not None:
        began = configuration(config, {}, [])
        refuse_other(resume, began.model_dump(), chosen.model_dump(), more_epochs=True)
        _refuse_finished(resume, began, chosen.train.epochs)
    pick_device(chosen.train.device)
    dataset = load_data(**chosen.data.model_dump())
    refuse_without_features(dataset, [chosen.model.system])
    check_list_lengths("evaluate.ks", chosen.evaluate.ks, dataset.n_items)
    if chosen.data.path != SYNTHETIC:
        chosen = chosen.changed("data", path=str(Path(chosen.data.path).resolve()))
    elif "epochs" not in chosen.train.model_fields_set:
        chosen = chosen.changed("train", epochs=SYNTHETIC_EPOCHS)
    if not chosen.train.threads:  # kept for resuming: the number may change results, and the load may change the number
        chosen = chosen.changed("train", threads=torch.get_num_threads())
    chosen = budget.settle(dataset, chosen, resumed=resume is not None)
    place = resume or out or default_path(chosen, dataset)
    checkpoints = Checkpoints(place, dataset, chosen)
    going_on = resume is not None and checkpoints.open()
    folder = RunFolder(place, dataset, chosen, overwrite or resume is not None, going_on)
    if resume is not None:
        for note in checkpoints.notes() or ["no state was written yet: starting from the beginning"]:
            output.ERR.print(f"note: {note}", markup=False)
    full = int((np.diff(dataset.train.indptr) == dataset.n_items).sum())
    for note in [*dataset.notes, *([f"{full} users have every item: no triple is drawn for them"] if full else [])]:
        output.ERR.print(f"note: {note}", markup=False)
    if line := budget.described(dataset, chosen):
        output.ERR.print(line, markup=False)
    warnings.filterwarnings("ignore", message="sample_bpr: ")  # said above
    compared = chosen.train.compare == "yes" or (chosen.train.compare == "auto" and chosen.data.path == SYNTHETIC)
    names = [name for name in ("popularity", "lightgcn") if compared and name != chosen.model.system]
    baselines = {}
    # Within `fit` a signal ends the run after a whole step.
    with signals.raise_on_signal(f"interrupted; {resume_command(place)} goes on"):
        fit, test, seconds = fit_and_test(dataset, chosen, chosen.model.system, folder, checkpoints)
        rows = [(chosen.model.system, test, seconds)]
        for name in names:
            other, metrics, seconds = fit_and_test(dataset, chosen, name)
            rows.append((name, metrics, seconds))
            baselines[name] = {
                "test": metrics,
                "val": other.val,
                "best_epoch": other.best_epoch,
                "seconds": seconds,
            }
        how = chosen.evaluate
        groups = breakdown(fit.users, fit.items, dataset, "test", how.ks, how.mask_validation, how.batch)
        folder.finish(fit, test, baselines, groups, keep_state=True)
    _show(dataset.name, fit, test, rows, folder.path, groups)


def _resumed_configuration(run: Path, others: dict[str, Any]) -> Path:
    """The configuration of the run to go on with. Raises InputError for a folder that holds none."""
    from ..runs.folder import CONFIG

    for flag, given in others.items():
        if given:
            raise InputError(f"--resume and {flag} exclude each other; --resume takes all from {run / CONFIG}")
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: holds no {CONFIG}; give the folder of a run that was interrupted or has ended")
    return run / CONFIG


def _refuse_finished(run: Path, began, epochs: int) -> None:
    """Raise InputError where a run is finished and cannot go on to that many epochs."""
    from ..runs.folder import RESULT, read_epochs
    from ..systems import create, title
    from ..training.checkpoints import FOLDER
    from ..training.state_file import newest

    if not (run / RESULT).exists():
        return
    finished = f"{run}: is finished, its result is in {RESULT}"
    if not create(began.model.system).trains:
        raise InputError(f"{finished}; {title(began.model.system)} takes no epochs, there is nothing to resume")
    again = f"mmssl-fast train --from {shlex.quote(str(run))} begins another run from its model"
    if (taken := len(read_epochs(run))) < began.train.epochs:
        raise InputError(f"{finished}; it ended early, after epoch {taken}, by train.patience; {again}")
    if epochs <= began.train.epochs:
        raise InputError(f"{finished}; to train on, give --epochs above its {began.train.epochs}, or {again}")
    if newest(run / FOLDER) is None:
        raise InputError(f"{finished}; it has no state to go on from; {again}")


def _configuration_of(run: Path, preset: str | None) -> Path:
    """The configuration of the run whose model another one begins from."""
    from ..runs.folder import CONFIG

    if preset is not None:
        raise InputError(f"--from and --preset exclude each other; --from takes the settings of {run}")
    path = (run.parent if run.is_file() else run) / CONFIG
    if not path.is_file():
        raise InputError(f"{run}: holds no {CONFIG}; give the folder of a run with --from")
    return path


def _show(
    data: str,
    fit,
    test: dict[str, float],
    rows: list[tuple[str, dict[str, float], float]],
    folder,
    groups: dict[str, dict[str, float]],
) -> None:
    """The end of `train`: the test metrics of the trained system, their breakdown and a comparison where there is one,
    the folder."""
    from ..config.names import title as title_of
    from ..console import output, tables

    title = title_of(rows[0][0])
    trained = f", best of {len(fit.epochs)} epochs: {fit.best_epoch}" if fit.epochs else ""
    if test["users"]:
        output.OUT.print(tables.metrics_table(f"{title} on {data}, test: {test['users']:,} users{trained}", test))
    else:
        output.OUT.print(f"{title} on {data}{trained}; the data has no test interactions", markup=False)
    if groups:
        output.OUT.print(tables.breakdown_table(groups))
    if len(rows) > 1:
        output.OUT.print(tables.comparison_table(f"test on {data}", [(title_of(name), *rest) for name, *rest in rows]))
    output.OUT.print(f"run folder: {folder}", markup=False)
