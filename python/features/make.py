"""make_features: from contents to a feature file, in parts that survive an interruption."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from ..errors import InputError, first_line, shown
from .contents import Contents, Where, read_contents
from .encoders import Encoder, Unusable
from .output import check_out, write_features, write_skipped
from .parts import Parts

KINDS = ("text", "image", "audio")
LARGEST_FLOAT16 = 65520  # from here on, rounding gives infinity


@dataclass(frozen=True)
class MadeFeatures:
    """A feature file that was written.

    path: the file. items, width: rows and columns. missing: items without content. skipped: {item: reason} of the
    contents that could not be used; their rows are missing, too. skipped_file: the list of these, None if there are
    none. resumed: items whose vectors an interrupted run had made.

    >>> import tempfile
    >>> class Lengths:  # an Encoder of its own: the number of characters
    ...     identity, width, part_rows = {"model": "lengths"}, 1, 64
    ...     def load(self, content):
    ...         return content
    ...     def encode(self, inputs):
    ...         return np.array([[len(text)] for text in inputs], np.float32)
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Path(folder) / "items.csv"
    ...     with open(table, "w") as file:
    ...         print("item,title", "a,Heat", "b,", sep=chr(10), file=file)
    ...     made = make_features("text", table, Path(folder) / "title_feat.parquet", Lengths(), columns=["title"])
    >>> made.items, made.width, made.missing
    (2, 1, 1)
    """

    path: Path
    items: int
    width: int
    missing: int
    skipped: dict[str, str]
    skipped_file: Path | None
    resumed: int


def make_features(
    kind: str,
    source: str | Path,
    out: str | Path,
    model: str | Path | Encoder,
    *,
    columns: Sequence[str] = (),
    item_column: str = "item",
    root: str | Path | None = None,
    sep: str = "",
    query: str = "",
    dtype: str = "float32",
    progress: Callable[[int, int], None] | None = None,
    **settings: Any,
) -> MadeFeatures:
    """Make a feature file from raw contents, which `train` reads as <modality>_feat, and `recommend` as new items.

    kind: "text", "image" or "audio". source: a table (CSV, Parquet), a DuckDB or SQLite database, or a folder of files,
    whose ids are their names without the extension. out: a .parquet or .safetensors file, which must not exist.
    model: a path or name, as docs/features.md says, or an object with the methods of `features.encoders.Encoder`.
    columns: of the texts, joined by ". ", or one of paths relative to `root` (default: the folder of the table).
    item_column, sep, query: as in `load_data`. dtype: "float32" or "float16". progress: called with (items done, all
    items). settings: arguments of the encoder: batch, device, download; for images weights, size, mean, std, output;
    for audio rate, seconds, output.

    Items without content get a missing row, and so do contents that cannot be used, which OUT.skipped.csv lists with
    the reason. If the process is killed, the same call goes on where it was, and the file has the same bytes. Raises
    InputError for arguments that cannot be used, and if no content at all can be.

    >>> made = make_features("text", "items.csv", "text_feat.parquet", "minilm", columns=["title"])  # doctest: +SKIP
    """
    if kind not in KINDS:
        raise InputError(f"kind = {shown(kind)}: must be one of {', '.join(KINDS)}")
    out = Path(out)
    check_out(out, dtype)
    if isinstance(columns, str):
        raise InputError(f"columns = {shown(columns)}: give a list of columns, such as [{shown(columns)}]")
    if settings and not isinstance(model, str | Path):
        raise InputError(f"{next(iter(settings))}: is for a model given by path or name; set it in the encoder")
    where = Where(Path(source), tuple(columns), item_column, None if root is None else Path(root), sep, query)
    contents = read_contents(where, files=kind != "text")
    encoder = _encoder(kind, model, settings) if isinstance(model, str | Path) else model
    identity = {
        "kind": kind,
        "width": encoder.width,
        **encoder.identity,
        "items": len(contents.ids),
        "part": encoder.part_rows,
        "contents": contents.fingerprint,
    }
    with Parts(out, identity) as parts:
        numbers = range(0, len(contents.ids), encoder.part_rows)
        sizes = [min(encoder.part_rows, len(contents.ids) - first) for first in numbers]
        resumed = done = sum(size for n, size in enumerate(sizes) if parts.path(n).exists())
        if progress:
            progress(done, len(contents.ids))
        for number, (first, size) in enumerate(zip(numbers, sizes, strict=True)):
            if not parts.path(number).exists():
                parts.write(number, *_encoded(encoder, contents.values[first : first + size]))
                done += size
                if progress:
                    progress(done, len(contents.ids))
        skipped: dict[int, str] = {}
        for number, (first, size) in enumerate(zip(numbers, sizes, strict=True)):
            vectors, reasons = parts.read(number, (size, encoder.width))
            if dtype == "float16":
                _check_float16(out, contents.ids[first : first + size], vectors)
            skipped |= {first + row: reason for row, reason in reasons.items()}
        missing = sum(value is None for value in contents.values)
        if missing + len(skipped) == len(contents.ids):
            row, reason = next(iter(skipped.items()), (0, "it has no content"))
            parts.remove()
            raise InputError(
                f"{source}: no item has a content that can be used, such as {shown(contents.ids[row])}: {reason}"
            )
        blocks = (parts.read(n, (size, encoder.width))[0] for n, size in enumerate(sizes))
        about = {"kind": kind, "columns": list(columns), **encoder.identity}
        skipped_file = out.with_name(f"{out.name}.skipped.csv") if skipped else None
        if skipped_file:
            write_skipped(skipped_file, (_line(contents, row, reason) for row, reason in skipped.items()))
        write_features(out, contents.ids, blocks, encoder.width, dtype, about)
        parts.remove()
    by_item = {contents.ids[row]: reason for row, reason in skipped.items()}
    return MadeFeatures(out, len(contents.ids), encoder.width, missing, by_item, skipped_file, resumed)


def _encoder(kind: str, model: str | Path, settings: dict[str, Any]) -> Encoder:
    """The libraries of one kind are imported only for it."""
    if kind == "text":
        from .text import text_encoder

        return text_encoder(model, **settings)
    if kind == "image":
        from .image import image_encoder

        return image_encoder(model, **settings)
    from .audio import audio_encoder

    return audio_encoder(model, **settings)


def _encoded(encoder: Encoder, values: Sequence[Any]) -> tuple[np.ndarray, dict[int, str]]:
    """(vectors [n, width], NaN where missing; {row: reason} of the contents that cannot be used)."""
    vectors = np.full((len(values), encoder.width), np.nan, np.float32)
    skipped, inputs = {}, {}
    for row, value in enumerate(values):
        if value is None:
            continue
        try:
            if isinstance(value, Unusable):
                raise value
            inputs[row] = encoder.load(value)
        except Unusable as error:
            skipped[row] = str(error)
    if inputs:
        rows = np.array(list(inputs))
        made = encoder.encode(list(inputs.values()))
        try:
            found = np.asarray(made, np.float32)
        except ValueError as error:  # texts, rows of different lengths
            raise InputError(f"the model does not return rows of numbers ({first_line(error)})") from None
        if found.shape != (len(rows), encoder.width):
            raise InputError(f"the model returned the shape {found.shape} instead of {(len(rows), encoder.width)}")
        finite = np.isfinite(found).all(1)
        vectors[rows[finite]] = found[finite]
        skipped |= dict.fromkeys(rows[~finite].tolist(), "the vector that the model returned is not finite")
    return vectors, dict(sorted(skipped.items()))


def _check_float16(out: Path, ids: Sequence[str], vectors: np.ndarray) -> None:
    """Raise InputError for a value that would become infinite in float16."""
    largest = np.abs(np.nan_to_num(vectors)).max(1)
    if len(large := np.flatnonzero(largest >= LARGEST_FLOAT16)):
        raise InputError(
            f"{out}: the features of {shown(ids[large[0]])} contain {largest[large[0]]:g}, but float16 ends at 65504; "
            "run again with --dtype float32, which keeps the vectors made so far"
        )


def _line(contents: Contents, row: int, reason: str) -> tuple[str, str, str]:
    value = contents.values[row]
    return contents.ids[row], "" if isinstance(value, Unusable) else str(value), reason
