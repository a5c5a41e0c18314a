"""mmssl-fast reproduce, report and tune: commands over many runs."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from pathlib import Path
from typing import Annotated

import typer

from ..errors import InputError, shown

SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key of the configuration; may be repeated."),
]


def register(app: typer.Typer) -> None:
    """Add the commands of this module to the command line."""
    app.command()(reproduce)
    app.command()(report)
    app.command()(tune)


def reproduce(
    target: Annotated[str, typer.Argument(metavar="TARGET", help="table2 (systems), table3 (ablations), table4 (by "
                                          "training interactions), figure3 (training curves), figure4 (sweeps) or "
                                          "figure5 (gradient of negatives).")],
    data: Annotated[str | None, typer.Option(help="Folder with the data; without it the embedded catalogue.")] = None,
    layout: Annotated[str | None, typer.Option(help="auto, diffmm, hkuds, mmrec or plain.")] = None,
    out: Annotated[Path, typer.Option(help="Where runs and results go; runs that are there already are used.")] = Path(
        "reproduced"),
    seeds: Annotated[int | None, typer.Option(min=1, help="Seeds of every row, from 0. [default: 3; with "
                                                          "--quick 1]", show_default=False)] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many epochs a run.")] = None,
    systems: Annotated[str | None, typer.Option(help="table2, table4, figure3: which systems, separated by "
                                                     "commas.")] = None,
    variants: Annotated[str | None, typer.Option(help="table3: which ablations, separated by commas. [default: all]",
                                                 show_default=False)] = None,
    sweeps: Annotated[str | None, typer.Option(help="figure4: which keys are swept, such as model.layers,loss.zeta. "
                                                    "[default: all]", show_default=False)] = None,
    quick: Annotated[bool, typer.Option("--quick", help="A look at the machinery: one seed, 2 epochs, few systems, the "
                                                        "sweeps' ends. No results.")] = False,
    config: Annotated[Path | None, typer.Option(help="Configuration in TOML, for every system.")] = None,
    preset: Annotated[list[str] | None, typer.Option(metavar="SYSTEM=NAME|FILE", help="Settings of one system; may be "
                                                     "repeated. [default: the bundled SYSTEM-DATA where there is "
                                                     "one]", show_default=False)] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0: as torch chooses.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Runs at once, each a process with its share of the "
                                                            "processors, or with --threads.")] = 1,
    settings: SetOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the runs with the time they may take, and stop.")] =
    False,
) -> None:  # fmt: skip
    """One of the paper's tables or figures on your data: runs with several seeds, kept and resumed, then Markdown and
    pictures beside the paper's own figures."""
    from ..console import output as report
    from ..study.processes import sharing
    from ..study.reproduce import paper, plan, targets
    from ..systems import SYSTEMS

    if target not in plan.TARGETS:
        raise InputError(f"TARGET {shown(target)}: choose {', '.join(plan.TARGETS)}")
    names = plan.systems_of(target, _names(systems, "--systems", SYSTEMS), quick)
    swept = _names(sweeps, "--sweeps", paper.SWEEPS)
    flags = {"data.path": (data, "--data"), "data.layout": (layout, "--layout"), "train.device": (device, "--device"),
             "train.threads": (threads, "--threads"),
             "train.epochs": (epochs or (plan.QUICK_EPOCHS if quick else None), "--epochs")}  # fmt: skip
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
        report.OUT.print(report.table("", ["run", "seed", "standing", "folder", "minutes at most"], shown_rows))
        distinct = {name: s for *_, name, s in rows}
        hours = targets.makespan(distinct.values(), jobs) / 3600
        at_once = f", {jobs} at a time" if jobs > 1 else ""
        report.OUT.print(f"{len(distinct)} runs{at_once}, {hours:.2f} hours at most on this machine")
        return
    path = targets.produce(asked, dataset, lambda line: report.ERR.print(line, markup=False), jobs)
    report.OUT.print(path.read_text(encoding="utf-8"), markup=False)
    report.OUT.print(f"written: {path}", markup=False)


def report(
    runs: Annotated[list[Path], typer.Argument(metavar="RUN...", help="Folders of finished runs.")],
    out: Annotated[Path, typer.Option(help="The page; the same as Markdown is written beside it.")] = Path(
        "report.html"),
) -> None:  # fmt: skip
    """One self-contained HTML page, and Markdown, of finished runs: configuration, curves, metrics by group, some
    recommendations, time and memory, and what was left open."""
    from ..console.output import OUT
    from ..study.report import page as report_page

    for path in report_page.write(runs, out):
        OUT.print(f"written: {path}", markup=False)


