"""The finished parts of an extraction, kept in a folder beside the result until it is complete.

A part is a safetensors file that appears atomically. Which contents it has, and what is encoded together, depends only
on the number of the part, so that an interrupted extraction ends with the same bytes as one that was not.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ..errors import InputError, shown
from ..files import lock, unlock, write_tensors, write_text

MANIFEST = "manifest.json"


class Parts:
    """Context manager: the folder OUT.parts, locked against other processes.

    identity: what the parts depend on, as a dict that can be written as JSON. Raises InputError if the folder has parts
    with another identity, naming the first key that differs.
    """

    def __init__(self, out: Path, identity: Mapping[str, Any]) -> None:
        self.folder = out.with_name(f"{out.name}.parts")
        self.identity = json.loads(json.dumps(identity))

    def __enter__(self) -> Parts:
        try:
            self.folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise InputError(f"{self.folder}: cannot be written ({error.strerror}); choose another --out") from None
        lock(
            self.folder,
            f"{self.folder}: another process makes these features; wait for it, or choose another --out",
        )
        try:
            self._check()
        except BaseException:
            unlock(self.folder)
            raise
        return self

    def __exit__(self, *_: object) -> None:
        if self.folder.exists():
            unlock(self.folder)

    def _check(self) -> None:
        path = self.folder / MANIFEST
        if not path.exists():
            if any(self.folder.glob("*.safetensors")):
                raise InputError(f"{path}: is missing; remove {self.folder} and begin again")
            write_text(path, json.dumps(self.identity, indent=1) + "\n")
            return
        try:
            begun = json.loads(path.read_text(encoding="utf-8"))
            if not isinstance(begun, dict):
                raise ValueError("no JSON object")
        except (OSError, ValueError) as error:
            raise InputError(f"{path}: cannot be read ({shown(str(error))}); remove {self.folder}") from None
        for key in dict.fromkeys([*begun, *self.identity]):
            if begun.get(key) != self.identity.get(key):
                what = (
                    "the contents have changed since"
                    if key == "contents"
                    else (f"{key} was {_brief(begun.get(key))} and is now {_brief(self.identity.get(key))}")
                )
                raise InputError(
                    f"{self.folder}: these features were begun differently: {what}; remove the folder to begin again, "
                    "or choose another --out"
                )

    def path(self, number: int) -> Path:
        """The file of a part."""
        return self.folder / f"{number:06d}.safetensors"

    def write(self, number: int, vectors: np.ndarray, skipped: Mapping[int, str]) -> None:
        """Keep the vectors [n, width] of a part, NaN for missing rows, and {row of the part: why it was skipped}."""
        reasons = json.dumps({str(row): reason for row, reason in skipped.items()})
        tensors = {
            "vectors": torch.from_numpy(np.ascontiguousarray(vectors, np.float32)),
            "skipped": torch.frombuffer(bytearray(reasons.encode()), dtype=torch.uint8),
        }
        write_tensors(self.path(number), tensors, advice="free some space, then run the command again")

    def read(self, number: int, shape: tuple[int, int]) -> tuple[np.ndarray, dict[int, str]]:
        """The inverse of `write`. Raises InputError if the file is damaged."""
        from safetensors import SafetensorError
        from safetensors.numpy import load_file

        path = self.path(number)
        try:
            tensors = load_file(path)
            vectors, reasons = tensors["vectors"], json.loads(tensors["skipped"].tobytes())
            if vectors.shape != shape or vectors.dtype != np.float32:
                raise ValueError(f"{vectors.dtype} {vectors.shape} instead of float32 {shape}")
            return vectors, {int(row): str(reason) for row, reason in reasons.items()}
        except (SafetensorError, OSError, KeyError, ValueError, AttributeError) as error:
            raise InputError(f"{path}: is damaged ({shown(str(error), 100)}); remove this file and run again") from None

    def remove(self) -> None:
        """Remove the folder, after the result has been written."""
        unlock(self.folder)
        shutil.rmtree(self.folder, ignore_errors=True)


def _brief(value: Any) -> str:
    text = json.dumps(value, ensure_ascii=False)
    return text if len(text) <= 120 else text[:119] + "…"
