"""What an encoder is, and what the encoders of texts, images and recordings share."""

from __future__ import annotations

import hashlib
import os
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib import metadata
from pathlib import Path
from typing import Any, Protocol

import numpy as np

from ..errors import InputError, install_command, needed, shown

_CHUNK = 1 << 20


class Unusable(Exception):
    """A content from which no features can be made. The message is the reason, as in the list of skipped files."""


class Encoder(Protocol):
    """From contents to vectors.

    identity: what the vectors depend on, as a dict that can be written as JSON; after an interruption, the vectors made
    so far are used only by an encoder with the same one. width: columns of a vector. part_rows: contents that are
    loaded and encoded at a time.
    """

    identity: dict[str, Any]
    width: int
    part_rows: int

    def load(self, content: Any) -> Any:
        """A text, or the path of a file, as an input of `encode`. Raises Unusable."""

    def encode(self, inputs: Sequence[Any]) -> np.ndarray:
        """The vectors [n, width] of n ≥ 1 inputs. They may depend on which inputs are encoded together only by
        rounding."""


def check_batch(batch: int) -> None:
    """Raise InputError unless the number of inputs per batch is an integer of 1 or more."""
    if isinstance(batch, bool) or not isinstance(batch, int) or batch < 1:
        raise InputError(f"batch = {shown(batch)}: must be an integer of 1 or more")


def named(model: str | Path) -> str:
    """The name of a model in an identity: the last part of a path, and names as they are."""
    return Path(model).name if Path(model).exists() else str(model)


def digest_of(path: Path) -> str:
    """sha256 (hex) of a file, or of all files of a folder with their names. Names that start with a dot are skipped."""
    digest = hashlib.sha256()
    files = [path]
    if path.is_dir():
        files = [each for each in sorted(path.rglob("*")) if each.is_file() and not _hidden(each.relative_to(path))]
    for file in files:
        if file != path:
            digest.update(f" {file.relative_to(path)} {file.stat().st_size} ".encode())
        with file.open("rb") as stream:
            while chunk := stream.read(_CHUNK):
                digest.update(chunk)
    return digest.hexdigest()


def _hidden(path: Path) -> bool:
    return any(part.startswith((".", "__pycache__")) for part in path.parts)


def versions(*packages: str) -> dict[str, str]:
    """{package: installed version}."""
    return {package: metadata.version(package) for package in packages}


def library(name: str, extra: str) -> Any:
    """The module of an extra. Raises InputError if it is not installed, or does not fit the installed torch: the wheels
    of torchvision from another index than that of torch cannot be imported."""
    try:
        return needed(name, extra)
    except InputError:
        raise
    except (ImportError, OSError, RuntimeError) as error:
        reason = shown(str(error).partition("\n")[0], 120)
        raise InputError(
            f"the package {name} cannot be imported ({reason}). Its parts must be built for torch "
            f"{metadata.version('torch')}: install torch and torchvision from the same package index, then "
            f"{install_command(extra)}"
        ) from None


@contextmanager
def from_hub(download: bool) -> Iterator[None]:
    """Context manager in which Hugging Face's libraries load a model by name from the disk only, or with download also
    from the hub. Without it, they try for minutes to reach a hub that is not there."""
    before = os.environ.get("HF_HUB_OFFLINE")
    loaded: Any = sys.modules.get("huggingface_hub.constants")
    constant = loaded and loaded.HF_HUB_OFFLINE
    offline = before == "1" or not download
    os.environ["HF_HUB_OFFLINE"] = "1" if offline else "0"
    if loaded:
        loaded.HF_HUB_OFFLINE = offline
    try:
        yield
    finally:
        if before is None:
            del os.environ["HF_HUB_OFFLINE"]
        else:
            os.environ["HF_HUB_OFFLINE"] = before
        now: Any = sys.modules.get("huggingface_hub.constants")
        if now:
            now.HF_HUB_OFFLINE = constant if loaded else before == "1"


def refuse_model(model: str | Path, error: BaseException | str, download: bool) -> InputError:
    """The InputError for a model that cannot be loaded."""
    reason = shown((str(error).splitlines() or [type(error).__name__])[0], 160)
    if os.sep in str(model) and not Path(model).exists() and str(model).startswith((os.sep, ".")):
        return InputError(f"{model}: no such model; check the path")
    advice = "check the name" if download or Path(model).exists() else "check the name, or give --download"
    if Path(model).is_dir():
        advice = "give the folder that contains the config.json of the model"
    return InputError(f"{model}: the model cannot be loaded ({reason}); {advice}")