def tune(
    data: Annotated[str | None, typer.Option(help="Folder with the data; without it the embedded catalogue.")] = None,
    layout: Annotated[str | None, typer.Option(help="auto, diffmm, hkuds, mmrec or plain.")] = None,
    out: Annotated[Path, typer.Option(help="The search's folder; a search that is there goes on.")] = Path("tuned"),
    trials: Annotated[int, typer.Option(min=1, help="Until so many trials have ended, earlier ones counted.")] = 30,
    system: Annotated[str | None, typer.Option(help="What is tuned: every system but popularity.")] = None,
    space: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="What is searched: a bundled name, or TOML "
                                              "with a list of values or { low, high, log } a key. [default: the "
                                              "system's own]", show_default=False)] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Where the search starts: its first trial, "
                                               "and every key that is not searched.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration in TOML, above the preset.")] = None,
    epochs: Annotated[int | None, typer.Option(min=1, help="At most so many epochs a run.")] = None,
    seeds: Annotated[int, typer.Option(min=1, help="Runs of a trial, whose validation Recall@20 is averaged.")] = 1,
    prune: Annotated[bool, typer.Option(help="End a run early that is worse than the median of earlier ones.")] = True,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0: as torch chooses.")] = None,
    jobs: Annotated[int, typer.Option(min=1, max=1024, help="Trials at once, each a process with its share of the "
                                                            "processors, or with --threads. What is drawn depends on "
                                                            "which end first.")] = 1,
    settings: SetOption = None,
) -> None:  # fmt: skip
    """Search for settings by validation Recall@20 (Optuna), in a folder from which the search goes on when repeated:
    the trials' record, and the best of them as a preset."""
    from ..config import presets
    from ..console import output as report
    from ..runs.complete import load_data
    from ..study import processes
    from ..study.tune import search
    from .commands import configuration

    flags = {"data.path": (data, "--data"), "data.layout": (layout, "--layout"), "model.system": (system, "--system"),
             "train.epochs": (epochs, "--epochs"), "train.device": (device, "--device"),
             "train.threads": (threads, "--threads")}  # fmt: skip
    base = configuration(config, flags, settings or [], None if preset is None else presets.find(preset))
    searched = search.read_space(search.find_space(space, base.model.system), base)
    jobs = min(jobs, trials)
    resolved = processes.sharing(_resolved(base), jobs) if jobs > 1 else _resolved(base)
    dataset = load_data(base.data)
    search.refuse_what_cannot_run(dataset, resolved, searched)
    if not (out / search.JOURNAL).exists():  # a search that goes on may have fewer trials left
        processes.refuse_what_cannot_fit([resolved] * jobs, dataset, jobs, "trials")
    found = search.Search(out, dataset, resolved, searched, seeds, prune)
    found.run(trials, lambda line: report.ERR.print(line, markup=False), jobs)
    for name in (search.RECORD, search.BEST):
        if (out / name).exists():
            report.OUT.print(f"written: {out / name}", markup=False)


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
    from ..runs.complete import load_data
    from ..training.loop import pick_device
    from .commands import configuration

    chosen = {}
    for one in given:
        name, equals, value = one.partition("=")
        if not equals or name not in names:
            raise InputError(f"--preset {shown(one)}: write SYSTEM=NAME, SYSTEM one of {', '.join(names)}")
        chosen[name] = value
    dataset = load_data(configuration(config, flags, settings).data)
    base = {}
    for name in names:
        own = chosen.get(name) or next((one for one in presets.names() if one == f"{name}-{dataset.name}"), None)
        below = None if own is None else presets.find(own)
        base[name] = _resolved(configuration(config, flags | {"model.system": (name, "--systems")}, settings, below))
    pick_device(next(iter(base.values())).train.device)
    return dataset, base


def _resolved(config):
    """With the data's own place, and fitted for itself alone."""
    from ..config.sections import SYNTHETIC
    from ..runs.complete import changed

    if config.data.path != SYNTHETIC:
        config = changed(config, "data", path=str(Path(config.data.path).resolve()))
    return changed(config, "train", compare="no")
