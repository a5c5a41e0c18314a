"""What can be trained: one file a system, all behind `base.System`. Other packages add systems of their own under the
entry point group `mmssl_fast.systems`."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING

from ..config.names import SYSTEMS, system_class, title
from ..errors import InputError

if TYPE_CHECKING:
    from ..data import Dataset
    from .base import System

__all__ = ["SYSTEMS", "create", "refuse_without_features", "title", "without_features"]


def create(name: str) -> System:
    """A new, unbuilt system. Raises KeyError for a name not in SYSTEMS."""
    return system_class(name)()


def without_features() -> list[str]:
    """The systems that train without features."""
    return [name for name in SYSTEMS if not getattr(system_class(name), "reads_features", False)]


def refuse_without_features(dataset: Dataset, names: Iterable[str]) -> None:
    """Raise InputError where one of these systems needs features and the data has none."""
    if dataset.features:
        return
    remaining = without_features()
    needing = [title(name) for name in names if name not in remaining]
    if needing:
        raise InputError(
            f"{dataset.name}: has no features, which {', '.join(needing)} need{'s' if len(needing) == 1 else ''}; add "
            f"a <modality>_feat.npy or .parquet, or choose among {', '.join(remaining)}"
        )
