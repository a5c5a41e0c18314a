"""Builds mmssl_fast._C. Plain data lives in pyproject.toml, the build itself in _build/extension.py."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_build"))

from extension import BuildCore, core_extension
from setuptools import setup

setup(ext_modules=[core_extension()], cmdclass={"build_ext": BuildCore})
