"""mmssl-fast train: train a system, or resume a run."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from ..errors import InputError
from . import launch
from .options import DATA_OPTIONS, ConfigOption, Flags, RanksOption, SetOption, config_key_options, configuration

if TYPE_CHECKING:
    from .. import TrainedRun


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
        str | None,
        typer.Option(
            help="Memory budget of the run, with --ranks of each rank, such as 4GiB. [default: 80% of the free memory, "
            "with --ranks divided among them]"
        ),
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
            help="Start a new run from the model of this one. Its settings and data are used unless you give others. "
            "On other data, users and items with the same id keep their parameters.",
            show_default=False,
        ),
    ] = None,
    ranks: RanksOption = None,
) -> None:
    """Train a recommender and print its test metrics. The model of its best epoch is saved."""
    if launch.is_asked_for(ranks):
        return launch.launch(ranks, sys.argv[1:])
    from .. import configuration_file
    from .. import resume as resume_run
    from .. import train as train_system
    from ..console import output

    flags |= {
        "train.epochs": (epochs, "--epochs"),
        "train.batch": (batch, "--batch"),
        "train.seed": (seed, "--seed"),
        "train.memory": (memory, "--memory"),
        "train.compare": (None if compare is None else "yes" if compare else "no", "--compare"),
    }
    if launch.is_restarted() and resume is None and out is not None and (out / "config.toml").is_file():
        resume, out, config, preset, overwrite, start = out, None, None, None, False, None
    if resume is not None:
        for flag, value in {
            "--config": config,
            "--preset": preset,
            "--out": out,
            "--overwrite": overwrite,
            "--from": start,
        }.items():
            if value:
                raise InputError(f"--resume cannot be used with {flag}; the configuration comes from {resume}")
        chosen = configuration(configuration_file(resume), flags, settings)
    elif start is not None:
        if preset is not None:
            raise InputError(f"--from cannot be used with --preset; the settings come from {start}")
        flags["train.start"] = str(start.resolve()), "--from"
        chosen = configuration(config, flags, settings, configuration_file(start))
    else:
        chosen = configuration(config, flags, settings, preset)

    def note(line: str) -> None:
        output.ERR.print(f"note: {line}", markup=False)

    run = (
        train_system(chosen, out, overwrite=overwrite, note=note)
        if resume is None
        else resume_run(resume, chosen, threads=flags["train.threads"][0], note=note)
    )
    _print_results(run)


def _print_results(run: TrainedRun) -> None:
    """Print the test metrics, their breakdown and the comparison with other systems if there are any, and the run
    folder."""
    from ..config.names import title as title_of
    from ..console import output, tables

    system, model, test = run.config.model.system, run.model, run.test
    title, data = title_of(system), model.interactions.name
    trained = f", epoch {model.metadata['best_epoch']} of {len(model.epochs)}" if model.epochs else ""
    if test["users"]:
        output.OUT.print(tables.metrics_table(f"{title} on {data}, test: {test['users']:,} users{trained}", test))
    else:
        output.OUT.print(f"{title} on {data}{trained}; the data has no test interactions", markup=False)
    if run.breakdown:
        output.OUT.print(tables.breakdown_table(run.breakdown))
    if run.baselines:
        others = [(title_of(name), result["test"], result["seconds"]) for name, result in run.baselines.items()]
        output.OUT.print(tables.comparison_table(f"test on {data}", [(title, test, run.seconds), *others]))
    output.OUT.print(f"run folder: {run.path}", markup=False)
