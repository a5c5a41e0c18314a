"""Options that several commands take, and the configuration that a command's options make."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from ..config.names import LAYOUTS
from ..errors import InputError

DataOption = Annotated[str | None, typer.Option(help="Folder with the data; without it the embedded catalogue.")]
LayoutOption = Annotated[str | None, typer.Option(help=f"{', '.join(LAYOUTS[:-1])} or {LAYOUTS[-1]}.")]
ConfigOption = Annotated[Path | None, typer.Option(help="Configuration in TOML.")]
DeviceOption = Annotated[str | None, typer.Option(help="cpu, cuda or cuda:1.")]
ThreadsOption = Annotated[int | None, typer.Option(help="CPU threads; 0: OMP_NUM_THREADS or the free processors.")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="At most so many epochs a run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunPath = Annotated[Path, typer.Argument(metavar="RUN", help="The folder that train wrote, or its model.safetensors.")]
SetOption = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Any key of the configuration; may be repeated."),
]


def configuration(
    path: Path | None, flags: dict[str, tuple[Any, str]], settings: list[str], preset: Path | None = None
):
    """What a preset, a file, the options and --set make, the later over the earlier."""
    from ..config.load import load, parse_set

    overrides = {name: (value, flag) for name, (value, flag) in flags.items() if value is not None}
    for assignment in settings:
        name, value = parse_set(assignment)
        if name in overrides and overrides[name][0] != value:
            raise InputError(f"--set {name} and {overrides[name][1]} say different things; give one of them")
        overrides[name] = (value, "--set")
    return load(path, overrides, preset)


def resolved(config):
    """With the data's own place, and fitted for itself alone."""
    from ..config.sections import SYNTHETIC

    if config.data.path != SYNTHETIC:
        config = config.changed("data", path=str(Path(config.data.path).resolve()))
    return config.changed("train", compare="no")
