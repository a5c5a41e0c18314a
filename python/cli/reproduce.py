"""mmssl-fast reproduce."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError, shown
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


def reproduce(
    target: Annotated[
        Literal["table2", "table3", "table4", "figure3", "figure4", "figure5"],
        typer.Argument(
            metavar="TARGET",
            help="table2 (systems), table3 (ablations), table4 (by "
            "training interactions), figure3 (training curves), figure4 (sweeps) or "
            "figure5 (gradient of negatives).",
        ),
    ],
    data: DataOption = None,
    layout: LayoutOption = None,
    out: Annotated[Path, typer.Option(help="Where runs and results go; runs that are there already are used.")] = Path(
        "reproduced"
    ),
    seeds: Annotated[
        int | None,
        typer.Option(min=1, help="Seeds of every row, from 0. [default: 3; with --quick 1]", show_default=False),
    ] = None,
    epochs: EpochsOption = None,
    systems: Annotated[
        str | None, typer.Option(help="table2, table4, figure3: which systems, separated by commas.")
    ] = None,
    variants: Annotated[
        str | None,
        typer.Option(help="table3: which ablations, separated by commas. [default: all]", show_default=False),
    ] = None,
    sweeps: Annotated[
        str | None,
        typer.Option(
            help="figure4: which keys are swept, such as model.layers,loss.zeta. [default: all]", show_default=False
        ),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick", help="A look at the machinery: one seed, 2 epochs, few systems, the sweeps' ends. No results."
        ),
    ] = False,
    config: Annotated[Path | None, typer.Option(help="Configuration in TOML, for every system.")] = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM=NAME|FILE",
            help="Settings of one system; may be repeated. [default: the bundled SYSTEM-DATA where there is one]",
            show_default=False,
        ),
    ] = None,
    device: DeviceOption = None,
    threads: ThreadsOption = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1, max=1024, help="Runs at once, each a process with its share of the processors, or with --threads."
        ),
    ] = 1,
    settings: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs with the time they may take, and stop.")
    ] = False,
    interactions: Interactions = None,
    split_column: SplitColumn = None,
    split: SplitRule = None,
    min_rating: MinRating = None,
    missing_features: MissingFeatures = None,
) -> None:
    """One of the paper's tables or figures on your data: runs with several seeds, kept and resumed, then Markdown and
    pictures beside the paper's own figures."""
    from ..config.names import SYSTEMS
    from ..console import output, tables
    from ..study.processes import sharing
    from ..study.reproduce import paper, plan, targets

    names = plan.systems_of(target, _names(systems, "--systems", SYSTEMS), quick)
    swept = _names(sweeps, "--sweeps", paper.SWEEPS)
    flags = {
        "data.path": (data, "--data"),
        "data.layout": (layout, "--layout"),
        "train.device": (device, "--device"),
        "train.threads": (threads, "--threads"),
        "train.epochs": (epochs or (plan.QUICK_EPOCHS if quick else None), "--epochs"),
        **data_flags(interactions, split_column, split, min_rating, missing_features),
    }
    dataset, base = _base(names, flags, config, preset or [], settings or [])
    chosen = _names(variants, "--variants", plan.ABLATIONS | plan.STRUCTURAL_ABLATIONS)
    missing = [name for name in chosen if "mmssl" in base and name not in plan.ablations(base["mmssl"])]
    if missing:
        raise InputError(
            f"--variants {shown(missing[0])}: leaves out the structural contrast, which is off already; add --set "
            "loss.structural=true"
        )
    asked = plan.Settings(
        target, out, dataset.fingerprint, base, seeds or (1 if quick else 3), quick, tuple(chosen), tuple(swept)
    )
    jobs = min(jobs, len({run.folder for run in plan.runs_of(asked)}))
    if jobs > 1:
        asked = replace(asked, base={name: sharing(one, jobs) for name, one in base.items()})
    if dry_run:
        rows = targets.foresee(asked, dataset)
        shown_rows = [[label, str(seed), state, name, f"{s / 60:.1f}"] for label, seed, state, name, s in rows]
        output.OUT.print(tables.table("", ["run", "seed", "standing", "folder", "minutes at most"], shown_rows))
        distinct = {name: s for *_, name, s in rows}
        hours = targets.makespan(distinct.values(), jobs) / 3600
        at_once = f", {jobs} at a time" if jobs > 1 else ""
        output.OUT.print(f"{len(distinct)} runs{at_once}, {hours:.2f} hours at most on this machine")
        return
    path = targets.produce(asked, dataset, lambda line: output.ERR.print(line, markup=False), jobs)
    output.OUT.print(path.read_text(encoding="utf-8"), markup=False)
    output.OUT.print(f"written: {path}", markup=False)


def _names(text: str | None, flag: str, known: Iterable[str]) -> list[str]:
    """The names that an option lists, each once."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in known:
            raise InputError(f"{flag} {shown(name)}: choose among {', '.join(known)}")
    return list(dict.fromkeys(names))


def _base(names, flags, config, given, settings):
    """(Dataset, {system: its configuration}): preset below --config below options."""
    from ..config import presets
    from ..ranking import check_list_lengths
    from ..runs.complete import load_data
    from ..systems import refuse_without_features
    from ..training.loop import pick_device

    chosen = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in names:
            raise InputError(f"--preset {shown(one)}: write SYSTEM=NAME, SYSTEM one of {', '.join(names)}")
        chosen[name] = value
    dataset = load_data(**configuration(config, flags, settings).data.model_dump())
    refuse_without_features(dataset, names)
    base = {}
    for name in names:
        own = chosen.get(name) or next((one for one in presets.names() if one == f"{name}-{dataset.name}"), None)
        below = None if own is None else presets.find(own)
        base[name] = resolved(configuration(config, flags | {"model.system": (name, "--systems")}, settings, below))
        check_list_lengths("evaluate.ks", base[name].evaluate.ks, dataset.n_items)
    pick_device(next(iter(base.values())).train.device)
    return dataset, base
