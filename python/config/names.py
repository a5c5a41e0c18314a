"""The names that a configuration may give: systems and data layouts. Nothing of the trainer is imported here until a
system is asked for."""

from importlib import import_module
from importlib.metadata import entry_points
from typing import Any

from ..errors import InputError

GROUP = "mmssl_fast.systems"  # entry points of other packages: <name> = "<module>:<class>"
LAYOUTS = ("auto", "diffmm", "hkuds", "mmrec", "plain")
_OWN = {  # name: (title, class)
    "mmssl": ("MMSSL", "MMSSLSystem"),
    "popularity": ("popularity", "PopularitySystem"),
    "svd": ("SVD", "SVDSystem"),
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
EXTERNAL = {point.name: point.value for point in entry_points(group=GROUP)}
if taken := sorted(EXTERNAL.keys() & _OWN.keys()):
    raise InputError(
        f"system {taken[0]}: {EXTERNAL[taken[0]]} is registered under the name of one of mmssl_fast's own systems; "
        "rename it, or remove the package"
    )
SYSTEMS = {name: f"mmssl_trainer.systems.{name}:{kind}" for name, (_, kind) in _OWN.items()} | EXTERNAL


def system_class(name: str) -> Any:
    """The class of a system. Raises KeyError for an unknown name, InputError where another package's cannot be
    imported."""
    module, _, kind = SYSTEMS[name].partition(":")
    try:
        return getattr(import_module(module), kind)
    except (ImportError, AttributeError) as error:
        if name in _OWN:
            raise
        raise InputError(
            f"system {name}: {SYSTEMS[name]} cannot be imported ({error}); repair or remove the package that registers "
            f"it under {GROUP}"
        ) from error


def title(name: str) -> str:
    """What a system is called in tables: of another package's, its class attribute `title`, else its name. A name not
    in SYSTEMS stays as it is, such as a saved model's whose package is not installed."""
    if name in _OWN:
        return _OWN[name][0]
    return getattr(system_class(name), "title", name) if name in EXTERNAL else name
