"""The commands behind mmssl-fast: what is asked is read here, done elsewhere, and shown by report."""

from __future__ import annotations

import json
import shlex
import tempfile
import warnings
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import typer

from mmssl_fast import __version__

from ..errors import InputError
from ..runs.complete import changed, fit_and_test, load_data
from .study_commands import register

app = typer.Typer(
    help="Train, evaluate and use multi-modal self-supervised recommendation (MMSSL).", add_completion=False,
    pretty_exceptions_enable=False, rich_markup_mode=None,
)  # fmt: skip
data_app = typer.Typer(help="Look at data before training on it.")
app.add_typer(data_app, name="data")

@app.callback(invoke_without_command=True)
def whole(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and stop.")] = False,
) -> None:
    if version:
        print(f"mmssl-fast {__version__}")
        raise typer.Exit
    help_without_command(context)


@data_app.callback(invoke_without_command=True)
def help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that train wrote, or its model.safetensors.")]


@app.command()
def train(
    data: Annotated[str | None, typer.Option(help="Folder with the data; without it the embedded catalogue.")] = None,
    layout: Annotated[str | None, typer.Option(help="auto, diffmm, hkuds, mmrec or plain.")] = None,
    config: Annotated[Path | None, typer.Option(help="Configuration in TOML.")] = None,
    preset: Annotated[str | None, typer.Option(metavar="NAME|FILE", help="Settings found to work: a bundled name, or a "
                                               "TOML file; --config goes above it.")] = None,
    system: Annotated[str | None, typer.Option(help="mmssl, popularity, svd, mf, ngcf, lightgcn, sgl, ncl, "
                                                    "hccf, vbpr, lightgcn_m, mmgcn, grcn, lattice, clcrec, mmgcl or "
                                                    "slmrec.")] = None,
    epochs: Annotated[int | None, typer.Option(help="At most so many epochs.")] = None,
    batch: Annotated[int | None, typer.Option(help="Triples of a step.")] = None,
    seed: Annotated[int | None, typer.Option(help="Seed of everything random in training.")] = None,
    device: Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.")] = None,
    threads: Annotated[int | None, typer.Option(help="CPU threads; 0: as torch chooses.")] = None,
    memory: Annotated[str | None, typer.Option(help="Memory the run may take, as 4GiB. [default: 80% of what is free]",
                                               show_default=False)] = None,
    compare: Annotated[bool | None, typer.Option(help="Fit popularity and LightGCN too. [default: on the embedded "
                                                      "catalogue only]", show_default=False)] = None,
    settings: Annotated[list[str] | None, typer.Option("--set", metavar="SECTION.KEY=VALUE",
                                                       help="Any key of the configuration; may be repeated.")] = None,
    out: Annotated[Path | None, typer.Option(help="The run's folder. [default: runs/<system>-<data>-<time>]",
                                             show_default=False)] = None,
    overwrite: Annotated[bool, typer.Option(help="Replace an earlier run's files in that folder.")] = False,
    resume: Annotated[Path | None, typer.Option(metavar="RUN", help="Go on with the interrupted run in this folder, as "
                                                                    "it was configured; with more --epochs also with a "
                                                                    "finished one.", show_default=False)] = None,
    start: Annotated[Path | None, typer.Option("--from", metavar="RUN", help="Begin another run from the model of this "
                                               "one, with its settings and data unless others are given.",
                                               show_default=False)] = None,
) -> None:  # fmt: skip
    """Train a recommender, keep its best model and say how good it is."""
    from ..config import presets
    from ..config.sections import SYNTHETIC, SYNTHETIC_EPOCHS
    from ..console import output as report
    from ..memory import budget as memory_plan
    from ..ranking import breakdown
    from ..runs import folder as run_folder
    from ..training import checkpoints as checkpoint
    from ..training import loop as training
    from ..training import signals

    flags = {"data.path": (data, "--data"), "data.layout": (layout, "--layout"), "model.system": (system, "--system"),
             "train.epochs": (epochs, "--epochs"), "train.batch": (batch, "--batch"), "train.seed": (seed, "--seed"),
             "train.device": (device, "--device"), "train.threads": (threads, "--threads"),
             "train.memory": (memory, "--memory"),
             "train.compare": (None if compare is None else "yes" if compare else "no", "--compare")}  # fmt: skip
    if resume is not None:
        config = _resumed_configuration(resume, {"--config": config, "--preset": preset, "--out": out,
                                                 "--overwrite": overwrite, "--from": start})  # fmt: skip
    below = None if preset is None else presets.find(preset)
    if start is not None:
        below = _configuration_of(start, preset)
        flags["train.start"] = str(start.resolve()), "--from"
    chosen = configuration(config, flags, settings or [], below)
    if resume is not None:
        began = configuration(config, {}, [])
        checkpoint.refuse_other(resume, began.model_dump(), chosen.model_dump(), more_epochs=True)
        _refuse_finished(resume, began, chosen.train.epochs)
    training.pick_device(chosen.train.device)
    dataset = load_data(chosen.data)
    if chosen.data.path != SYNTHETIC:
        chosen = changed(chosen, "data", path=str(Path(chosen.data.path).resolve()))
    elif "epochs" not in chosen.train.model_fields_set:
        chosen = changed(chosen, "train", epochs=SYNTHETIC_EPOCHS)
    chosen = memory_plan.settle(dataset, chosen, resumed=resume is not None)
    place = resume or out or run_folder.default_path(chosen, dataset)
    checkpoints = checkpoint.Checkpoints(place, dataset, chosen)
    going_on = resume is not None and checkpoints.open()
    folder = run_folder.RunFolder(place, dataset, chosen, overwrite or resume is not None, going_on)
    if resume is not None:
        for note in checkpoints.notes() or ["no state was written yet: starting from the beginning"]:
            report.ERR.print(f"note: {note}", markup=False)
    full = int((np.diff(dataset.train.indptr) == dataset.n_items).sum())
    for note in [*dataset.notes, *([f"{full} users have every item: no triple is drawn for them"] if full else [])]:
        report.ERR.print(f"note: {note}", markup=False)
    if line := memory_plan.described(dataset, chosen):
        report.ERR.print(line, markup=False)
    warnings.filterwarnings("ignore", message="sample_bpr: ")  # said above
    compared = chosen.train.compare == "yes" or (chosen.train.compare == "auto" and chosen.data.path == SYNTHETIC)
    names = [name for name in ("popularity", "lightgcn") if compared and name != chosen.model.system]
    baselines = {}
    with signals.told(f"interrupted; {checkpoint.resume_command(place)} goes on"):  # within `fit`, after a whole step
        fit, test, seconds = fit_and_test(dataset, chosen, chosen.model.system, folder, checkpoints)
        rows = [(chosen.model.system, test, seconds)]
        for name in names:
            other, metrics, seconds = fit_and_test(dataset, chosen, name)
            rows.append((name, metrics, seconds))
            baselines[name] = {
                "test": metrics, "val": other.val, "best_epoch": other.best_epoch, "seconds": seconds
            }  # fmt: skip
        how = chosen.evaluate
        groups = breakdown(fit.users, fit.items, dataset, "test", how.ks, how.mask_validation, how.batch)
        folder.finish(fit, test, baselines, groups, keep_state=True)
    report.show_run(dataset.name, fit, test, rows, folder.path, groups)


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
    from ..systems import TITLES, create
    from ..training import checkpoints as checkpoint

    if not (run / RESULT).exists():
        return
    finished = f"{run}: is finished, its result is in {RESULT}"
    if not create(began.model.system).trains:
        raise InputError(f"{finished}; {TITLES[began.model.system]} takes no epochs, there is nothing to resume")
    again = f"mmssl-fast train --from {shlex.quote(str(run))} begins another run from its model"
    if (taken := len(read_epochs(run))) < began.train.epochs:
        raise InputError(f"{finished}; it ended early, after epoch {taken}, by train.patience; {again}")
    if epochs <= began.train.epochs:
        raise InputError(f"{finished}; to train on, give --epochs above its {began.train.epochs}, or {again}")
    if checkpoint.newest(run / checkpoint.FOLDER) is None:
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


