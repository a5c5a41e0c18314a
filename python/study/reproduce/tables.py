"""Markdown of what the runs found: each table of the paper with this split's figures, and the paper's own below."""

from __future__ import annotations

import math
from itertools import pairwise
from typing import Any

import numpy as np

from ...console.markdown import markdown
from ...data import Dataset
from . import paper
from .plan import Settings, ablations
from .runs import Found, by_label, per_user
from .statistics import TESTS, compare, spread

REFERENCE = "MMSSL"


def preamble(settings: Settings, dataset: Dataset, found: list[Found], title: str) -> str:
    """What the figures are of: data, split, seeds, epochs, versions, what was cut short."""
    interactions = [f"{getattr(dataset, split).nnz} {split}" for split in ("train", "val", "test")]
    kept = f"{dataset.n_users} users, {dataset.n_items} items, {', '.join(interactions)} interactions"
    lines = [
        f"# {title} on {dataset.name}", "",
        f"Data: {kept}; modalities {', '.join(dataset.modalities) or 'none'}; "
        f"fingerprint `{dataset.fingerprint[:16]}`.",
    ]  # fmt: skip
    if found:
        seeds = sorted({one.run.seed for one in found})
        versions = found[0].result["versions"]
        most = " or ".join(map(str, sorted({one.run.config.train.epochs for one in found})))
        lines += [
            "All items ranked but the user's training items; K = 20; the epoch is chosen by Recall@20 on validation; "
            f"at most {most} epochs; seeds {', '.join(map(str, seeds))}; mean ± standard deviation over seeds. "
            f"mmssl_fast {versions['mmssl_fast']}, torch {versions['torch']}.",
        ]  # fmt: skip
    if settings.quick:
        lines += ["", "**A quick look: few epochs, one seed, a part of the runs. These are no results.**"]
    return "\n".join(lines)


def cell(values: list[float]) -> str:
    mean, deviation = spread(values)
    return f"{mean:.4f}" if math.isnan(deviation) else f"{mean:.4f} ± {deviation:.4f}"


def of_metric(found: list[Found], name: str) -> list[float]:
    return [one.result["test"][name] for one in found]


def table2(settings: Settings, dataset: Dataset, found: list[Found]) -> str:
    """Systems side by side, with a test of each against MMSSL; then the paper's."""
    columns = ["system", "Recall@20", "Precision@20", "NDCG@20", "best epoch", "s an epoch", "settings"]
    rows = [_system_row(label, runs) for label, runs in by_label(found).items()]
    parts = [markdown(columns, rows), "", *_differences(dataset, found)]
    known = paper.catalogue(dataset.name)
    return "\n".join(parts + _papers("Table 2", known, ["Recall@20", "Precision@20", "NDCG@20"], paper.TABLE2))


def _system_row(label: str, runs: list[Found]) -> list[str]:
    metrics = [cell(of_metric(runs, name)) for name in paper.COLUMNS]
    epochs = ", ".join(str(one.result["best_epoch"]) for one in runs)
    seconds = float(np.mean([one.result["seconds_per_epoch"] for one in runs]))
    return [label, *metrics, epochs, f"{seconds:.2f}", changed_settings(runs[0])]


def changed_settings(found: Found) -> str:
    """The configuration's keys that are not the defaults, as far as they change what is learnt."""
    skipped = ("system", "epochs", "seed", "device", "threads", "memory", "compare", "cuda_graph", "checkpoint_every",
               "checkpoint_minutes")  # fmt: skip
    changes = [
        f"{name}={value:g}" if isinstance(value, float) else f"{name}={value}"
        for name, value in found.run.config.changes().items()
        if not name.startswith(("data.", "evaluate.")) and name.partition(".")[2] not in skipped
    ]
    return ", ".join(changes) or "defaults"


def _differences(dataset: Dataset, found: list[Found]) -> list[str]:
    grouped = by_label(found)
    if REFERENCE not in grouped or len(grouped) < 2 or np.count_nonzero(np.diff(dataset.test.indptr)) < 2:
        return []
    _, reference = per_user(grouped[REFERENCE], dataset)
    rows = []
    for label, runs in grouped.items():
        if label == REFERENCE:
            continue
        one = compare(reference, per_user(runs, dataset)[1])
        interval = f"[{one.ndcg_low:+.4f}, {one.ndcg_high:+.4f}]"
        rows.append([label, f"{one.recall:+.4f}", _p(one.recall_p), f"{one.ndcg:+.4f}", interval, _p(one.ndcg_p)])
    columns = [f"{REFERENCE} minus", "Recall@20", "p", "NDCG@20", "95% interval", "p"]
    return [markdown(columns, rows), "", TESTS, ""]


def _p(value: float) -> str:
    return "< 0.001" if value < 0.001 else f"{value:.3f}"


def _papers(name: str, known: str | None, columns: list[str], tables: dict[str, dict[str, tuple]]) -> list[str]:
    if known not in tables:
        return [f"The paper has no {name} of this catalogue."]
    rows = [[label, *(f"{value:.4f}" for value in values)] for label, values in tables[known].items()]
    return [
        f"The paper's own {name}, on its own split ({paper.SPLITS[known]}), so not to be set against the rows above:",
        "",
        markdown(["system", *columns], rows),
    ]  # fmt: skip


