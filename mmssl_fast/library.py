"""Loads the C++ library, which registers the ops as torch.ops.mmssl_fast.*, and refuses one that does not fit torch."""

import importlib
from typing import Any

import torch  # loads the libraries that _C is linked against

REINSTALL = "reinstall mmssl_fast from its source folder with `pip install --force-reinstall --no-deps .`"

try:
    _C = importlib.import_module("mmssl_fast._C")
except ModuleNotFoundError as error:
    raise ImportError(f"mmssl_fast: the C++ library is not built; {REINSTALL}") from error
except ImportError as error:
    raise ImportError(f"mmssl_fast: the C++ library does not load with torch {torch.__version__} ({error})") from error


def _major_minor(version: str) -> list[str]:
    return version.split(".")[:2]


if _major_minor(_C.build_info()["torch"]) != _major_minor(torch.__version__):
    raise ImportError(
        f"mmssl_fast: built against torch {_C.build_info()['torch']}, but torch {torch.__version__} is installed; "
        + REINSTALL
    )


def build_info() -> dict[str, Any]:
    """How the library was built and what it runs with.

    Returns:
        dict with ``torch`` (version built against), ``compiler``, ``isa_levels`` (instruction sets in the library),
        ``isa`` (the one in use), ``cuda`` (bool), ``cuda_archs`` (list of str), ``cuda_note`` (why it is so) and
        ``debug`` (bool).
    """
    return _C.build_info()


def infonce_sizes() -> dict[str, int]:
    """The sizes in csrc/cpu/infonce.h and cpu/tile.h that decide how much memory infonce takes on the CPU.

    Returns:
        dict with ``block`` (anchors whose shares are in memory at once), ``keys`` and ``anchors`` (of a tile),
        ``tasks`` (the maximum number that share the keys), ``min_anchors`` and ``exps`` (the gradient in one pass works
        on at least that many anchors and keeps at most that many values of exp(product)).
    """
    return _C.infonce_sizes()
