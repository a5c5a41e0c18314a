"""mmssl-fast tune: hyper-parameter search."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .options import (
    DATA_OPTIONS,
    ConfigOption,
    EpochsOption,
    Flags,
    SetOption,
    config_key_options,
    configuration,
)


@config_key_options(*DATA_OPTIONS, "system", "device", "threads")
def tune(
    flags: Flags,
    out: Annotated[
        Path, typer.Option(help="Folder of the search. If it contains a search, that one is resumed.")
    ] = Path("tuned"),
    trials: Annotated[int, typer.Option(min=1, help="Total number of trials, including those of earlier calls.")] = 30,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="Search space: name of a bundled one, or a TOML file that gives a list of values or { low, high, "
            "log } for each key. [default: the bundled space of the system]",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Preset for the first trial, and for the keys outside the search space."
        ),
    ] = None,
    config: ConfigOption = None,
    epochs: EpochsOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs per trial. Their validation metric is averaged.")] = 1,
    prune: Annotated[
        bool, typer.Option(help="Stop a trial early if it is worse than the median of the earlier trials.")
    ] = True,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Trials at the same time. The processors are divided among them, unless --threads is given. With more "
            "than one, the sampled values are not reproducible.",
        ),
    ] = 1,
    settings: SetOption = None,
) -> None:
    """Search for the best hyper-parameters with Optuna. Trials are compared by validation Recall@20, or
    train.select_by. The folder gets a table of the trials, and the best trial as a preset. Repeat the command to
    continue the search."""
    from .. import tune as tune_system
    from ..console import output

    flags["train.epochs"] = (epochs, "--epochs")
    base = configuration(config, flags, settings, preset)

    def note(line: str) -> None:
        output.ERR.print(line, markup=False)

    for path in tune_system(base, out, space=space, trials=trials, seeds=seeds, prune=prune, jobs=jobs, note=note):
        output.OUT.print(f"written: {path}", markup=False)