def configuration(
    path: Path | None, flags: dict[str, tuple[Any, str]], settings: list[str], preset: Path | None = None
):
    """What a preset, a file, the options and --set make, the later over the earlier."""
    from ..config.sections import load, parse_set

    overrides = {name: (value, flag) for name, (value, flag) in flags.items() if value is not None}
    for assignment in settings:
        name, value = parse_set(assignment)
        if name in overrides and overrides[name][0] != value:
            raise InputError(f"--set {name} and {overrides[name][1]} say different things; give one of them")
        overrides[name] = (value, "--set")
    return load(path, overrides, preset)


@app.command()
def evaluate(
    run: RunPath,
    split: Annotated[str, typer.Option(help="test or val.")] = "test",
    k: Annotated[list[int] | None, typer.Option("--k", help="A list length, 1 to 128; may be repeated. [default: 10, "
                                                            "20, 50]", show_default=False)] = None,
    mask_validation: Annotated[bool, typer.Option(help="Leave validation items out when testing.")] = False,
    cold: Annotated[bool, typer.Option("--cold", help="Rank only items without training interactions, by their "
                                                      "features alone, for the users who have one in the split.")] =
    False,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False,
) -> None:  # fmt: skip
    """Rank every item for the users of a split and print Recall, Precision, NDCG, Hit and MRR."""
    from ..console import output as report
    from ..ranking import MAX_K, breakdown, split_metrics
    from ..runs import folder, saved_model
    from ..systems import TITLES

    if split not in ("test", "val"):
        raise InputError(f"--split {split!r}: choose test or val")
    ks = k or [10, 20, 50]
    if not all(1 <= one <= MAX_K for one in ks):
        raise InputError(f"--k {ks}: each must be between 1 and {MAX_K}")
    groups = {}
    if cold:
        from ..runs.cold import cold_metrics

        model, metrics = cold_metrics(run, split, ks, mask_validation)
    else:
        model = saved_model.load(run)
        arguments = model.users, model.items, model.interactions, split, ks, mask_validation
        metrics, groups = split_metrics(*arguments), breakdown(*arguments)
    if not metrics["users"]:
        raise InputError(f"{run}: its data has no {split} interactions")
    if note := folder.unfinished(run):
        report.ERR.print(f"note: {note}", markup=False)
    if as_json:
        print(json.dumps(metrics | ({"breakdown": groups} if groups else {}), indent=2))
    else:
        system = model.metadata.get("system", "")
        title = f"{TITLES.get(system, system)} on {model.interactions.name}, {split}: {metrics['users']:,} users"
        title += f", {metrics['candidates']} cold items alone ranked" if cold else ""
        report.OUT.print(report.metrics_table(title, metrics))
        if groups:
            report.OUT.print(report.breakdown_table(groups))


