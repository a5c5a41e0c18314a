"""What can be trained: one file a system, all behind `base.System`."""

from __future__ import annotations

from collections.abc import Iterable
from importlib import import_module
from typing import TYPE_CHECKING

from ..errors import InputError

if TYPE_CHECKING:
    from ..data import Dataset
    from .base import System

SYSTEMS = {
    "mmssl": "MMSSLSystem", "popularity": "PopularitySystem", "svd": "SVDSystem", "mf": "MFSystem",
    "ngcf": "NGCFSystem", "lightgcn": "LightGCNSystem", "sgl": "SGLSystem", "ncl": "NCLSystem", "hccf": "HCCFSystem",
    "vbpr": "VBPRSystem", "lightgcn_m": "LightGCNMSystem", "mmgcn": "MMGCNSystem", "grcn": "GRCNSystem",
    "lattice": "LATTICESystem", "clcrec": "CLCRecSystem", "mmgcl": "MMGCLSystem", "slmrec": "SLMRecSystem",
}  # fmt: skip
TITLES = {
    "mmssl": "MMSSL", "popularity": "popularity", "svd": "SVD", "mf": "MF-BPR", "ngcf": "NGCF",
    "lightgcn": "LightGCN", "sgl": "SGL", "ncl": "NCL", "hccf": "HCCF", "vbpr": "VBPR", "lightgcn_m": "LightGCN-M",
    "mmgcn": "MMGCN", "grcn": "GRCN", "lattice": "LATTICE", "clcrec": "CLCRec", "mmgcl": "MMGCL", "slmrec": "SLMRec",
}  # fmt: skip


def create(name: str) -> System:
    """A new, unbuilt system. Raises KeyError for a name not in SYSTEMS."""
    return getattr(import_module(f".{name}", __name__), SYSTEMS[name])()


def without_features() -> list[str]:
    """The systems that train without features."""
    return [name for name in SYSTEMS if not create(name).reads_features]


def refuse_without_features(dataset: Dataset, names: Iterable[str]) -> None:
    """Raise InputError where one of these systems needs features and the data has none."""
    if dataset.features:
        return
    remaining = without_features()
    needing = [TITLES[name] for name in names if name not in remaining]
    if needing:
        raise InputError(
            f"{dataset.name}: has no features, which {', '.join(needing)} need{'s' if len(needing) == 1 else ''}; add "
            f"a <modality>_feat.npy or .parquet, or choose among {', '.join(remaining)}"
        )
