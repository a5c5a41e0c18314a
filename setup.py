"""Builds mmssl_fast._C. Plain data lives in pyproject.toml, the build itself in _build/extension.py."""

import sys
from importlib.util import find_spec
from pathlib import Path

from setuptools import Extension, setup
from setuptools.command.build_ext import build_ext

sys.path.insert(0, str(Path(__file__).resolve().parent))


class NeedsTorch(build_ext):
    """Stands in where torch is missing: an sdist needs none, a library does."""

    def run(self):
        raise SystemExit(
            "mmssl_fast: the C++ library is built against torch, and none is installed; install torch first"
        )


if find_spec("torch"):
    from _build.extension import BuildCore
else:
    BuildCore = NeedsTorch

# BuildCore fills the extension in when it runs.
setup(ext_modules=[Extension("mmssl_fast._C", [])], cmdclass={"build_ext": BuildCore})
