"""Files that are either there, whole, or not there at all."""

from __future__ import annotations

import json
import os
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
