"""Progress bars on stderr: for a single run, and for several worker processes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rich.console import Console
from rich.progress import (
    BarColumn,
    MofNCompleteColumn,
    Progress,
    ProgressColumn,
    Task,
    TaskID,
    TextColumn,
    TimeElapsedColumn,
    TimeRemainingColumn,
)
from rich.text import Text

from . import output


class _Losses(ProgressColumn):
    """The current losses and the best validation result so far."""

    def render(self, task: Task) -> Text:
        return Text(task.fields.get("losses", ""), style="dim", no_wrap=True, overflow="ellipsis")


class _Bars(Progress):
    """Before rich 14.3, stop() writes an empty line also where the bars are disabled, which comes before an error."""

    def stop(self) -> None:
        if not self.disable:
            super().stop()


def _bars(console: Console, *columns: ProgressColumn) -> Progress:
    first = TextColumn("{task.description}"), BarColumn(bar_width=24), TimeElapsedColumn()
    return _Bars(*first, *columns, _Losses(), console=console, transient=True, disable=not output.ERR.is_terminal)


class ProgressObserver:
    """An observer that draws a progress bar on stderr, with the losses and the remaining time. If stderr is not a
    terminal, it prints a line per epoch. A context manager."""

    def __init__(self, title: str, metric: str = "recall@20") -> None:
        console = Console(stderr=True, highlight=False)
        self.progress = _bars(console, TextColumn("left"), TimeRemainingColumn())
        self.title, self.metric, self.best = title, metric, ""

    def __enter__(self) -> ProgressObserver:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def accepted(self) -> None: ...

    def resumed(self, fit: Any) -> None:  # training.progress.Fit, which is in a room above this one
        self.improved(fit)

    def started(self, epochs: int, steps: int) -> None:
        self.epochs = epochs
        self.task = self.progress.add_task(self.title, total=epochs * steps)
        self.steps = steps

    def stepped(self, epoch: int, step: int, losses: dict[str, float] | None) -> None:
        fields: dict[str, Any] = {}
        if losses is not None:
            terms = "  ".join(f"{name} {value:.3g}" for name, value in losses.items())
            fields["losses"] = f"{self.best}{terms}"
        self.progress.update(
            self.task,
            completed=(epoch - 1) * self.steps + step,
            description=f"{self.title} epoch {epoch}/{self.epochs}",
            **fields,
        )

    def epoch_ended(self, record: dict[str, Any]) -> None:
        if output.ERR.is_terminal or output.quiet:
            return
        parts = [f"{name} {value:.4g}" for name, value in record["losses"].items()]
        if record.get("val", {}).get("users"):
            parts.append(f"validation {self.metric} {record['val'][self.metric]:.4f}")
            if f"cold_{self.metric}" in record["val"]:
                parts.append(f"among cold items {record['val'][f'cold_{self.metric}']:.4f}")
        if searches := record.get("neighbours"):
            parts.append(f"recall of the neighbour search {min(one['recall'] for one in searches.values()):.3f}")
        line = f"{self.title} epoch {record['epoch']}/{self.epochs}: {', '.join(parts)}, {record['seconds']:.1f} s"
        output.ERR.print(line, markup=False)

    def improved(self, fit: Any) -> None:
        self.best = f"best {self.metric} {fit.best:.4f}  " if fit.val.get("users") else ""


class CountProgress:
    """One progress bar on stderr for work that is counted: call it with (done, all). A context manager; shows nothing
    if stderr is not a terminal."""

    def __init__(self, title: str) -> None:
        self.progress = _bars(Console(stderr=True, highlight=False), MofNCompleteColumn(), TimeRemainingColumn())
        self.title = title
        self.task: TaskID | None = None

    def __enter__(self) -> CountProgress:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def __call__(self, done: int, total: int) -> None:
        if self.task is None:
            self.task = self.progress.add_task(self.title, total=total, completed=done)
        self.progress.update(self.task, completed=done)


class WorkerProgress:
    """One progress bar per worker process. A context manager; shows nothing if stderr is not a terminal."""

    def __init__(self) -> None:
        self.progress = _bars(output.ERR)
        self.tasks: dict[str, TaskID] = {}

    def __enter__(self) -> WorkerProgress:
        self.progress.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.progress.stop()

    def show(self, title: str, progress: Callable[[], tuple[int, int, float]] | None) -> None:
        """Update the bar `title`. progress: returns (epochs done, maximum epochs, best validation metric), if known."""
        if self.progress.disable:
            return
        if title not in self.tasks:
            self.tasks[title] = self.progress.add_task(title, total=None)
        if progress is not None:
            epoch, epochs, best = progress()
            self.progress.update(
                self.tasks[title],
                total=epochs,
                completed=epoch,
                description=f"{title} epoch {epoch}/{epochs}",
                losses=f"best {best:.4f}" if best else "",
            )

    def remove(self, title: str) -> None:
        if title in self.tasks:
            self.progress.remove_task(self.tasks.pop(title))
