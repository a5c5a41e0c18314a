"""Build backend: setuptools.build_meta, but against the torch that is already installed.

pip builds in an environment of its own, where the user's torch cannot be seen, and would fetch a second one; an
extension built against that one need not load in the first. pip leaves the prefix of the interpreter alone, so
``sysconfig`` still names the folder of the user's packages. When a torch new enough lies there, that folder goes to the
END of sys.path (the isolated setuptools stays first) and nothing is required; otherwise torch is a build requirement.
"""

import importlib.metadata
import sys
import sysconfig

from setuptools import build_meta
from setuptools.build_meta import build_sdist, get_requires_for_build_sdist

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

OLDEST_TORCH = (2, 11)


def _installed_torch(folder):
    """(major, minor) of the torch installed in `folder`, or None."""
    for found in importlib.metadata.distributions(name="torch", path=[folder]):
        return tuple(int(part) for part in found.version.split(".")[:2])
    return None


def _find_torch():
    """Whether a torch that is new enough can be imported, after adding the user's own packages to sys.path if need be."""
    if any((_installed_torch(folder) or (0, 0)) >= OLDEST_TORCH for folder in sys.path):
        return True
    folder = sysconfig.get_paths()["platlib"]
    if (_installed_torch(folder) or (0, 0)) < OLDEST_TORCH:
        return False
    sys.path.append(folder)
    return True


def _with_torch(requirements):
    return requirements if _find_torch() else [*requirements, "torch>=" + ".".join(map(str, OLDEST_TORCH))]


def get_requires_for_build_wheel(config_settings=None):
    return _with_torch([])


def get_requires_for_build_editable(config_settings=None):
    return _with_torch([])


def prepare_metadata_for_build_wheel(metadata_directory, config_settings=None):
    _find_torch()
    return build_meta.prepare_metadata_for_build_wheel(metadata_directory, config_settings)


def prepare_metadata_for_build_editable(metadata_directory, config_settings=None):
    _find_torch()
    return build_meta.prepare_metadata_for_build_editable(metadata_directory, config_settings)


def build_wheel(wheel_directory, config_settings=None, metadata_directory=None):
    _find_torch()
    return build_meta.build_wheel(wheel_directory, config_settings, metadata_directory)


def build_editable(wheel_directory, config_settings=None, metadata_directory=None):
    _find_torch()
    return build_meta.build_editable(wheel_directory, config_settings, metadata_directory)
