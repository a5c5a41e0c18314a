"""Names that a configuration may use: systems and data layouts.

A system's module is imported only when `system_class` is called, so that `--help` does not wait for torch.
"""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import InputError

GROUP = "mmssl_fast.systems"  # entry points of other packages: <name> = "<module>:<class>"
METRICS = ("recall", "precision", "ndcg", "hit", "mrr")  # of a ranking; docs/evaluation.md defines them
LAYOUTS = ("auto", "diffmm", "hkuds", "mmrec", "plain", "prepared")
_BUILT_IN = {  # name: (title, class)
    "mmssl": ("MMSSL", "MMSSLSystem"),
    "popularity": ("popularity", "PopularitySystem"),
    "itemknn": ("ItemKNN", "ItemKNNSystem"),
    "userknn": ("UserKNN", "UserKNNSystem"),
    "svd": ("SVD", "SVDSystem"),
    "ease": ("EASE", "EASESystem"),
    "mf": ("MF-BPR", "MFSystem"),
    "ngcf": ("NGCF", "NGCFSystem"),
    "lightgcn": ("LightGCN", "LightGCNSystem"),
    "sgl": ("SGL", "SGLSystem"),
    "ncl": ("NCL", "NCLSystem"),
    "hccf": ("HCCF", "HCCFSystem"),
    "vbpr": ("VBPR", "VBPRSystem"),
    "lightgcn_m": ("LightGCN-M", "LightGCNMSystem"),
    "mmgcn": ("MMGCN", "MMGCNSystem"),
    "grcn": ("GRCN", "GRCNSystem"),
    "lattice": ("LATTICE", "LATTICESystem"),
    "clcrec": ("CLCRec", "CLCRecSystem"),
    "mmgcl": ("MMGCL", "MMGCLSystem"),
    "slmrec": ("SLMRec", "SLMRecSystem"),
}
# The built-in ones whose class has reads_features, so that `data check` can name the others without importing torch.
READ_FEATURES = frozenset("mmssl vbpr lightgcn_m mmgcn grcn lattice clcrec mmgcl slmrec".split())
EXTERNAL = {point.name: point.value for point in entry_points(group=GROUP)}
if conflicts := sorted(EXTERNAL.keys() & _BUILT_IN.keys()):
    raise InputError(
        f"system {conflicts[0]}: {EXTERNAL[conflicts[0]]} is registered under the name of a built-in system; "
        "rename it, or uninstall its package"
    )
SYSTEMS = {name: f"mmssl_trainer.systems.{name}:{kind}" for name, (_, kind) in _BUILT_IN.items()} | EXTERNAL


def system_class(name: str) -> Any:
    """The class of a system. Raises KeyError for an unknown name, InputError if an external system fails to import."""
    module, _, kind = SYSTEMS[name].partition(":")
    try:
        return getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        if name in _BUILT_IN:
            raise
        raise InputError(
            f"system {name}: {SYSTEMS[name]} cannot be imported ({error}); fix or uninstall the package that registers "
            f"it under {GROUP}"
        ) from error


def reads_features(name: str) -> bool:
    """Whether a system needs item features."""
    return name in READ_FEATURES or (name in EXTERNAL and bool(getattr(system_class(name), "reads_features", False)))


def title(name: str) -> str:
    """The name of a system in tables. For an external system, its class attribute `title`, or else its name. A name
    that is not in SYSTEMS is returned as it is: a saved model's package may not be installed."""
    if name in _BUILT_IN:
        return _BUILT_IN[name][0]
    return getattr(system_class(name), "title", name) if name in EXTERNAL else name
