"""Loads the C++ library, which registers the ops as torch.ops.mmssl_fast.*, and checks that it matches torch."""

import importlib
from pathlib import Path
from typing import Any

import torch  # must be imported first: it loads the libraries that _C is linked with

REINSTALL = "reinstall mmssl_fast from its source folder with `pip install --force-reinstall --no-deps .`"

try:
    _C = importlib.import_module("mmssl_fast._C")
except ModuleNotFoundError as error:
    source = Path(__file__).parents[1]
    if (source / "setup.py").exists():  # Python found this folder before the installed package
        raise ImportError(
            f"mmssl_fast: imported from its source folder {source}, where the C++ library is not built; to use the "
            "installed package, start Python in another folder or with -P; or install with `pip install -e .`"
        ) from error
    raise ImportError(f"mmssl_fast: the C++ library is not built; {REINSTALL}") from error
except ImportError as error:
    raise ImportError(
        f"mmssl_fast: the C++ library cannot be loaded with torch {torch.__version__} ({error})"
    ) from error


def _major_minor(version: str) -> list[str]:
    return version.split(".")[:2]


if _major_minor(_C.build_info()["torch"]) != _major_minor(torch.__version__):
    raise ImportError(
        f"mmssl_fast: built against torch {_C.build_info()['torch']}, but torch {torch.__version__} is installed; "
        + REINSTALL
    )


def build_info() -> dict[str, Any]:
    """Describes how the C++ library was built, and which instruction set it uses.

    Returns:
        A dict with ``torch`` (the version it was built against), ``compiler``, ``isa_levels`` (the instruction sets in
        the library), ``isa`` (the instruction set in use), ``cuda`` (bool), ``cuda_archs`` (list of str), ``cuda_note``
        (the reason for building with or without CUDA) and ``debug`` (bool).

    Example:
        >>> info = build_info()
        >>> info["isa"] in info["isa_levels"]
        True
    """
    return _C.build_info()


def infonce_sizes() -> dict[str, int]:
    """The block sizes in csrc/cpu/infonce.h and csrc/cpu/tile.h, which determine the memory of infonce on the CPU.

    Returns:
        A dict with ``block`` (anchors whose partial sums are in memory at once), ``keys`` and ``anchors`` (size of a
        tile), ``tasks`` (maximum number of tasks among which the keys are divided), ``min_anchors`` and ``exps``. If
        the gradient is computed together with the loss, it processes at least ``min_anchors`` anchors at once and keeps
        at most ``exps`` values of exp(product). ``pieces``: 1 if the products of float32 calls are those of bfloat16
        pieces on this processor (docs/precision.md), else 0. ``kept``: maximum number of values of exp(product) that
        calls with rounded operands keep in bfloat16, unless ``kept_anchors`` anchors have more; 0 if this processor
        does not keep them.
    """
    return _C.infonce_sizes()
