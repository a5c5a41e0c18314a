"""The tables in Markdown: the results of our runs, followed by the numbers of the paper."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np

from ...console.markdown import markdown
from ...data import Dataset
from ...training.selection import selection
from . import paper
from .plan import Settings, ablations, reference_label
from .runs import FinishedRun, by_label, per_user
from .statistics import TESTED, TESTS, Difference, compare, holm, spread


def preamble(settings: Settings, dataset: Dataset, finished: list[FinishedRun], title: str) -> str:
    """The header of a target: data, split, protocol, seeds, epochs and versions."""
    interactions = [f"{getattr(dataset, split).nnz} {split}" for split in ("train", "val", "test")]
    sizes = f"{dataset.n_users} users, {dataset.n_items} items, {', '.join(interactions)} interactions"
    lines = [
        f"# {title} on {dataset.name}",
        "",
        f"Data: {sizes}; modalities {', '.join(dataset.modalities) or 'none'}; "
        f"fingerprint `{dataset.fingerprint[:16]}`.",
    ]
    if finished:
        seeds = sorted({each.run.seed for each in finished})
        versions = finished[0].result["versions"]
        epochs = " or ".join(map(str, sorted({each.run.config.train.epochs for each in finished})))
        metrics = " or ".join(sorted({each.run.config.train.select_by.capitalize() for each in finished}))
        lines += [
            "All items except the user's training items are ranked; K = 20. The epoch is selected by validation "
            f"{metrics}, from at most {epochs}. Mean ± standard deviation over the seeds {', '.join(map(str, seeds))}. "
            f"mmssl_fast {versions['mmssl_fast']}, torch {versions['torch']}."
        ]
    if settings.quick:
        lines += [
            "",
            "**Quick mode: few epochs, one seed, a subset of the runs. Do not use these numbers as results.**",
        ]
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    """mean ± standard deviation, as text."""
    mean, deviation = spread(values)
    return f"{mean:.4f}" if math.isnan(deviation) else f"{mean:.4f} ± {deviation:.4f}"


def metric_values(runs: list[FinishedRun], name: str) -> list[float]:
    """A test metric of each run."""
    return [run.result["test"][name] for run in runs]


def table2(settings: Settings, dataset: Dataset, finished: list[FinishedRun]) -> str:
    """A comparison of the systems, and what was spent on their settings."""
    metrics = ["Recall@20", "Precision@20", "NDCG@20", "validation"]
    searched = ["trials", "search minutes"] if settings.searches else []
    columns = ["system", *metrics, "best epoch", "s per epoch", *searched, "settings"]
    rows = [_system_row(settings, label, runs) for label, runs in by_label(finished).items()]
    return "\n".join([markdown(columns, rows), "", *budget(settings)])


def _system_row(settings: Settings, label: str, runs: list[FinishedRun]) -> list[str]:
    metrics = [cell(metric_values(runs, name)) for name in paper.COLUMNS]
    metrics.append(cell([selection(run.result["val"]) for run in runs]))
    epochs = ", ".join(str(run.result["best_epoch"]) for run in runs)
    seconds = float(np.mean([run.result["seconds_per_epoch"] for run in runs]))
    searched: list[str] = []
    if settings.searches:
        search = settings.searches.get(label)
        searched = [str(search.trials), f"{search.minutes:.1f}"] if search else ["none", ""]
    return [label, *metrics, epochs, f"{seconds:.2f}", *searched, changed_settings(runs[0])]


def budget(settings: Settings) -> list[str]:
    """What was spent on finding the settings of the rows."""
    if not settings.searches:
        return []
    return [
        f"Settings: of every system the best of {settings.budget} trials by the validation metric, the mean of "
        f"{settings.search_seeds} seeds (one for systems without training), which are not those of the results. The "
        "first trial has the defaults, or those of the preset named in the row; trials that were worse than the median "
        f"were stopped early. Minutes: {settings.jobs} at a time. The tables of all trials are "
        "`searches/ROW/trials.md`. The test interactions are not used before all searches have ended.",
        "",
    ]


def changed_settings(finished: FinishedRun) -> str:
    """The keys that differ from their defaults and affect training, as text."""
    skipped = (
        "system",
        "epochs",
        "seed",
        "device",
        "threads",
        "memory",
        "compare",
        "cuda_graph",
        "checkpoint_every",
        "checkpoint_minutes",
    )
    changes = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in finished.run.config.changes().items()
        if not name.startswith(("data.", "evaluate.")) and name.partition(".")[2] not in skipped
    ]
    return ", ".join(changes) or "defaults"


def differences(settings: Settings, dataset: Dataset, finished: list[FinishedRun]) -> list[tuple[str, str, Difference]]:
    """(label, metric, difference) of the reference minus every other row; empty if there is nothing to compare."""
    grouped, name = by_label(finished), reference_label(settings)
    if name not in grouped or len(grouped) < 2 or np.count_nonzero(np.diff(dataset.test.indptr)) < 2:
        return []
    reference, found = per_user(grouped[name], dataset)[1], []
    for label, runs in grouped.items():
        if label != name:
            other = per_user(runs, dataset)[1]
            found += [(label, metric, compare(reference[metric], other[metric])) for metric in TESTED]
    return found


def tests(settings: Settings, found: list[tuple[str, str, Difference]]) -> str:
    """The result of `differences` as a table, with a figure and the methods of the tests."""
    corrected = holm([difference.p for _, _, difference in found])
    rows = [
        [
            label,
            TESTED[metric],
            f"{d.mean:+.4f}",
            f"[{d.low:+.4f}, {d.high:+.4f}]",
            _p(d.p_users),
            _p(d.p),
            _p(p),
            "–" if d.seeds is None else str(d.seeds),
        ]
        for (label, metric, d), p in zip(found, corrected, strict=True)
    ]
    name, p_values = reference_label(settings), ["p over users", "p over users and seeds", "corrected"]
    columns = [f"{name} minus", "metric", "difference", "95% interval", *p_values, "seeds"]
    figure = f"![{name} minus each other row, with 95% intervals]({settings.target}.png)"
    return "\n".join([figure, "", markdown(columns, rows), "", TESTS])


def _p(value: float) -> str:
    """A p-value as text; small ones by their order of magnitude."""
    return f"{value:.3f}" if value >= 0.001 else "< 1e-16" if value < 1e-16 else f"{value:.0e}"


def papers(target: str, dataset: Dataset) -> list[str]:
    """The table of the paper that belongs to table2 or table3."""
    catalogue = paper.catalogue(dataset.name)
    if target == "table2":
        return _papers("Table 2", catalogue, ["Recall@20", "Precision@20", "NDCG@20"], paper.TABLE2)
    return _papers("Table 3", catalogue, ["Recall@20", "NDCG@20"], paper.TABLE3)


def _papers(
    name: str, catalogue: str | None, columns: list[str], tables: Mapping[str, Mapping[str, Sequence[float]]]
) -> list[str]:
    if catalogue is None or catalogue not in tables:
        return [f"The paper has no {name} for this catalogue."]
    rows = [[label, *(f"{value:.4f}" for value in values)] for label, values in tables[catalogue].items()]
    return [
        f"{name} of the paper, on a different split ({paper.SPLITS[catalogue]}). It is not comparable with the rows "
        "above.",
        "",
        markdown(["system", *columns], rows),
    ]


def table3(settings: Settings, dataset: Dataset, finished: list[FinishedRun]) -> str:
    """The ablations, with the keys that each one changes."""
    grouped, changes = by_label(finished), ablations(settings.base["mmssl"])
    rows = [
        [label, cell(metric_values(runs, "recall@20")), cell(metric_values(runs, "ndcg@20")), _changes(changes[label])]
        for label, runs in grouped.items()
    ]
    return markdown(["variant", "Recall@20", "NDCG@20", "changed keys"], rows)


def _changes(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={str(value).lower()}" for key, value in values.items()) or "none"


def table4(settings: Settings, dataset: Dataset, finished: list[FinishedRun]) -> str:
    """NDCG@20 of the test users, grouped by their number of training interactions."""
    catalogue = paper.catalogue(dataset.name)
    degree = np.diff(dataset.train.indptr)
    test_users = np.flatnonzero(np.diff(dataset.test.indptr))
    grouping = catalogue if catalogue in paper.BINS else most_even(degree[test_users])
    bins = paper.BINS[grouping]
    columns = [*(f"[{low}, {high})" for low, high in pairwise(bins)), f"{bins[-1]} and more"]
    group = np.digitize(degree[test_users], bins) - 1
    counts = [int((group == g).sum()) for g in range(len(columns))]
    rows = [["test users", *map(str, counts)]]
    for label, runs in by_label(finished).items():
        seeds = [per_user([run], dataset)[1]["ndcg"][0] for run in runs]
        cells = [
            cell([float(values[group == g].mean()) for values in seeds]) if counts[g] else "none"
            for g in range(len(columns))
        ]
        rows.append([label, *cells])
    parts = [
        "NDCG@20 of the test users, grouped by their number of training interactions. The groups are those of the "
        "paper "
        f"for {paper.SPLITS[grouping].partition(':')[0]}, plus one for the remaining users.",
        "",
        markdown(["", *columns], rows),
        "",
    ]
    return "\n".join(parts + _papers("Table 4", catalogue, columns[:-1], paper.TABLE4))


def most_even(degree: np.ndarray) -> str:
    """The catalogue in Table 4 of the paper whose groups split users of these degrees most evenly.

    That is the one with the smallest largest group; a tie goes to Amazon-Baby.
    """
    sizes = {name: np.bincount(np.digitize(degree, bins)).max() for name, bins in paper.BINS.items()}
    return min(sizes, key=lambda name: (sizes[name], name != "baby"))


def figure3(settings: Settings, dataset: Dataset, finished: list[FinishedRun]) -> str:
    """How fast each system approaches its best validation result."""
    rows = []
    for label, runs in by_label(finished).items():
        reached = [near_best(run.epochs) for run in runs]
        best = [selection(run.result["val"]) for run in runs]
        seconds = [sum(record["seconds"] for record in run.epochs) for run in runs]
        rows.append(
            [
                label,
                cell(best),
                ", ".join(str(epoch) for epoch, _ in reached),
                f"{np.mean([elapsed for _, elapsed in reached]):.1f}",
                f"{np.mean(seconds):.1f}",
            ]
        )
    columns = ["system", "best validation Recall@20", "epochs to 95% of it", "seconds to 95%", "total seconds"]
    return "\n".join(
        [
            "![Validation Recall@20 and NDCG@20 against epochs and training seconds](figure3.png)",
            "",
            markdown(columns, rows),
            "",
            "Seconds are training time without validation. The paper gives no numbers for its Figure 3.",
        ]
    )


def near_best(epochs: list[dict[str, Any]], share: float = 0.95) -> tuple[int, float]:
    """(epoch, training seconds up to its end) of the first validation that reaches `share` of the best; (0, 0) if
    none."""
    best = max((selection(record["val"]) for record in epochs if "val" in record), default=0.0)
    seconds = 0.0
    for record in epochs:
        seconds += record["seconds"]
        if "val" in record and selection(record["val"]) >= share * best:
            return record["epoch"], seconds
    return 0, 0.0


def figure4(settings: Settings, dataset: Dataset, finished: list[FinishedRun]) -> str:
    """Test metrics for each value of each sweep."""
    parts = ["![Test Recall@20 along each sweep](figure4.png)", ""]
    grouped = by_label(finished)
    for key in paper.SWEEPS:
        rows = [
            [label.partition("=")[2], cell(metric_values(runs, "recall@20")), cell(metric_values(runs, "ndcg@20"))]
            for label, runs in grouped.items()
            if label.startswith(f"{key}=")
        ]
        parts += [markdown([key, "Recall@20", "NDCG@20"], rows), ""] if rows else []
    parts.append(
        "One key changes at a time; the others are as configured. The paper gives no numbers for its Figure 4, only "
        "the "
        "best values: 2 or 3 layers, ζ = 100, λ1 = 1, and τ = 0.085 on TikTok."
    )
    return "\n".join(parts)