@app.command()
def recommend(
    run: RunPath,
    out: Annotated[Path | None, typer.Option(help="A .csv or .parquet file; without it the lists are printed.")] = None,
    users: Annotated[list[str] | None, typer.Option("--users", "--user", help="User ids, separated by commas; may be "
                                                    "repeated. [default: all]", show_default=False)] = None,
    users_from: Annotated[Path | None, typer.Option(help="A text file with one user id a line.")] = None,
    k: Annotated[int, typer.Option("--k", help="Items a user, 1 to 128.")] = 20,
    exclude: Annotated[str, typer.Option(help="train leaves out training interactions, all those of validation and "
                                              "test too.")] = "train",
) -> None:  # fmt: skip
    """The best items for users, by their own ids, seen items left out."""
    from ..console import output as report
    from ..runs import folder, saved_model
    from ..runs import recommend as recommending

    model = saved_model.load(run)
    asked = _asked_users(users, users_from, model.interactions)
    if out is None and asked is None:
        raise InputError("name the users with --users, or a file with --out")
    chunks = recommending.recommend(model, asked, k, exclude)
    if note := folder.unfinished(run):
        report.ERR.print(f"note: {note}", markup=False)
    if count := recommending.by_popularity(model, asked):
        report.ERR.print(f"note: {recommending.popularity_note(count)}", markup=False)
    if out is None:
        rows = [row for chunk in chunks for row in zip(*(column.tolist() for column in chunk), strict=True)]
        shown = [[str(user), rank, str(item), score] for user, rank, item, score in rows]
        report.OUT.print(report.table("", recommending.COLUMNS, shown))
    else:
        count = recommending.write(chunks, out)
        report.OUT.print(f"{out}: {count:,} recommendations", markup=False)


def _asked_users(users: list[str] | None, users_from: Path | None, known) -> list[str] | None:
    """Ids as text. What --users gives is split at commas, unless an id of the data is written with one."""
    if users is None and users_from is None:
        return None
    asked = []
    for text in users or []:
        try:
            known.find_users([text])
            asked.append(text)
        except InputError:
            asked += [one.strip() for one in text.split(",")]
    if users_from is not None:
        try:
            lines = users_from.read_text(encoding="utf-8").splitlines()
        except (OSError, UnicodeDecodeError) as error:
            raise InputError(
                f"{users_from}: cannot be read ({error}); give a text file with one user id a line"
            ) from None
        asked += [line.strip() for line in lines if line.strip()]
    if not asked:
        raise InputError(f"{users_from or '--users'}: names no user")
    return asked


@data_app.command("check")
def data_check(
    path: Annotated[str, typer.Argument(metavar="DATA", help="Folder with the data, or synthetic.")],
    layout: Annotated[str, typer.Option(help="auto, diffmm, hkuds, mmrec or plain.")] = "auto",
    modality: Annotated[list[str] | None, typer.Option(help="A modality to read; may be repeated. [default: all]",
                                                       show_default=False)] = None,
    split_seed: Annotated[int, typer.Option(help="Seed of the split made where the data has none.")] = 0,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of tables.")] = False,
) -> None:  # fmt: skip
    """Read the data as train would and say what is in it, or what is wrong with it."""
    from ..console import output as report
    from ..data import summarise

    given = {"data.path": (path, "DATA"), "data.layout": (layout, "--layout"),
             "data.modalities": (modality, "--modality"), "data.split_seed": (split_seed, "--split-seed")}  # fmt: skip
    summary = summarise(load_data(configuration(None, given, []).data))
    if as_json:
        print(json.dumps(summary, indent=2))
        return
    for one in report.data_tables(summary):
        report.OUT.print(one)
    for note in summary["notes"]:
        report.OUT.print(f"note: {note}", markup=False)


