"""Options for reading a data folder. They correspond to the keys of section [data]."""

from dataclasses import dataclass, fields

from ..errors import InputError, shown

SPLIT_RULES = ("auto", "random", "time", "last")
MISSING_RULES = ("refuse", "mean")
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
    missing_features: str = "refuse"

    def __post_init__(self):
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

    def refuse(self, folder, layout, names):
        """Raise InputError if one of the options `names`, which this layout does not support, has been set."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise InputError(
                    f"{folder}: {field.name} = {shown(getattr(self, field.name))} needs an interaction table, which "
                    f"the layout {layout} does not have; mmssl-fast data convert creates one"
                )


TABLE_OPTIONS = ("interactions", "split_column", "split", "split_share", "split_last", "min_rating")
