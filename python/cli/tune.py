"""mmssl-fast tune."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from .data_options import Interactions, MinRating, MissingFeatures, SplitColumn, SplitRule, data_flags
from .options import (
    DataOption,
    DeviceOption,
    EpochsOption,
    LayoutOption,
    SetOption,
    ThreadsOption,
    configuration,
    resolved,
)


def tune(
    data: DataOption = None,
    layout: LayoutOption = None,
    out: Annotated[Path, typer.Option(help="The search's folder; a search that is there goes on.")] = Path("tuned"),
    trials: Annotated[int, typer.Option(min=1, help="Until so many trials have ended, earlier ones counted.")] = 30,
    system: Annotated[str | None, typer.Option(help="What is tuned: every system but popularity.")] = None,
    space: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE",
            help="What is searched: a bundled name, or TOML "
            "with a list of values or { low, high, log } a key. [default: the "
            "system's own]",
            show_default=False,
        ),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(
            metavar="NAME|FILE", help="Where the search starts: its first trial, and every key that is not searched."
        ),
    ] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration in TOML, above the preset.")] = None,
    epochs: EpochsOption = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of a trial, whose validation Recall@20 is averaged.")] = 1,
    prune: Annotated[bool, typer.Option(help="End a run early that is worse than the median of earlier ones.")] = True,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Trials at once, each a process with its share of the "
            "processors, or with --threads. What is drawn depends on "
            "which end first.",
        ),
    ] = 1,
    settings: SetOption = None,
    interactions: Interactions = None,
    split_column: SplitColumn = None,
    split: SplitRule = None,
    min_rating: MinRating = None,
    missing_features: MissingFeatures = None,
) -> None:
    """Search for settings by validation Recall@20 (Optuna), in a folder from which the search goes on when repeated:
    the trials' record, and the best of them as a preset."""
    from ..config import presets
    from ..console import output
    from ..runs.complete import load_data
    from ..study.processes import refuse_what_cannot_fit, sharing
    from ..study.tune import record
    from ..study.tune import space as spaces
    from ..study.tune.search import JOURNAL, Search, refuse_what_cannot_run
    from ..systems import refuse_without_features

    flags = {
        "data.path": (data, "--data"),
        "data.layout": (layout, "--layout"),
        "model.system": (system, "--system"),
        "train.epochs": (epochs, "--epochs"),
        "train.device": (device, "--device"),
        "train.threads": (threads, "--threads"),
        **data_flags(interactions, split_column, split, min_rating, missing_features),
    }
    base = configuration(config, flags, settings or [], None if preset is None else presets.find(preset))
    searched = spaces.read_space(spaces.find_space(space, base.model.system), base)
    jobs = min(jobs, trials)
    base = sharing(resolved(base), jobs) if jobs > 1 else resolved(base)
    dataset = load_data(**base.data.model_dump())
    refuse_without_features(dataset, [base.model.system])
    refuse_what_cannot_run(dataset, base, searched)
    if not (out / JOURNAL).exists():  # a search that goes on may have fewer trials left
        refuse_what_cannot_fit([base] * jobs, dataset, jobs, "trials")
    found = Search(out, dataset, base, searched, seeds, prune)
    found.run(trials, lambda line: output.ERR.print(line, markup=False), jobs)
    for name in (record.RECORD, record.BEST):
        if (out / name).exists():
            output.OUT.print(f"written: {out / name}", markup=False)
