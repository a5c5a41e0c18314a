"""mmssl-fast train: train a system, or resume a run."""

from __future__ import annotations

import shlex
import sys
import warnings
from pathlib import Path
from typing import Annotated, Any

import typer

from ..errors import InputError
from . import launch
from .options import DATA_OPTIONS, ConfigOption, Flags, RanksOption, SetOption, config_key_options, configuration


@config_key_options(*DATA_OPTIONS, "system", "device", "threads")
def train(
    flags: Flags,
    config: ConfigOption = None,
    preset: Annotated[
        str | None, typer.Option(metavar="NAME|FILE", help="Tuned settings: name of a bundled preset, or a TOML file.")
    ] = None,
    epochs: Annotated[int | None, typer.Option(help="Maximum number of epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Batch size in (user, positive, negative) triples.")] = None,
    seed: Annotated[
        int | None, typer.Option(help="Seed of initialisation, sampling, dropout and noise.", show_default=False)
    ] = None,
    memory: Annotated[
        str | None, typer.Option(help="Memory budget of the run, such as 4GiB. [default: 80% of the free memory]")
    ] = None,
    compare: Annotated[
        bool | None,
        typer.Option(
            help="Also train popularity and LightGCN, for comparison. [default: only on the built-in data set]",
            show_default=False,
        ),
    ] = None,
    settings: SetOption = None,
    out: Annotated[
        Path | None, typer.Option(help="Folder of the run. [default: runs/<system>-<data>-<time>]", show_default=False)
    ] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace the files of an earlier run in that folder.")] = False,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="RUN",
            help="Resume the interrupted run in this folder with its configuration. With a higher --epochs, continue a "
            "finished run.",
            show_default=False,
        ),
    ] = None,
    start: Annotated[
        Path | None,
        typer.Option(
            "--from",
            metavar="RUN",
            help="Start a new run from the model of this one. Its settings and data are used unless you give others.",
            show_default=False,
        ),
    ] = None,
    ranks: RanksOption = None,
) -> None:
    """Train a recommender and print its test metrics. The model of its best epoch is saved."""
    if launch.is_asked_for(ranks):
        return launch.launch(ranks, sys.argv[1:])
    import numpy as np
    import torch

    from ..config import presets
    from ..config.compare import refuse_other
    from ..config.sections import SYNTHETIC, SYNTHETIC_EPOCHS
    from ..console import output
    from ..memory import budget
    from ..ranking import breakdown, check_list_lengths
    from ..runs.complete import fit_and_test, load_data
    from ..runs.folder import CONFIG, default_path, open_folder
    from ..systems import refuse_over_ranks, refuse_without_features
    from ..training import ranks as together
    from ..training import signals
    from ..training.checkpoints import Checkpoints, ranks_of_checkpoint, resume_command
    from ..training.loop import pick_device

    flags |= {
        "train.epochs": (epochs, "--epochs"),
        "train.batch": (batch, "--batch"),
        "train.seed": (seed, "--seed"),
        "train.memory": (memory, "--memory"),
        "train.compare": (None if compare is None else "yes" if compare else "no", "--compare"),
    }
    if together.is_restarted() and resume is None and out is not None and (out / CONFIG).is_file():
        resume, out, config, preset, overwrite, start = out, None, None, None, False, None
    if resume is not None:
        config = _resumed_configuration(
            resume, {"--config": config, "--preset": preset, "--out": out, "--overwrite": overwrite, "--from": start}
        )
    preset_path = None if preset is None else presets.find(preset)
    if start is not None:
        preset_path = _configuration_of(start, preset)
        flags["train.start"] = str(start.resolve()), "--from"
    chosen = configuration(config, flags, settings, preset_path)
    if resume is not None:
        saved = configuration(config, {})
        refuse_other(resume, saved.model_dump(), chosen.model_dump(), more_epochs=True)
        _refuse_finished(resume, saved, chosen.train.epochs)
    group = together.join(chosen.train.device, chosen.distributed)
    if group.size > 1:
        refuse_over_ranks(chosen.model.system)
        together.refuse_one_process_settings(chosen)
    pick_device(chosen.train.device)
    dataset = load_data(**chosen.data.model_dump())
    refuse_without_features(dataset, [chosen.model.system])
    check_list_lengths("evaluate.ks", chosen.evaluate.ks, dataset.n_items)
    if chosen.data.path != SYNTHETIC:
        chosen = chosen.changed("data", path=str(Path(chosen.data.path).resolve()))
    elif "epochs" not in chosen.train.model_fields_set:
        chosen = chosen.changed("train", epochs=SYNTHETIC_EPOCHS)
    together.refuse_differences(chosen, dataset)
    if resume is not None and flags["train.threads"][0] is None and ranks_of_checkpoint(resume) not in (0, group.size):
        chosen = chosen.changed("train", threads=0)  # those of other ranks; they are divided anew
    if not chosen.train.threads:  # saved in config.toml, because results may depend on it and it depends on the load
        chosen = chosen.changed("train", threads=torch.get_num_threads())
    chosen = together.one_config(budget.fit_to_budget(dataset, chosen, resumed=resume is not None))
    path = resume or out or Path(together.first_ranks(lambda: str(default_path(chosen, dataset))))
    checkpoints = Checkpoints(path, dataset, chosen)
    has_checkpoint = resume is not None and checkpoints.open()
    folder = open_folder(path, dataset, chosen, overwrite or resume is not None, has_checkpoint)
    notes = list(dataset.notes)
    if resume is not None:
        notes[:0] = checkpoints.notes() or ["the run has no checkpoint yet, so it starts from the beginning"]
    if n_full := int((np.diff(dataset.train.indptr) == dataset.n_items).sum()):
        notes.append(f"{n_full} users have interacted with every item; no triple is sampled for them")
    for note in notes:
        output.ERR.print(f"note: {note}", markup=False)
    if line := budget.summary(dataset, chosen):
        output.ERR.print(line, markup=False)
    warnings.filterwarnings("ignore", message="sample_bpr: ")  # the note above replaces this warning
    compared = chosen.train.compare == "yes" or (chosen.train.compare == "auto" and chosen.data.path == SYNTHETIC)
    names = [name for name in ("popularity", "lightgcn") if compared and name != chosen.model.system]
    baselines = {}
    # During training, a signal takes effect after the current step; elsewhere at once.
    with signals.raise_on_signal(f"interrupted; to resume: {resume_command(path)}"):
        fit, test, seconds = fit_and_test(dataset, chosen, chosen.model.system, folder, checkpoints)
        rows = [(chosen.model.system, test, seconds)]
        for name in names:
            baseline, metrics, seconds = fit_and_test(dataset, chosen, name)
            rows.append((name, metrics, seconds))
            baselines[name] = {
                "test": metrics,
                "val": baseline.val,
                "best_epoch": baseline.best_epoch,
                "seconds": seconds,
            }
        options = chosen.evaluate
        groups = breakdown(fit.users, fit.items, dataset, "test", options.ks, options.mask_validation, options.batch)
        folder.finish(fit, test, baselines, groups, keep_state=True)
    _print_results(dataset.name, fit, test, rows, folder.path, groups)
    together.leave()


