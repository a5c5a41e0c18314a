"""What features text, image and audio share: options, the progress bar, and what is printed."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

Source = Annotated[Path, typer.Argument(help="Table, DuckDB or SQLite database, or folder of files.")]
Out = Annotated[Path, typer.Option(help="File to write, .parquet or .safetensors, such as <modality>_feat.parquet.")]
ItemColumn = Annotated[str, typer.Option(help="Column with the item ids.")]
Root = Annotated[
    Path | None,
    typer.Option(help="Folder that the paths in the column are relative to. [default: the folder of the table]"),
]
Sep = Annotated[str, typer.Option(help="Separator of a text table, one character. [default: detected]")]
Query = Annotated[str, typer.Option(help="SELECT statement to run on a DuckDB or SQLite database.")]
Batch = Annotated[int, typer.Option(help="Inputs that the model gets at a time.")]
Device = Annotated[str, typer.Option(help="Device of the model: cpu, cuda, cuda:1.")]
Dtype = Annotated[str, typer.Option(help="Dtype of the features in the file: float32 or float16.")]
Output = Annotated[str, typer.Option(help=".onnx: name of the output, if the model has several.")]
Download = Annotated[
    bool, typer.Option("--download", help="Download the model from the Hugging Face hub if it is not on the disk.")
]


def make(kind: str, *arguments: Any, **options: Any) -> None:
    """Make the features and print what was made and skipped."""
    from .. import make_features
    from ..console import output
    from ..console.progress import CountProgress

    with CountProgress(f"features of {kind}") as progress:
        made = make_features(kind, *arguments, progress=progress, **options)
    if made.resumed:
        output.OUT.print(f"continued: {made.resumed:,} of {made.items:,} items were already made", markup=False)
    output.OUT.print(f"{made.path}: {made.items:,} items, {made.width:,} columns", markup=False)
    if made.missing:
        output.OUT.print(f"note: {made.missing:,} items have no content; their features are missing", markup=False)
    if made.skipped:
        item, reason = next(iter(made.skipped.items()))
        output.OUT.print(
            f"note: {len(made.skipped):,} contents were skipped, such as that of {item}: {reason}; {made.skipped_file} "
            "lists them",
            markup=False,
        )
