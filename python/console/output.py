"""What a person sees: tables of results, of data and of the installation, and the progress of a run."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, Progress, ProgressColumn, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.table import Table
from rich.text import Text

from ..ranking import METRICS

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


def table(title: str, columns: Iterable[str], rows: Iterable[Iterable[Any]]) -> Table:
    """A rich table; the first column is text, the others are numbers or short values on the right."""
    grid = Table(title=title or None, title_justify="left", title_style="bold", header_style="bold")
    for at, name in enumerate(columns):
        grid.add_column(name, justify="left" if at == 0 else "right", overflow="fold")
    for row in rows:
        grid.add_row(*(Text(one if isinstance(one, str) else _number(one)) for one in row))
    return grid


def metrics_table(title: str, metrics: dict[str, float]) -> Table:
    """One split's metrics: a row for each K."""
    ks = sorted({int(name.partition("@")[2]) for name in metrics if "@" in name})
    return table(title, ["K", *METRICS], [[str(k), *(metrics[f"{name}@{k}"] for name in METRICS)] for k in ks])


def breakdown_table(groups: dict[str, dict[str, float]]) -> Table:
    """ranking.breakdown as a table: each group's sizes, and its metrics at K = 20 or else the largest K."""
    ks = {int(name.partition("@")[2]) for name in next(iter(groups.values())) if "@" in name}
    k = 20 if 20 in ks else max(ks)
    rows = [
        [name, one["users"], one["pairs"], *(one[f"{metric}@{k}"] for metric in ("recall", "ndcg", "hit"))]
        for name, one in groups.items()
    ]
    title = "by training interactions (new users and cold items have none)"
    return table(title, ["held-out pairs of", "users", "pairs", f"recall@{k}", f"ndcg@{k}", f"hit@{k}"], rows)


def comparison_table(title: str, rows: Iterable[tuple[str, dict[str, float], float]]) -> Table:
    """Systems side by side: (name, test metrics, seconds in all)."""
    cells = [[name, test["recall@20"], test["ndcg@20"], f"{seconds:.1f}"] for name, test, seconds in rows]
    return table(title, ["system", "Recall@20", "NDCG@20", "seconds"], cells)


def data_tables(summary: dict[str, Any]) -> list[Table]:
    """mmssl_trainer.data.summarise's dict as tables."""
    counts = [["users", summary["users"]], ["items", summary["items"]]]
    counts += [[f"{split} interactions", count] for split, count in summary["interactions"].items()]
    counts += [["density", f"{summary['density']:.3g}"], ["layout", summary["layout"]],
               ["fingerprint", summary["fingerprint"][:16]]]  # fmt: skip
    degrees = [(side, summary[f"{side}_degree"]) for side in ("user", "item")]
    names = list(degrees[0][1])
    modalities = summary["modalities"]
    tables = [table(summary["name"], ["", ""], counts),
              table("training interactions", ["of a", *names], [[side, *(one[name] for name in names)]
                                                                for side, one in degrees])]  # fmt: skip
    if modalities:
        columns = list(modalities[0])
        tables.append(table("features", ["modality", *(name.replace("_", " ") for name in columns[1:])],
                            [[one[name] for name in columns] for one in modalities]))  # fmt: skip
    return tables


def doctor_tables(findings: dict[str, Any]) -> list[Table]:
    """mmssl_trainer.cli.doctor.examine's findings as tables: the installation, and what runs each op where."""
    findings = dict(findings)
    ops = findings.pop("ops", {})
    tables = [table("mmssl_fast", ["", ""], [[name, str(value)] for name, value in findings.items()])]
    if ops:
        columns = ["equation", "cpu", "cuda"]
        tables.append(
            table("ops", ["op", *columns], [[name, *(op[one] for one in columns)] for name, op in ops.items()])
        )
    return tables


