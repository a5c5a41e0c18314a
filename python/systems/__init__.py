"""The recommender systems, one per file. Each implements the protocol `base.System`.

Other packages can register their own systems under the entry point group `mmssl_fast.systems`.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..config.names import SYSTEMS, reads_features, system_class, title
from ..errors import InputError

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset
    from .base import System

__all__ = [
    "SYSTEMS",
    "create",
    "refuse_item_item",
    "refuse_over_groups",
    "refuse_over_ranks",
    "refuse_without_features",
    "rows_over_ranks",
    "title",
    "without_features",
]


def create(name: str) -> System:
    """A new system, before `build`. Raises KeyError if the name is not in SYSTEMS."""
    return system_class(name)()


def without_features() -> list[str]:
    """The names of the systems that do not need item features."""
    return [name for name in SYSTEMS if not reads_features(name)]


def rows_over_ranks(name: str) -> dict[str, str] | None:
    """`over_ranks` of a system: the parameters that are divided among the ranks, by "users" or "items". None if only
    one process can train it."""
    return vars(system_class(name)).get("over_ranks")  # a subclass may need more than its parent


def refuse_over_ranks(name: str) -> None:
    """Raise InputError for a system that cannot be trained by several processes."""
    if rows_over_ranks(name) is None:
        able = [other for other in SYSTEMS if rows_over_ranks(other) is not None]
        raise InputError(
            f"model.system = {name!r}: {title(name)} can be trained by one process only; leave out --ranks or "
            f"torchrun, or choose one of {', '.join(able)}"
        )


def over_groups(name: str) -> bool:
    """Whether a system can be trained with its graph divided among groups of processes."""
    return bool(vars(system_class(name)).get("over_groups"))


def refuse_over_groups(name: str, groups: int) -> None:
    """Raise InputError for a system that cannot be trained with its graph divided among groups of processes."""
    if groups > 1 and not over_groups(name):
        able = [other for other in SYSTEMS if over_groups(other)]
        raise InputError(
            f"distributed.groups = {groups}: {title(name)} needs the whole graph on every rank; set it to 1, or choose "
            f"one of {', '.join(able)}"
        )


def refuse_item_item(config: Config) -> None:
    """Raise InputError for model.item_item with a system that has no item-item part."""
    name, weight = config.model.system, config.model.item_item
    if weight and not hasattr(system_class(name), "build_item_item"):
        able = [other for other in SYSTEMS if hasattr(system_class(other), "build_item_item")]
        raise InputError(
            f"model.item_item = {weight:g}: {title(name)} cannot have an item-item part; set it to 0, or choose one of "
            f"{', '.join(able)}"
        )


def refuse_without_features(dataset: Dataset, names: Iterable[str]) -> None:
    """Raise InputError if one of these systems needs item features and the dataset has none."""
    if dataset.features:
        return
    feature_free = without_features()
    refused = [title(name) for name in names if name not in feature_free]
    if refused:
        raise InputError(
            f"{dataset.name}: has no features, which {', '.join(refused)} need{'s' if len(refused) == 1 else ''}; add "
            f"<modality>_feat.parquet, .npz, .safetensors or .npy, or choose a system that needs none: "
            f"{', '.join(feature_free)}"
        )
