"""Opening what the user named: the checks that come before any format is looked at."""

import os
from pathlib import Path

from ..errors import InputError


def existing_folder(path):
    """The folder as a Path; raises InputError where it is missing, not a folder or not readable."""
    folder = Path(path)
    try:
        if not folder.exists():
            raise InputError(f"{folder}: no such folder; give the folder that holds the interactions and *_feat.npy")
        if not folder.is_dir():
            raise InputError(f"{folder}: is a file; give the folder that holds the interactions and *_feat.npy")
        os.listdir(folder)
    except (OSError, ValueError) as error:
        raise InputError(f"{folder}: cannot be read ({_reason(error)}); check the name and its permissions") from None
    return folder


def existing_file(path):
    """The path; raises InputError where it is missing or anything but a regular file (a pipe or device would hang)."""
    try:
        if not path.exists():
            raise InputError(f"{path}: no such file; put it there or choose another layout")
        if not path.is_file():
            raise InputError(f"{path}: is not a regular file; replace it by the data file itself")
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}); check its permissions") from None
    return path


def read_bytes(path):
    """The file's content; raises InputError where it cannot be read."""
    try:
        return existing_file(path).read_bytes()
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({_reason(error)}); check its permissions") from None


def _reason(error):
    return getattr(error, "strerror", None) or str(error)
