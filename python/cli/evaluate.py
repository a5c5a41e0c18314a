"""mmssl-fast evaluate: test a trained model again, with other list lengths or on cold items."""

from __future__ import annotations

import json
import sys
from typing import Annotated, Literal

import typer

from ..errors import InputError
from . import launch
from .options import JsonOption, RanksOption, RunPath


def evaluate(
    run: RunPath,
    split: Annotated[Literal["test", "val"], typer.Option(help="Split to evaluate on.")] = "test",
    k: Annotated[
        list[int] | None,
        typer.Option(
            "--k",
            help="List length K, from 1 to the number of items. May be given several times. [default: 10, 20, 50]",
            show_default=False,
        ),
    ] = None,
    mask_validation: Annotated[
        bool, typer.Option(help="Exclude validation items from the ranking on the test set.")
    ] = False,
    cold: Annotated[
        bool,
        typer.Option(
            "--cold",
            help="Rank only items without training interactions, by their features, for users with such an item in "
            "the split.",
        ),
    ] = False,
    beyond: Annotated[
        bool,
        typer.Option(
            "--beyond-accuracy", help="Also describe the lists: coverage, novelty, diversity and share of cold items."
        ),
    ] = False,
    with_intervals: Annotated[
        bool, typer.Option("--intervals", help="Also compute 95% confidence intervals of the means over users.")
    ] = False,
    as_json: JsonOption = False,
    ranks: RanksOption = None,
) -> None:
    """Print the ranking metrics of a trained model. All items are ranked for the users of a split. The metrics are
    Recall, Precision, NDCG, Hit and MRR."""
    if launch.is_asked_for(ranks):
        return launch.launch(ranks, sys.argv[1:])
    from .. import beyond_accuracy, breakdown, evaluate_cold, intervals, load, unfinished
    from .. import evaluate as evaluate_model
    from ..config.names import title as title_of
    from ..console import output, tables

    group = launch.join()
    for option, given in (("--cold", cold), ("--beyond-accuracy", beyond), ("--intervals", with_intervals)):
        if group.size > 1 and given:
            raise InputError(f"{option} works with one process only; leave out --ranks or torchrun")
        if cold and given and option != "--cold":
            raise InputError(f"--cold cannot be used with {option}, which describes lists of all items")
    lengths = {"ks": k} if k else {}
    groups: dict[str, dict[str, float]] = {}
    lists: dict[str, float] = {}
    limits: dict[str, tuple[float, float]] = {}
    if cold:
        model, metrics = evaluate_cold(run, split, mask_validation=mask_validation, **lengths)
    else:
        model = load(run)
        metrics = evaluate_model(model, split, mask_validation=mask_validation, **lengths)
        groups = breakdown(model, split, mask_validation=mask_validation, **lengths)
        if beyond:
            lists = beyond_accuracy(model, split, mask_validation=mask_validation, **lengths)
        if with_intervals:
            limits = intervals(model, split, mask_validation=mask_validation, lists=beyond, **lengths)
    if not metrics["users"]:
        raise InputError(f"{run}: the data has no {split} interactions")
    if note := unfinished(run):
        output.ERR.print(f"note: {note}", markup=False)
    if as_json and group.rank == 0:
        more = {"intervals": limits, "breakdown": groups}
        print(json.dumps(metrics | lists | {name: each for name, each in more.items() if each}, indent=2))
    elif not as_json:
        system = title_of(model.metadata.get("system", ""))
        title = f"{system} on {model.interactions.name}, {split}: {metrics['users']:,} users"
        title += f", only the {metrics['candidates']} cold items ranked" if cold else ""
        output.OUT.print(tables.metrics_table(title, metrics))
        if lists:
            output.OUT.print(tables.metrics_table("the lists, beyond accuracy", lists))
        if limits:
            output.OUT.print(tables.intervals_table(metrics | lists, limits))
        if groups:
            output.OUT.print(tables.breakdown_table(groups))