def table3(settings: Settings, dataset: Dataset, found: list[Found]) -> str:
    """The ablations, each with what its configuration changes."""
    grouped, changes = by_label(found), ablations(settings.base["mmssl"])
    rows = [
        [label, cell(of_metric(runs, "recall@20")), cell(of_metric(runs, "ndcg@20")), _changes(changes[label])]
        for label, runs in grouped.items()
    ]
    parts = [markdown(["variant", "Recall@20", "NDCG@20", "set"], rows), "", *_differences(dataset, found)]
    return "\n".join(parts + _papers("Table 3", paper.catalogue(dataset.name), ["Recall@20", "NDCG@20"], paper.TABLE3))


def _changes(values: dict[str, Any]) -> str:
    return ", ".join(f"{key}={str(value).lower()}" for key, value in values.items()) or "nothing"


def table4(settings: Settings, dataset: Dataset, found: list[Found]) -> str:
    """NDCG@20 of the test users by how many training interactions they have."""
    known = paper.catalogue(dataset.name)
    degree = np.diff(dataset.train.indptr)
    who = np.flatnonzero(np.diff(dataset.test.indptr))
    whose = known if known in paper.BINS else most_even(degree[who])
    bins = paper.BINS[whose]
    columns = [*(f"[{low}, {high})" for low, high in pairwise(bins)), f"{bins[-1]} and more"]
    group = np.digitize(degree[who], bins) - 1
    counts = [int((group == at).sum()) for at in range(len(columns))]
    rows = [["test users", *map(str, counts)]]
    for label, runs in by_label(found).items():
        seeds = [per_user([one], dataset)[1]["ndcg"] for one in runs]
        cells = [
            cell([float(values[group == at].mean()) for values in seeds]) if counts[at] else "none"
            for at in range(len(columns))
        ]
        rows.append([label, *cells])
    parts = [
        "NDCG@20 of the test users in each group of training interactions, the paper's groups of "
        f"{paper.SPLITS[whose].partition(':')[0]}, and the rest.", "",
        markdown(["", *columns], rows), "",
    ]  # fmt: skip
    return "\n".join(parts + _papers("Table 4", known, columns[:-1], paper.TABLE4))


def most_even(degree: np.ndarray) -> str:
    """The catalogue of the paper's Table 4 whose groups keep the largest group of these users smallest."""
    sizes = {name: np.bincount(np.digitize(degree, bins)).max() for name, bins in paper.BINS.items()}
    return min(sizes, key=lambda name: (sizes[name], name != "baby"))


def figure3(settings: Settings, dataset: Dataset, found: list[Found]) -> str:
    """How soon each system comes near its best."""
    rows = []
    for label, runs in by_label(found).items():
        reached = [near_best(one.epochs) for one in runs]
        best = [one.result["val"]["recall@20"] for one in runs]
        seconds = [sum(record["seconds"] for record in one.epochs) for one in runs]
        rows.append([
            label, cell(best), ", ".join(str(epoch) for epoch, _ in reached),
            f"{np.mean([after for _, after in reached]):.1f}", f"{np.mean(seconds):.1f}",
        ])  # fmt: skip
    columns = ["system", "best validation Recall@20", "epochs to 95% of it", "seconds to 95%", "seconds in all"]
    return "\n".join([
        "![Validation Recall@20 and NDCG@20 against epochs and training seconds](figure3.png)", "",
        markdown(columns, rows), "",
        "Seconds are training time without validation, on one machine; the paper prints its Figure 3 without numbers.",
    ])  # fmt: skip


def near_best(epochs: list[dict[str, Any]], share: float = 0.95) -> tuple[int, float]:
    """(epoch, training seconds until its end) of the first validation within `share` of the best; zeros without one."""
    best = max((record["val"]["recall@20"] for record in epochs if "val" in record), default=0.0)
    seconds = 0.0
    for record in epochs:
        seconds += record["seconds"]
        if "val" in record and record["val"]["recall@20"] >= share * best:
            return record["epoch"], seconds
    return 0, 0.0


def figure4(settings: Settings, dataset: Dataset, found: list[Found]) -> str:
    """Test metrics along each sweep."""
    parts = ["![Test Recall@20 along each sweep](figure4.png)", ""]
    grouped = by_label(found)
    for key in paper.SWEEPS:
        rows = [
            [label.partition("=")[2], cell(of_metric(runs, "recall@20")), cell(of_metric(runs, "ndcg@20"))]
            for label, runs in grouped.items()
            if label.startswith(f"{key}=")
        ]
        parts += [markdown([key, "Recall@20", "NDCG@20"], rows), ""] if rows else []
    parts.append(
        "One key changes at a time, the others stay as configured. The paper prints its Figure 4 without numbers: best "
        "at 2 or 3 layers, ζ = 100, λ1 = 1, and on TikTok τ = 0.085."
    )
    return "\n".join(parts)
