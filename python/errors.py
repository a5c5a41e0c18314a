"""What ends a command with one line instead of a traceback."""

import json
import re
from importlib import metadata
from pathlib import Path
from urllib.parse import unquote, urlsplit

_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029]+")
_LONGEST = 600


class InputError(Exception):
    """A mistake in what the user gave: a file, a folder, an option, a configuration key.

    The message is one line (control characters and line breaks become spaces, anything beyond 600 characters is cut)
    that names the file, key or row and says what to do. The command line prints it on stderr and exits with code 2.
    """

    def __init__(self, message):
        line = _CONTROL.sub(" ", str(message)).strip()
        super().__init__(line if len(line) <= _LONGEST else line[: _LONGEST - 1] + "…")


def shown(value, longest=60):
    """How a message quotes what a file holds: at most `longest` characters, never the inside of a nested structure."""
    if isinstance(value, (str, bytes)):
        text = repr(value[: longest + 1])
    elif isinstance(value, int) and value.bit_length() > 200:
        text = f"an integer of {value.bit_length()} bits"
    elif value is None or isinstance(value, (bool, int, float)):
        text = repr(value)
    else:
        text = f"a {type(value).__name__}"
    return text if len(text) <= longest else text[: longest - 1] + "…"


class OutOfMemory(RuntimeError):
    """A run could not go on for want of memory, not even with smaller tiles. The message names the place and the plan's
    figures."""


class NonFiniteLoss(RuntimeError):
    """A loss term, a parameter or an embedding became NaN or infinite; names it, the epoch and the step."""


class WorkerFailed(RuntimeError):
    """A worker process failed unexpectedly; what it printed says how."""


def install_command(extra: str) -> str:
    """How to install mmssl_fast with an extra: from the checkout or wheel that it came from, where that is still there.

    Never by its name alone, which no package index knows: whoever registered it there would be installed.
    """
    try:
        text = metadata.distribution("mmssl_fast").read_text("direct_url.json")
        place = urlsplit(json.loads(text or "{}").get("url", ""))
    except (metadata.PackageNotFoundError, ValueError, AttributeError):
        place = urlsplit("")
    path = Path(unquote(place.path))
    if place.scheme == "file" and path.exists():
        return f'pip install "{path}[{extra}]"'
    return f'in the folder of the mmssl_fast checkout: pip install ".[{extra}]"'


_WORDS = (
    "out of memory",
    "can't allocate memory",
    "cannot allocate memory",
    "not enough memory",
    "bad_alloc",
    "alloc_failed",
)


def is_out_of_memory(error: BaseException) -> bool:
    """Whether an allocation failed: torch's CPU and CUDA allocators, C++ and NumPy say so in their own ways."""
    said = str(error).lower()
    return isinstance(error, (MemoryError, OutOfMemory)) or (
        isinstance(error, (RuntimeError, OSError)) and any(word in said for word in _WORDS)
    )


def first_line(error: BaseException) -> str:
    """The first line of an error's message, its class where it has none."""
    return (str(error).splitlines() or [type(error).__name__])[0]


def as_user_error(error: Exception) -> Exception | None:
    """The error that says in one line what an allocator or the system raised; None for any other error."""
    if isinstance(error, OutOfMemory):
        return error
    if is_out_of_memory(error):
        return OutOfMemory(f"out of memory ({first_line(error)}); free some")
    if isinstance(error, OSError) and error.filename is not None:  # a name too long, a folder that nobody may enter
        return InputError(f"{error.filename}: {error.strerror}; check the name and its permissions")
    return None


class Interrupted(Exception):
    """A signal ended the run after a whole step; `signal` is its number. The message says how to go on."""

    def __init__(self, message, signal):
        super().__init__(message)
        self.signal = signal