def _number(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.4f}" if (math.isfinite(value) and 1e-4 <= abs(value) < 1e4) or value == 0 else f"{value:.3g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


class _Losses(ProgressColumn):
    """The current losses and the best validation so far."""

    def render(self, task) -> Text:
        return Text(task.fields.get("losses", ""), style="dim", no_wrap=True, overflow="ellipsis")


class ProgressObserver:
    """An observer that draws one bar for the run on stderr, with the losses and the time left; where stderr is no
    terminal it prints a line an epoch instead. Used as a context manager."""

    def __init__(self, title: str) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(), TextColumn("left"),
            TimeRemainingColumn(), _Losses(), console=Console(stderr=True, highlight=False), transient=True,
            disable=not ERR.is_terminal,
        )  # fmt: skip
        self.title, self.best = title, ""

    def __enter__(self) -> ProgressObserver:
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()

    def accepted(self) -> None: ...

    def resumed(self, fit) -> None:
        self.improved(fit)

    def started(self, epochs: int, steps: int) -> None:
        self.epochs = epochs
        self.task = self.progress.add_task(self.title, total=epochs * steps)
        self.steps = steps

    def stepped(self, epoch: int, step: int, losses: dict[str, float] | None) -> None:
        fields = {}
        if losses is not None:
            terms = "  ".join(f"{name} {value:.3g}" for name, value in losses.items())
            fields["losses"] = f"{self.best}{terms}"
        self.progress.update(self.task, completed=(epoch - 1) * self.steps + step,
                             description=f"{self.title} epoch {epoch}/{self.epochs}", **fields)  # fmt: skip

    def epoch_ended(self, record: dict[str, Any]) -> None:
        if ERR.is_terminal or _quiet:
            return
        parts = [f"{name} {value:.4g}" for name, value in record["losses"].items()]
        if record.get("val", {}).get("users"):
            parts.append(f"validation recall@20 {record['val']['recall@20']:.4f}")
        line = f"{self.title} epoch {record['epoch']}/{self.epochs}: {', '.join(parts)}, {record['seconds']:.1f} s"
        ERR.print(line, markup=False)

    def improved(self, fit) -> None:
        self.best = f"best recall@20 {fit.best:.4f}  " if fit.val.get("users") else ""


_quiet = False  # of a process that works for another


def draw_no_bars() -> None:
    """For a process whose stderr is another's terminal: neither bars nor a line an epoch."""
    global ERR, _quiet
    _quiet = True
    ERR = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=False)


class PartsProgress:
    """A bar on stderr for each of several parts of a command at once. Used as a context manager; draws nothing where
    stderr is no terminal."""

    def __init__(self) -> None:
        self.progress = Progress(
            TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn(), _Losses(), console=ERR,
            transient=True, disable=not ERR.is_terminal,
        )  # fmt: skip
        self.tasks = {}

    def __enter__(self) -> PartsProgress:
        self.progress.start()
        return self

    def __exit__(self, *_) -> None:
        self.progress.stop()

    def show(self, title: str, progress: Callable[[], tuple[int, int, float]] | None) -> None:
        """progress: (epochs behind it, at most, best validation Recall@20 so far), where that is known."""
        if self.progress.disable:
            return
        if title not in self.tasks:
            self.tasks[title] = self.progress.add_task(title, total=None)
        if progress is not None:
            epoch, epochs, best = progress()
            self.progress.update(
                self.tasks[title], total=epochs, completed=epoch, description=f"{title} epoch {epoch}/{epochs}",
                losses=f"best recall@20 {best:.4f}" if best else "",
            )  # fmt: skip

    def remove(self, title: str) -> None:
        if title in self.tasks:
            self.progress.remove_task(self.tasks.pop(title))


class Several:
    """Observers told in turn."""

    def __init__(self, *observers) -> None:
        self.observers = observers

    def accepted(self) -> None:
        for one in self.observers:
            one.accepted()

    def resumed(self, *args) -> None:
        for one in self.observers:
            one.resumed(*args)

    def started(self, *args) -> None:
        for one in self.observers:
            one.started(*args)

    def stepped(self, *args) -> None:
        for one in self.observers:
            one.stepped(*args)

    def epoch_ended(self, *args) -> None:
        for one in self.observers:
            one.epoch_ended(*args)

    def improved(self, *args) -> None:
        for one in self.observers:
            one.improved(*args)


def show_run(
    data: str, fit, test: dict[str, float], rows: list[tuple[str, dict[str, float], float]], folder,
    groups: dict[str, dict[str, float]],
) -> None:  # fmt: skip
    """The end of `train`: the test metrics of the trained system, their breakdown and a comparison where there is one,
    the folder."""
    from ..systems import TITLES

    title = TITLES[rows[0][0]]
    trained = f", best of {len(fit.epochs)} epochs: {fit.best_epoch}" if fit.epochs else ""
    if test["users"]:
        OUT.print(metrics_table(f"{title} on {data}, test: {test['users']:,} users{trained}", test))
    else:
        OUT.print(f"{title} on {data}{trained}; the data has no test interactions", markup=False)
    if groups:
        OUT.print(breakdown_table(groups))
    if len(rows) > 1:
        OUT.print(comparison_table(f"test on {data}", [(TITLES[name], *rest) for name, *rest in rows]))
    OUT.print(f"run folder: {folder}", markup=False)
