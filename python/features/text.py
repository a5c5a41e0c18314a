"""Texts, by a model of sentence-transformers: its own, or any encoder of transformers with mean pooling."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError
from .encoders import check_batch, digest_of, from_hub, library, named, refuse_model, versions

PACKAGES = ("sentence-transformers", "transformers", "tokenizers", "torch")


class TextEncoder:
    """`SentenceTransformer.encode`. What is longer than the model reads (max_seq_length tokens) is cut off."""

    part_rows = 512  # sentence-transformers sorts them by length, so that a batch has little padding

    def __init__(self, model: Any, batch: int, identity: dict[str, Any]) -> None:
        self.model, self.batch, self.identity = model, batch, identity
        self.width = int(model.encode(["width"], show_progress_bar=False).shape[1])

    def load(self, content: str) -> str:
        return content

    def encode(self, inputs: Sequence[str]) -> np.ndarray:
        return self.model.encode(list(inputs), batch_size=self.batch, show_progress_bar=False, convert_to_numpy=True)


def text_encoder(model: str | Path, *, batch: int = 32, device: str = "cpu", download: bool = False) -> TextEncoder:
    """The encoder of a folder or a name of sentence-transformers. A name is found in the cache of Hugging Face's
    libraries, or with download on the hub. Code that comes with a model is not run."""
    check_batch(batch)
    sentence_transformers = library("sentence_transformers", "text")
    _quiet()
    try:
        with from_hub(download):
            loaded = sentence_transformers.SentenceTransformer(
                str(model), device=device, local_files_only=not download, trust_remote_code=False
            )
    except (OSError, ValueError, RuntimeError, KeyError, ImportError) as error:
        raise refuse_model(model, error, download) from None
    path = Path(model)
    identity = {"model": named(model), "digest": digest_of(path) if path.exists() else "", "batch": batch}
    try:
        return TextEncoder(loaded.eval(), batch, identity | {"versions": versions(*PACKAGES)})
    except AttributeError as error:
        raise InputError(f"{model}: is not a model of texts ({error})") from None


def _quiet() -> None:
    """Without the progress bar for loading weights: the command has its own."""
    library("transformers", "text").utils.logging.disable_progress_bar()