def _resumed_configuration(run: Path, other_options: dict[str, Any]) -> Path:
    """The configuration file of the run to resume. Raises InputError if there is none, or if an option contradicts
    --resume."""
    from ..runs.folder import CONFIG

    for flag, value in other_options.items():
        if value:
            raise InputError(f"--resume cannot be used with {flag}; the configuration comes from {run / CONFIG}")
    if not (run / CONFIG).is_file():
        raise InputError(f"{run}: contains no {CONFIG}; give the folder of an interrupted or finished run")
    return run / CONFIG


def _refuse_finished(run: Path, saved, epochs: int) -> None:
    """Raise InputError if the run is finished and cannot be continued to this number of epochs."""
    from ..runs.folder import RESULT, read_epochs
    from ..systems import create, title
    from ..training.checkpoints import FOLDER
    from ..training.state_file import newest

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


def _configuration_of(run: Path, preset: str | None) -> Path:
    """The configuration file of the run given by --from."""
    from ..runs.folder import CONFIG

    if preset is not None:
        raise InputError(f"--from cannot be used with --preset; the settings come from {run}")
    path = (run.parent if run.is_file() else run) / CONFIG
    if not path.is_file():
        raise InputError(f"{run}: contains no {CONFIG}; give the folder of a run with --from")
    return path


def _print_results(
    data: str,
    fit,
    test: dict[str, float],
    rows: list[tuple[str, dict[str, float], float]],
    folder,
    groups: dict[str, dict[str, float]],
) -> None:
    """Print the test metrics, their breakdown and the comparison with other systems if there are any, and the run
    folder."""
    from ..config.names import title as title_of
    from ..console import output, tables

    title = title_of(rows[0][0])
    trained = f", epoch {fit.best_epoch} of {len(fit.epochs)}" if fit.epochs else ""
    if test["users"]:
        output.OUT.print(tables.metrics_table(f"{title} on {data}, test: {test['users']:,} users{trained}", test))
    else:
        output.OUT.print(f"{title} on {data}{trained}; the data has no test interactions", markup=False)
    if groups:
        output.OUT.print(tables.breakdown_table(groups))
    if len(rows) > 1:
        compared = [(title_of(name), metrics, seconds) for name, metrics, seconds in rows]
        output.OUT.print(tables.comparison_table(f"test on {data}", compared))
    output.OUT.print(f"run folder: {folder}", markup=False)
