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
    for_many_runs,
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
    seeds: Annotated[int, typer.Option(min=1, help="Runs per trial. Their validation Recall@20 is averaged.")] = 1,
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
    """Search for the best hyper-parameters with Optuna. Trials are compared by validation Recall@20. The folder gets a
    table of the trials, and the best trial as a preset. Repeat the command to continue the search."""
    from ..config import presets
    from ..console import output
    from ..runs.complete import load_data
    from ..study.processes import refuse_what_cannot_fit, sharing
    from ..study.tune import record
    from ..study.tune import space as spaces
    from ..study.tune.search import JOURNAL, Search, refuse_what_cannot_run
    from ..systems import refuse_without_features

    flags["train.epochs"] = (epochs, "--epochs")
    base = configuration(config, flags, settings, None if preset is None else presets.find(preset))
    search_space = spaces.read_space(spaces.find_space(space, base.model.system), base)
    jobs = min(jobs, trials)
    base = sharing(for_many_runs(base), jobs) if jobs > 1 else for_many_runs(base)
    dataset = load_data(**base.data.model_dump())
    refuse_without_features(dataset, [base.model.system])
    refuse_what_cannot_run(dataset, base, search_space)
    if not (out / JOURNAL).exists():  # a resumed search may have fewer trials left
        refuse_what_cannot_fit([base] * jobs, dataset, jobs, "trials")
    search = Search(out, dataset, base, search_space, seeds, prune)
    search.run(trials, lambda line: output.ERR.print(line, markup=False), jobs)
    for name in (record.RECORD, record.BEST):
        if (out / name).exists():
            output.OUT.print(f"written: {out / name}", markup=False)
