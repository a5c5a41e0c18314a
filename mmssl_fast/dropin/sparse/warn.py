"""Warnings that name the line of the caller, however many functions of this package are in between."""

from __future__ import annotations

import sys
import warnings
from pathlib import Path

_FOLDER = str(Path(__file__).parent)


def warn(message: str) -> None:
    """Equals warnings.warn for the innermost caller outside of this package."""
    level, frame = 2, sys._getframe(1)
    while frame.f_back is not None and frame.f_back.f_code.co_filename.startswith(_FOLDER):
        level, frame = level + 1, frame.f_back
    warnings.warn(message, stacklevel=level + 1)
