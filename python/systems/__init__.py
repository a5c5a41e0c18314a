"""What can be trained: one file a system, all behind `base.System`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from .base import System

SYSTEMS = {
    "mmssl": "MMSSLSystem", "lightgcn": "LightGCNSystem", "popularity": "PopularitySystem", "mf": "MFSystem",
    "sgl": "SGLSystem", "vbpr": "VBPRSystem", "lightgcn_m": "LightGCNMSystem", "mmgcn": "MMGCNSystem",
    "lattice": "LATTICESystem", "ngcf": "NGCFSystem", "hccf": "HCCFSystem",
}  # fmt: skip
TITLES = {
    "mmssl": "MMSSL", "popularity": "popularity", "mf": "MF-BPR", "lightgcn": "LightGCN", "sgl": "SGL", "vbpr": "VBPR",
    "lightgcn_m": "LightGCN-M", "mmgcn": "MMGCN", "lattice": "LATTICE", "ngcf": "NGCF",
    "hccf": "HCCF",
}  # fmt: skip


def create(name: str) -> System:
    """A new, unbuilt system. Raises KeyError for a name not in SYSTEMS."""
    return getattr(import_module(f".{name}", __name__), SYSTEMS[name])()
