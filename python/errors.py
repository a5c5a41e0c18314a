"""The exceptions that end a command with a one-line message, and helpers for such messages."""

from __future__ import annotations

import difflib
import importlib
import json
import re
from collections.abc import Iterable
from importlib import metadata
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONGEST = 600


class InputError(Exception):
    """Invalid input: a file, a folder, an option or a configuration key.

    The message names the file, key or row, and says what to do. It is one line: control characters and line breaks
    become spaces, and it is cut after 600 characters. The command line prints it on stderr and exits with code 2.

    >>> from mmssl_trainer import configure
    >>> configure({"train.epoch": 3})
    Traceback (most recent call last):
    mmssl_trainer.errors.InputError: settings: unknown key 'train.epoch'; did you mean 'train.epochs'?
    """

    def __init__(self, message: object) -> None:
        line = _CONTROL.sub(" ", str(message)).strip()
        super().__init__(line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…")


def shown(value: object, longest: int = 60) -> str:
    """A value from a file as text for a message: at most `longest` characters; only the type of a nested structure."""
    if isinstance(value, (str, bytes)):
        text = repr(value[: longest + 1])
    elif isinstance(value, int) and value.bit_length() > 200:
        text = f"an integer of {value.bit_length()} bits"
    elif value is None or isinstance(value, (bool, int, float)):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else text[: longest - 1] + "…"


def did_you_mean(name: str, allowed: Iterable[str]) -> str:
    """The allowed name closest to a misspelt one, as the end of a message; "" if none is close."""
    closest = difflib.get_close_matches(name.lower().replace("-", "_"), allowed, 1)
    closest = closest or difflib.get_close_matches(name.lower(), allowed, 1)
    return f"; did you mean {closest[0]}?" if closest else ""


def check_counts(**counts: object) -> None:
    """Raise InputError for a value that is not an integer of 1 or more, by the name of its argument."""
    for name, value in counts.items():
        if isinstance(value, bool) or not isinstance(value, int) or value < 1:
            raise InputError(f"{name} = {shown(value)}: must be an integer of 1 or more")


class OutOfMemory(RuntimeError):
    """The memory was not sufficient, even with smaller tiles. The message names the step and the memory estimate."""


class NonFiniteLoss(RuntimeError):
    """A loss term, a parameter or an embedding became NaN or infinite. The message names it, the epoch and the step."""


class WorkerFailed(RuntimeError):
    """A worker process failed unexpectedly. Its output has the reason."""


class Reported(Exception):
    """Another process has failed and printed the reason. code: the exit code of this process."""

    def __init__(self, code: int) -> None:
        super().__init__(f"exit code {code}")
        self.code = code


def install_command(extra: str) -> str:
    """The command that installs mmssl_fast with an extra, from the checkout or wheel that it was installed from.

    It never uses the name alone. No package index has a package of this name, and if somebody registered one, the
    command would install that.
    """
    try:
        text = metadata.distribution("mmssl_fast").read_text("direct_url.json")
        url = urlsplit(json.loads(text or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        url = urlsplit("")
    path = Path(unquote(url.path))
    if url.scheme == "file" and path.exists():
        return f'pip install "{path}[{extra}]"'
    return f'in the folder of the mmssl_fast checkout: pip install ".[{extra}]"'


def needed(name: str, extra: str) -> Any:
    """Import a module that comes with an extra. Raises InputError with the pip command if it is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        package = name.partition(".")[0]
        if (error.name or "").partition(".")[0] != package:
            raise
        raise InputError(f"the package {package} is not installed; {install_command(extra)}") from None


_OUT_OF_MEMORY = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether the error is a failed allocation. The allocators of torch, C++ and NumPy have different messages."""
    message = str(error).lower()
    return isinstance(error, (MemoryError, OutOfMemory)) or (
        isinstance(error, (RuntimeError, OSError)) and any(phrase in message for phrase in _OUT_OF_MEMORY)
    )


def first_line(error: BaseException) -> str:
    """The first line of the message of an error, or its class if the message is empty."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def as_user_error(error: Exception) -> Exception | None:
    """The one-line error for a failed allocation or a file error of the operating system; None for other errors."""
    if isinstance(error, OutOfMemory):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(f"out of memory ({first_line(error)}); free some memory")
    if isinstance(error, OSError) and error.filename is not None:  # for example, a name that is too long
        return InputError(f"{error.filename}: {error.strerror}; check the name and its permissions")
    return None


class Interrupted(Exception):
    """A signal ended the command. signal: its number. The message says how to continue."""

    def __init__(self, message: str, signal: int) -> None:
        super().__init__(message)
        self.signal = signal
