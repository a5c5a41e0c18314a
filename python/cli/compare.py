"""mmssl-fast compare: whether one trained model is better than another."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Literal

import typer

from ..errors import InputError
from .options import JsonOption

NOTE = (
    "difference: mean over the users of second - first. interval: 95%, by the paired t-test (scipy.stats.ttest_rel). "
    "p: two-sided, of this test, and of the Wilcoxon signed-rank test (scipy.stats.wilcoxon), which does not assume a "
    "distribution. The p-values are not corrected for the number of metrics, and do not contain the variation between "
    "seeds: train both with several seeds for that."
)


def compare(
    first: Annotated[Path, typer.Argument(metavar="RUN", help="Folder that train has written, or its model file.")],
    second: Annotated[Path, typer.Argument(metavar="RUN", help="The run that is compared with it.")],
    split: Annotated[Literal["test", "val"], typer.Option(help="Split to evaluate on.")] = "test",
    k: Annotated[int, typer.Option("--k", help="List length K, from 1 to the number of items.")] = 20,
    mask_validation: Annotated[
        bool, typer.Option(help="Exclude validation items from the ranking on the test set.")
    ] = False,
    beyond: Annotated[
        bool,
        typer.Option("--beyond-accuracy", help="Also compare novelty, diversity and the share of cold items."),
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Compare two trained models on the same data, user by user: the difference of each metric, its 95% confidence
    interval, and paired tests."""
    from .. import compare as compare_models
    from .. import load, unfinished
    from ..console import output, tables

    one, other = load(first), load(second)
    try:
        rows, users = compare_models(one, other, split, k, mask_validation, lists=beyond)
    except InputError as error:
        raise InputError(f"{first} and {second}: {error}") from None
    for run in (first, second):
        if note := unfinished(run):
            output.ERR.print(f"note: {note}", markup=False)
    if as_json:
        print(
            json.dumps({"users": users, "k": k, "split": split, "metrics": [row._asdict() for row in rows]}, indent=2)
        )
        return
    cells = [
        [
            f"{row.metric}@{k}",
            row.first,
            row.second,
            f"{row.difference:+.4f}",
            f"{row.low:+.4f} to {row.high:+.4f}",
            f"{row.p_t:.2g}",
            f"{row.p_wilcoxon:.2g}",
        ]
        for row in rows
    ]
    columns = ["metric", "first", "second", "difference", "95% interval", "p (t)", "p (Wilcoxon)"]
    title = f"{second} against {first}, {split}: {users:,} users"
    output.OUT.print(tables.table(title, columns, cells))
    output.OUT.print(NOTE, markup=False)
