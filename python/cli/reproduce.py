"""mmssl-fast reproduce: the tables and figures of the paper."""

from __future__ import annotations

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
    merged,
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
    systems: Annotated[
        str | None,
        typer.Option(
            help="table2, table4, figure3: systems, separated by commas. SYSTEM:PRESET is a system with the settings "
            "of a preset; a system can have several such rows."
        ),
    ] = None,
    reference: Annotated[
        str, typer.Option(metavar="SYSTEM", help="table2: the row that the others are compared with.")
    ] = "mmssl",
    budget: Annotated[
        int | None,
        typer.Option(
            min=1,
            metavar="TRIALS",
            help="table2, table4, figure3: search for the settings of every system with this many trials first, by "
            "validation only. Bundled presets are not used unless --systems or --preset names them. [default: no "
            "search]",
            show_default=False,
        ),
    ] = None,
    search_seeds: Annotated[
        int, typer.Option(min=1, help="Seeds of a trial of --budget. They are not those of the results.")
    ] = 2,
    space: Annotated[
        list[str] | None,
        typer.Option(
            metavar="SYSTEM=NAME|FILE",
            help="Search space of one system, for --budget. May be given several times. [default: the bundled one of "
            "the system]",
            show_default=False,
        ),
    ] = None,
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
    from .. import Reproduction
    from ..console import output, tables

    flags["train.epochs"] = (epochs, "--epochs")
    values, sources = merged(flags, settings)
    reproduction = Reproduction(
        target,
        out,
        settings=values,
        file=config,
        presets=dict(_pair(option, "--preset") for option in preset or []),
        spaces=dict(_pair(option, "--space") for option in space or []),
        reference=reference,
        budget=budget or 0,
        search_seeds=search_seeds,
        seeds=seeds,
        systems=_names(systems),
        variants=_names(variants),
        sweeps=_names(sweeps),
        quick=quick,
        jobs=jobs,
        sources=sources
        | {
            "systems": "--systems",
            "variants": "--variants",
            "sweeps": "--sweeps",
            "presets": "--preset",
            "spaces": "--space",
            "budget": "--budget",
            "reference": "--reference",
        },
    )
    if dry_run:
        runs = reproduction.planned()
        cells = [[run.label, str(run.seed), run.progress, run.folder, f"{run.seconds / 60:.1f}"] for run in runs]
        output.OUT.print(tables.table("", ["run", "seed", "progress", "folder", "max. minutes"], cells))
        hours, jobs = reproduction.seconds(runs) / 3600, reproduction.jobs
        parallel = f", {jobs} at a time" if jobs > 1 else ""
        count = len({run.folder for run in runs})
        output.OUT.print(f"{count} runs{parallel}, at most {hours:.2f} hours on this machine")
        return
    path = reproduction.run(lambda line: output.ERR.print(line, markup=False))
    output.OUT.print(path.read_text(encoding="utf-8"), markup=False)
    output.OUT.print(f"written: {path}", markup=False)


def _names(text: str | None) -> list[str]:
    """The names in a comma-separated option."""
    return [name.strip() for name in (text or "").split(",") if name.strip()]


def _pair(option: str, name: str) -> tuple[str, str]:
    system, equals, value = option.partition("=")
    if not equals:
        raise InputError(f"{name} {shown(option)}: write SYSTEM=NAME")
    return system, value
