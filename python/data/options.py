"""What may be said about a data folder beside its name: the keys of the configuration's [data] section."""

from dataclasses import dataclass, fields

from ..errors import InputError, shown

SPLIT_RULES = ("auto", "random", "time", "last")
MISSING_RULES = ("refuse", "mean")
NO_FEATURES = ["none"]


@dataclass(frozen=True)
class LoadOptions:
    """How a folder is read.

    seed: of a split by chance. modalities: names to read, in this order; None: all there are, []: none.
    interactions: the table to read instead of the layout's own, named as in the folder. split_column: the column that
    holds train, val or test. split: "auto" takes the split that the data gives and else "random", 8:1:1 of each user;
    "time" takes the latest interactions of all users, "last" the latest of each. split_share: of the validation and of
    the test interactions, for "random" and "time". split_last: interactions of a user in validation and in testing,
    for "last". min_rating: the lowest rating that counts as an interaction; None: all count. missing_features: what an
    item without a feature row gets: "refuse" or the modality's "mean".
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
        for name, value, known in (
            ("split", self.split, SPLIT_RULES),
            ("missing_features", self.missing_features, MISSING_RULES),
        ):
            if value not in known:
                raise InputError(f"{name} {shown(value)} is unknown; choose one of {', '.join(known)}")
        if not 0 < self.split_share < 0.5:
            raise InputError(f"split_share is {self.split_share}; it must lie above 0 and below 0.5")
        if self.split_last < 1:
            raise InputError(f"split_last is {self.split_last}; it must be 1 or more")

    def refuse(self, folder, layout, names):
        """Raises InputError where an option that the layout cannot follow has been given."""
        for field in fields(self):
            if field.name in names and getattr(self, field.name) != field.default:
                raise InputError(
                    f"{folder}: the layout {layout} has no table of interactions, which {field.name} = "
                    f"{shown(getattr(self, field.name))} needs; mmssl-fast data convert makes one"
                )


TABLE_OPTIONS = ("interactions", "split_column", "split", "split_share", "split_last", "min_rating")
