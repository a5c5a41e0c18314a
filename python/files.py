"""Writing files and folders atomically, and locking folders."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from .errors import InputError


class _Terminated(BaseException):
    """SIGTERM has arrived. No error, so that nothing handles it on the way."""


@contextmanager
def _removed_on_sigterm() -> Iterator[None]:
    """Context manager: where SIGTERM would end the process at once, it first leaves the block, so that temporary files
    are removed. Then the process ends by the signal. Without effect outside the main thread, or with another handler.
    """
    in_main_thread = threading.current_thread() is threading.main_thread()
    if not in_main_thread or signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL:
        yield
        return

    def leave(number: int, frame: object) -> None:
        signal.signal(number, signal.SIG_IGN)  # a second one must not interrupt the removal
        raise _Terminated

    signal.signal(signal.SIGTERM, leave)
    try:
        yield
    except _Terminated:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)
        os.kill(os.getpid(), signal.SIGTERM)
        raise
    finally:
        signal.signal(signal.SIGTERM, signal.SIG_DFL)


@contextmanager
def replacing(path: Path, advice: str = "choose another folder") -> Iterator[Path]:
    """Context manager: yields a temporary path in the same folder. At the end, this file is flushed to disk and
    replaces `path`.

    The folder is flushed as well, so that after a power failure either the old or the new file exists. After an
    exception or SIGTERM, `path` is unchanged and the temporary file is removed. Raises InputError with this advice if
    the file cannot be written.
    """
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")
    with _removed_on_sigterm():
        try:
            try:
                yield temporary
                with open(temporary, "rb+") as file:
                    os.fchmod(file.fileno(), _file_mode())  # some libraries create files that only the owner can read
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
    """The permissions of an ordinary new file."""
    mask = os.umask(0)
    os.umask(mask)
    return 0o666 & ~mask


def write_text(path: Path, text: str, **advice: str) -> None:
    """Write text as UTF-8, atomically."""
    write_with(path, lambda temporary: temporary.write_text(text, encoding="utf-8"), **advice)


HEADER = "header"


def write_tensors(path: Path, tensors: dict[str, Any], metadata: dict[str, str] | None = None, **advice: str) -> None:
    """Write {name: contiguous CPU tensor} as safetensors, atomically.

    The same tensors and metadata result in the same bytes. `read_header` reads the metadata.
    """
    from safetensors import SafetensorError
    from safetensors.torch import save_file

    def write(temporary: Path) -> None:
        try:
            # A single key, because safetensors writes several keys in an order that changes from call to call.
            save_file(tensors, temporary, metadata and {HEADER: json.dumps(metadata, sort_keys=True)})
        except SafetensorError as error:  # the library raises this if the disk is full
            raise OSError(str(error)) from None

    write_with(path, write, **advice)


def read_header(metadata: dict[str, str] | None) -> dict[str, str]:
    """The metadata passed to write_tensors, from the metadata of the file. Earlier versions wrote one key per entry."""
    if not metadata or HEADER not in metadata:
        return metadata or {}
    try:
        header = json.loads(metadata[HEADER])
        return {str(key): str(value) for key, value in header.items()}
    except (ValueError, AttributeError, RecursionError):
        return {}


def write_with(path: Path, write: Callable[[Path], object], **advice: str) -> None:
    """Write a file atomically. write: writes the file at the path that it receives."""
    with replacing(path, **advice) as temporary:
        write(temporary)


@contextmanager
def whole_folder(path: Path) -> Iterator[Path]:
    """Context manager: yields a temporary folder, which becomes `path` at the end.

    `path` must be an empty folder or not exist. After an exception or SIGTERM it is unchanged, and the temporary folder
    is removed. Raises InputError if `path` is not empty or cannot be written.
    """
    with _removed_on_sigterm(), _whole_folder(path) as temporary:
        yield temporary


@contextmanager
def _whole_folder(path: Path) -> Iterator[Path]:
    temporary = path.absolute().with_name(f".{path.absolute().name}.{os.getpid()}.tmp")
    try:
        if path.exists() and not path.is_dir():
            raise InputError(f"{path}: is a file; give a new folder")
        entries = sorted(os.listdir(path)) if path.exists() else []
        if entries:
            raise InputError(f"{path}: is not empty, it contains {entries[0]}; give a new folder")
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
        raise InputError(f"{path}: cannot be written ({error.strerror or error}); choose another folder") from None


_locked: dict[tuple[int, int], int] = {}  # device and inode of a folder → file descriptor that has the lock


def lock(folder: Path, message: str) -> None:
    """Lock a folder against other processes until `unlock` or the end of this process.

    The lock is on the folder itself and needs no file. File systems without locks are not locked. Raises InputError
    with this message if another process has locked the folder.
    """
    handle = os.open(folder, os.O_RDONLY)
    key = _key(handle)
    try:
        if key not in _locked:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _locked[key], handle = handle, -1
    except BlockingIOError:
        raise InputError(message) from None
    except OSError:
        pass
    finally:
        if handle >= 0:
            os.close(handle)


def unlock(folder: Path) -> None:
    """Release the lock of a folder, if this process has one."""
    handle = os.open(folder, os.O_RDONLY)
    key = _key(handle)
    os.close(handle)
    if key in _locked:
        os.close(_locked.pop(key))


def _key(handle: int) -> tuple[int, int]:
    status = os.fstat(handle)
    return status.st_dev, status.st_ino
