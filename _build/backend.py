"""The build backend: setuptools.build_meta with the torch that is already installed.

pip builds in an isolated environment, which does not contain the user's torch, and would download another one. An
extension that was built for one torch may not load with the other. pip does not change the prefix of the interpreter,
so ``sysconfig`` still gives the folder of the user's packages. If this folder has a torch that is new enough, it is
appended to the END of sys.path, so that the isolated setuptools stays first, and torch is not a build requirement.
"""

import importlib.metadata
import re
import shutil
import sys
import sysconfig

from setuptools import build_meta
from setuptools.build_meta import build_sdist, get_requires_for_build_sdist

from . import sources, toolkit

__all__ = [
    "build_editable",
    "build_sdist",
    "build_wheel",
    "get_requires_for_build_editable",
    "get_requires_for_build_sdist",
    "get_requires_for_build_wheel",
    "prepare_metadata_for_build_editable",
    "prepare_metadata_for_build_wheel",
]


def _has_torch(folder):
    """Whether `folder` contains a torch that is new enough."""
    for found in importlib.metadata.distributions(name="torch", path=[folder]):
        return tuple(int(part) for part in re.findall(r"\d+", found.version)[:2]) >= sources.OLDEST_TORCH
    return False


def _find_torch():
    """Whether torch can be imported. If the folder of the user's packages has torch, it is added to sys.path."""
    if any(_has_torch(folder) for folder in sys.path):
        return True
    folder = sysconfig.get_paths()["platlib"]
    if not _has_torch(folder):
        return False
    sys.path.append(folder)
    return True


def _requirements(config_settings=None):
    # A build that cannot succeed stops here with one sentence, before anything is downloaded or compiled.
    sources.compiler()
    toolkit.require_nvcc()
    if not _find_torch():
        oldest = ".".join(map(str, sources.OLDEST_TORCH))
        return [f"torch>={oldest}", "numpy"]
    if toolkit.requested() == "1":
        toolkit.choose()
    return []


def _against_torch(hook):
    def wrapped(*args, **kwargs):
        sources.compiler()
        _find_torch()
        return hook(*args, **kwargs)

    return wrapped


get_requires_for_build_wheel = _requirements
get_requires_for_build_editable = _requirements
prepare_metadata_for_build_wheel = _against_torch(build_meta.prepare_metadata_for_build_wheel)
prepare_metadata_for_build_editable = _against_torch(build_meta.prepare_metadata_for_build_editable)


@_against_torch
def build_wheel(*args, **kwargs):
    for folder in sources.ROOT.glob("build/lib*"):
        shutil.rmtree(folder)  # setuptools would ship modules that an earlier build put there and that are gone by now
    return build_meta.build_wheel(*args, **kwargs)


build_editable = _against_torch(build_meta.build_editable)
