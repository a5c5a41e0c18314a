"""mmssl-fast reproduce: the tables and figures of the paper."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError, shown
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


@config_key_options(*DATA_OPTIONS, "device", "threads")
def reproduce(
    target: Annotated[
        Literal["table2", "table3", "table4", "figure3", "figure4", "figure5"],
        typer.Argument(
            metavar="TARGET",
            help="table2 (systems), table3 (ablations), table4 (users by training interactions), figure3 (training "
            "curves), figure4 (sweeps) or figure5 (gradients of negatives).",
        ),
    ],
    flags: Flags,
    out: Annotated[
        Path, typer.Option(help="Folder for runs and results. Runs that it already contains are not repeated.")
    ] = Path("reproduced"),
    seeds: Annotated[
        int | None,
        typer.Option(
            min=1, help="Number of seeds per row, starting at 0. [default: 3; with --quick 1]", show_default=False
        ),
    ] = None,
    epochs: EpochsOption = None,
    systems: Annotated[str | None, typer.Option(help="table2, table4, figure3: systems, separated by commas.")] = None,
    variants: Annotated[
        str | None, typer.Option(help="table3: ablations, separated by commas. [default: all]", show_default=False)
    ] = None,
    sweeps: Annotated[
        str | None,
        typer.Option(help="figure4: keys to vary, such as model.layers,loss.zeta. [default: all]", show_default=False),
    ] = None,
    quick: Annotated[
        bool,
        typer.Option(
            "--quick",
            help="Try the command: one seed, 2 epochs, few systems, 2 values per sweep. The numbers are not results.",
        ),
    ] = False,
    config: ConfigOption = None,
    preset: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM=NAME|FILE",
            help="Preset of one system. May be given several times. [default: the bundled preset SYSTEM-DATA, if any]",
            show_default=False,
        ),
    ] = None,
    jobs: Annotated[
        int,
        typer.Option(
            min=1,
            max=1024,
            help="Runs at the same time. The processors are divided among them, unless --threads is given.",
        ),
    ] = 1,
    settings: SetOption = None,
    dry_run: Annotated[
        bool, typer.Option("--dry-run", help="List the runs with an upper bound on their time, and exit.")
    ] = False,
) -> None:
    """Reproduce a table or figure of the paper on your data. Every configuration is trained with several seeds. The
    results are written as Markdown and PNG, with the numbers of the paper below them. Repeat the command to continue
    after an interruption."""
    from ..config.names import SYSTEMS
    from ..console import output, tables
    from ..study.processes import sharing
    from ..study.reproduce import paper, plan, targets

    names = plan.systems_of(target, _names(systems, "--systems", SYSTEMS), quick)
    swept = _names(sweeps, "--sweeps", paper.SWEEPS)
    flags["train.epochs"] = (epochs or (plan.QUICK_EPOCHS if quick else None), "--epochs")
    dataset, base = _base(names, flags, config, preset or [], settings or [])
    chosen = _names(variants, "--variants", plan.ABLATIONS | plan.STRUCTURAL_ABLATIONS)
    missing = [name for name in chosen if "mmssl" in base and name not in plan.ablations(base["mmssl"])]
    if missing:
        raise InputError(
            f"--variants {shown(missing[0])}: requires the structural contrastive loss; add --set loss.structural=true"
        )
    request = plan.Settings(
        target, out, dataset.fingerprint, base, seeds or (1 if quick else 3), quick, tuple(chosen), tuple(swept)
    )
    jobs = min(jobs, len({run.folder for run in plan.runs_of(request)}))
    if jobs > 1:
        request = replace(request, base={name: sharing(config, jobs) for name, config in base.items()})
    if dry_run:
        rows = targets.estimate(request, dataset)
        cells = [[label, str(seed), progress, name, f"{s / 60:.1f}"] for label, seed, progress, name, s in rows]
        output.OUT.print(tables.table("", ["run", "seed", "progress", "folder", "max. minutes"], cells))
        distinct = {name: s for *_, name, s in rows}
        hours = targets.makespan(distinct.values(), jobs) / 3600
        parallel = f", {jobs} at a time" if jobs > 1 else ""
        output.OUT.print(f"{len(distinct)} runs{parallel}, at most {hours:.2f} hours on this machine")
        return
    path = targets.produce(request, dataset, lambda line: output.ERR.print(line, markup=False), jobs)
    output.OUT.print(path.read_text(encoding="utf-8"), markup=False)
    output.OUT.print(f"written: {path}", markup=False)


def _names(text: str | None, flag: str, allowed: Iterable[str]) -> list[str]:
    """The distinct names in a comma-separated option. Raises InputError for one that is not allowed."""
    names = [name.strip() for name in (text or "").split(",") if name.strip()]
    for name in names:
        if name not in allowed:
            raise InputError(f"{flag} {shown(name)}: must be one of {', '.join(allowed)}")
    return list(dict.fromkeys(names))


def _base(names, flags, config, preset_options, settings):
    """(Dataset, {system: configuration})."""
    from ..config import presets
    from ..ranking import check_list_lengths
    from ..runs.complete import load_data
    from ..systems import refuse_without_features
    from ..training.loop import pick_device

    chosen = {}
    for option in preset_options:
        name, equals, value = option.partition("=")
        if not equals or name not in names:
            raise InputError(f"--preset {shown(option)}: write SYSTEM=NAME; the systems are {', '.join(names)}")
        chosen[name] = value
    dataset = load_data(**configuration(config, flags, settings).data.model_dump())
    refuse_without_features(dataset, names)
    base = {}
    for name in names:
        bundled = f"{name}-{dataset.name}"
        preset = chosen.get(name) or (bundled if bundled in presets.names() else None)
        path = None if preset is None else presets.find(preset)
        system_flags = flags | {"model.system": (name, "--systems")}
        base[name] = for_many_runs(configuration(config, system_flags, settings, path))
        check_list_lengths("evaluate.ks", base[name].evaluate.ks, dataset.n_items)
    pick_device(next(iter(base.values())).train.device)
    return dataset, base
