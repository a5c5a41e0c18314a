"""Options for reading a data folder. They correspond to the keys of section [data]."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass, fields
from pathlib import Path

from ..errors import InputError, shown

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
    *("interactions", "split_column", "split", "split_share", "split_last", "min_rating", "min_interactions"),
    *(*COLUMN_OPTIONS, "sep", "query"),
)
