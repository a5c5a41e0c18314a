"""Options for reading a data folder. They correspond to the keys of section [data]."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from pathlib import Path

from ..errors import InputError, shown
from .arrow import NUMBER

SPLIT_RULES = ("auto", "random", "time", "last")
MISSING_RULES = ("refuse", "mask", "mean")
NO_FEATURES = ["none"]


@dataclass(frozen=True)
class LoadOptions:
    """How a folder is read. config.sections.DataSection describes the options.

    seed: seed of a random split. modalities: names of the modalities to read, in this order; None: all, []: none.
    """

    seed: int = 0
    modalities: list[str] | None = None
    interactions: str = ""
    split_column: str = "split"
    split: str = "auto"
    split_share: float = 0.1
    split_last: int = 1
    split_dates: str = ""
    min_rating: float | None = None
    min_interactions: int = 1
    user_column: str = "user"
    item_column: str = "item"
    time_column: str = "timestamp"
    rating_column: str = "rating"
    weight_column: str = ""
    sep: str = ""
    query: str = ""
    missing_features: str = "refuse"

    def __post_init__(self) -> None:
        if self.modalities == NO_FEATURES:
            object.__setattr__(self, "modalities", [])
        for name, value, allowed in (
            ("split", self.split, SPLIT_RULES),
            ("missing_features", self.missing_features, MISSING_RULES),
        ):
            if value not in allowed:
                raise InputError(f"{name} = {shown(value)}: must be one of {', '.join(allowed)}")
        if not 0 < self.split_share < 0.5:
            raise InputError(f"split_share = {self.split_share}: must be above 0 and below 0.5")
        if self.split_last < 1:
            raise InputError(f"split_last = {self.split_last}: must be at least 1")
        if self.split_dates:
            parsed_dates(self.split_dates)
            if self.split != "time":
                raise InputError(f"split_dates = {shown(self.split_dates)}: needs --split time")
        if self.min_interactions < 1:
            raise InputError(f"min_interactions = {self.min_interactions}: must be at least 1")
        if self.query and not self.interactions:
            raise InputError(f"query = {shown(self.query)}: give the database with --interactions FILE")
        if self.user_column == self.item_column:
            raise InputError(f"user_column and item_column are both {shown(self.user_column)}; give two columns")
        object.__setattr__(self, "sep", separator_of(self.sep))

    def refuse(self, folder: Path, layout: str, names: Container[str]) -> None:
        """Raise InputError if one of the options `names`, which this layout does not support, has been set."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise InputError(
                    f"{folder}: {field.name} = {shown(getattr(self, field.name))} needs an interaction table, which "
                    f"the layout {layout} does not have; mmssl-fast data convert creates one"
                )


def parsed_dates(text: str) -> list[float | datetime]:
    """When validation and testing begin: two numbers or ISO dates, with a comma between them. Dates without a zone are
    in UTC. Raises InputError for anything else."""
    parts: list[float | datetime] = []
    for part in map(str.strip, text.split(",")):
        try:
            parts.append(float(part) if NUMBER.fullmatch(part) else datetime.fromisoformat(part))
        except ValueError:
            parts.clear()
            break
    parts = [part.replace(tzinfo=part.tzinfo or UTC) if isinstance(part, datetime) else part for part in parts]
    kinds = {isinstance(part, datetime) for part in parts}
    if len(parts) != 2 or len(kinds) > 1 or not parts[0] < parts[1]:  # type: ignore[operator]
        raise InputError(
            f"split_dates = {shown(text)}: give when validation begins and, later, testing, such as "
            "2016-03-22,2017-05-08, as two dates or two numbers"
        )
    return parts


def separator_of(sep: str) -> str:
    """The separator of a text table that an option names; "" if it is to be detected. Raises InputError for any other
    than one character."""
    sep = {"\\t": "\t", "tab": "\t"}.get(sep, sep)
    if len(sep.encode("utf-8", "surrogatepass")) > 1 or sep in tuple('"\n\r'):
        raise InputError(
            f"sep = {shown(sep)}: must be one character of ASCII that is neither a quote nor a line break; mmssl-fast "
            "data convert reads ::"
        )
    return sep


COLUMN_OPTIONS = ("user_column", "item_column", "time_column", "rating_column", "weight_column")
TABLE_OPTIONS = (
    *(
        "interactions",
        "split_column",
        "split",
        "split_share",
        "split_last",
        "split_dates",
        "min_rating",
        "min_interactions",
    ),
    *(*COLUMN_OPTIONS, "sep", "query"),
)