@app.command()
def doctor(as_json: Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")] = False) -> None:
    """Say what is installed, what was built and what would run where."""
    from ..console import output as report
    from .doctor import examine

    findings, problems = examine()
    if as_json:
        print(json.dumps({**findings, "problems": problems}, indent=2))
    else:
        for one in report.doctor_tables(findings):
            report.OUT.print(one)
    for problem in problems:
        report.ERR.print(f"problem: {problem}", markup=False)
    if problems:
        raise typer.Exit(1)


@app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})
def benchmark(
    context: typer.Context,
    checkout: Annotated[Path, typer.Option(help="A source checkout of mmssl_fast.")] = Path("."),
    save: Annotated[Path | None, typer.Option(help="Keep what was measured in this JSON file.")] = None,
    against: Annotated[Path | None, typer.Option(help="An earlier --save of this machine, to compare with.")] = None,
    plot: Annotated[Path | None, typer.Option(help="Draw it into this PNG file.")] = None,
    plan: Annotated[bool, typer.Option("--plan", help="Measure nothing: reckon a catalogue's step.")] = False,
    users: Annotated[float, typer.Option(help="With --plan: users, such as 1e6.")] = 1e6,
    items: Annotated[float, typer.Option(help="With --plan: items.")] = 1e6,
    interactions: Annotated[float, typer.Option(help="With --plan: interactions.")] = 2e7,
    widths: Annotated[str, typer.Option(help="With --plan: widths of the modalities' features.")] = "128,64",
    hidden: Annotated[int, typer.Option(help="With --plan: width of the discriminator's first layer.")] = 512,
    device: Annotated[str, typer.Option(help="With --plan: h100, h200, a100, or cpu for this machine.")] = "h100",
    memory: Annotated[str | None, typer.Option(help="With --plan: memory to fit it in, such as 40GiB.")] = None,
) -> None:
    """Measure the kernels with pytest-benchmark, in a source checkout, and show how they compare with their peers;
    further arguments go to pytest. With --plan, reckon instead."""
    if plan:
        _show_plan(users, items, interactions, widths, hidden, device, memory)
        return
    from ..console.output import OUT
    from ..files import replacing
    from . import measured
    from .doctor import run_benchmarks

    earlier = None if against is None else measured.read(against)
    with tempfile.TemporaryDirectory() as folder:
        found = Path(folder) / "benchmarks.json"
        code = run_benchmarks(checkout, [f"--benchmark-json={found}", *context.args])
        if not found.exists() or not found.stat().st_size:
            raise typer.Exit(code)
        rows = measured.read(found)
        if save is not None:
            with replacing(save) as temporary:
                temporary.write_bytes(found.read_bytes())
    if earlier is not None:
        measured.check_same_machine(rows, earlier, against)
    if any("ratio" in row for row in rows):
        OUT.print(measured.table(rows, earlier))
    if plot is not None:
        with replacing(plot) as temporary:
            measured.draw(rows, temporary)
    raise typer.Exit(code)


def _show_plan(
    users: float, items: float, interactions: float, widths: str, hidden: int, device: str, memory: str | None
) -> None:
    from ..console.output import OUT
    from ..memory import cost
    from ..memory.plan import Sizes, parse_bytes

    try:
        counts = [int(n) for n in (users, items, interactions, hidden)]
        modalities = tuple(int(width) for width in widths.split(",")) if widths else ()
        allowed = None if memory is None else parse_bytes(memory)
    except (ValueError, OverflowError) as error:
        raise InputError(f"benchmark --plan: {error}") from None
    if min(*counts, *modalities) < 1:
        raise InputError(f"benchmark --plan: sizes must be positive, got {counts} and widths {list(modalities)}")
    if counts[2] > counts[0] * counts[1]:
        raise InputError(
            f"benchmark --plan: {counts[2]:,} interactions are more than the {counts[0] * counts[1]:,} pairs of "
            f"{counts[0]:,} users and {counts[1]:,} items; give fewer --interactions"
        )
    sizes = Sizes(*counts[:3], modalities, hidden=(hidden, max(1, hidden // 2)))
    shown, sentences = cost.table(sizes, device, allowed)
    OUT.print(shown)
    for sentence in sentences:
        OUT.print(sentence)


register(app)
