"""Fast, small-memory MMSSL for PyTorch: relation rows that are never a matrix, and the ops around them."""

from ._version import __version__
from .library import build_info

__all__ = ["__version__", "build_info"]
