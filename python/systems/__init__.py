"""What can be trained: one file a system, all behind `base.System`."""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
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
