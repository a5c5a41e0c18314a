"""The options about data that train, tune, reproduce and data check share."""

from __future__ import annotations

from typing import Annotated, Any

import typer

Interactions = Annotated[
    str | None,
    typer.Option(
        "--interactions",
        metavar="FILE",
        help="The table of interactions in that folder. [default: the layout's own]",
        show_default=False,
    ),
]
SplitColumn = Annotated[
    str | None,
    typer.Option(
        "--split-column", help="Its column that holds train, val or test. [default: split]", show_default=False
    ),
]
SplitRule = Annotated[
    str | None,
    typer.Option(
        "--split",
        help="auto: the data's own split, else random; random: 8:1:1 of each user; time: the latest of all "
        "interactions are held out; last: the latest of each user. [default: auto]",
        show_default=False,
    ),
]
MinRating = Annotated[
    float | None,
    typer.Option(
        "--min-rating", help="Leave out rows with a rating below this. [default: every row counts]", show_default=False
    ),
]
MissingFeatures = Annotated[
    str | None,
    typer.Option(
        "--missing-features",
        help="Items without a row in a feature file with ids: refuse, or mean. [default: refuse]",
        show_default=False,
    ),
]


def data_flags(
    interactions: str | None,
    split_column: str | None,
    split: str | None,
    min_rating: float | None,
    missing_features: str | None,
) -> dict[str, tuple[Any, str]]:
    """{"data.key": (value, option)} of these options, for `configuration`."""
    return {
        "data.interactions": (interactions, "--interactions"),
        "data.split_column": (split_column, "--split-column"),
        "data.split": (split, "--split"),
        "data.min_rating": (min_rating, "--min-rating"),
        "data.missing_features": (missing_features, "--missing-features"),
    }
