"""Files that are either there, whole, or not there at all, and folders that one process has for itself."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from .errors import InputError


@contextmanager
def replacing(path: Path, advice: str = "choose another place") -> Iterator[Path]:
    """A temporary path beside `path` to write to; on leaving, it is flushed to disk and takes `path`'s place.

    The folder is flushed too, so a file that was there before a loss of power is there after it, old or new. An
    exception inside leaves `path` as it was and removes the temporary file. Raises InputError, which ends with the
    advice, where the folder cannot be written or the disk is full.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    try:
        try:
            yield temporary
            with open(temporary, "rb+") as file:
                os.fchmod(file.fileno(), _file_mode())  # some writers make private files
                os.fsync(file.fileno())
            os.replace(temporary, path)
            _flush_folder(path.parent)
        except OSError as error:
            raise InputError(f"{path}: cannot be written ({error.strerror or error}); {advice}") from None
    finally:
        with suppress(OSError):
            temporary.unlink()


def _flush_folder(folder: Path) -> None:
    handle = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _file_mode() -> int:
    """The permissions an ordinary new file gets."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_text(path: Path, text: str, **advice: str) -> None:
    """`text` as UTF-8 at `path`, whole or not at all."""
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), **advice)


HEADER = "header"


def write_tensors(path: Path, tensors: dict, metadata: dict[str, str] | None = None, **advice: str) -> None:
    """{name: contiguous CPU tensor} as safetensors at `path`, whole or not at all.

    The same tensors and metadata give the same bytes. `read_header` reads the metadata.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        try:
            # safetensors writes several keys of metadata in an order that changes from call to call
            save_file(tensors, temporary, metadata and {HEADER: json.dumps(metadata, sort_keys=True)})
        except SafetensorError as error:  # how the library passes a full disk on
            raise OSError(str(error)) from None

    write_with(path, write, **advice)


def read_header(found: dict[str, str] | None) -> dict[str, str]:
    """The metadata that write_tensors was given, from what the file has; earlier versions wrote its keys one by one."""
    if not found or HEADER not in found:
        return found or {}
    try:
        header = json.loads(found[HEADER])
        return {str(key): str(value) for key, value in header.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}


def write_with(path: Path, write: Callable[[Path], object], **advice: str) -> None:
    """What write(temporary path) writes, at `path`, whole or not at all."""
    with replacing(path, **advice) as temporary:
        write(temporary)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """A temporary folder beside `path` to fill; on leaving, it takes the place of `path`, which must not exist or be an
    empty folder.

    An exception inside removes it and leaves `path` as it was. Raises InputError where `path` holds anything, and where
    it cannot be written.
    """
    temporary = path.absolute().with_name(f".{path.absolute().name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; give a new folder")
        there = sorted(os.listdir(path)) if path.exists() else []
        if there:
            raise InputError(f"{path}: is not empty, it holds {there[0]}; give a new folder")
        temporary.mkdir(parents=True)
        try:
            yield temporary
            for file in temporary.iterdir():
                with open(file, "rb+") as handle:
                    os.fsync(handle.fileno())
            os.replace(temporary, path)
            _flush_folder(path.absolute().parent)
        finally:
            shutil.rmtree(temporary, ignore_errors=True)
    except OSError as error:
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another place") from None


_locked: dict[tuple[int, int], int] = {}  # device and inode of a folder → descriptor, whose lock ends with the process


def lock(folder: Path, refusal: str) -> None:
    """Keep other processes from this folder until `unlock` or the end of this process, where the file system has locks.

    The lock is on the folder itself and leaves no file. Raises InputError, which says the refusal, where another
    process has it.
    """
    handle = os.open(folder, os.O_RDONLY)
    key = _key(handle)
    try:
        if key not in _locked:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _locked[key], handle = handle, -1
    except BlockingIOError:
        raise InputError(refusal) from None
    except OSError:
        pass
    finally:
        if handle >= 0:
            os.close(handle)


def unlock(folder: Path) -> None:
    """Let other processes have the folder; nothing where this one has not locked it."""
    handle = os.open(folder, os.O_RDONLY)
    key = _key(handle)
    os.close(handle)
    if key in _locked:
        os.close(_locked.pop(key))


def _key(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino
