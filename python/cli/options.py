"""Command-line options that several commands share, and the configuration that a command's options result in."""

from __future__ import annotations

import functools
import inspect
import tomllib
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, NamedTuple

import typer

from ..config.names import LAYOUTS, SYSTEMS
from ..errors import InputError, shown

if TYPE_CHECKING:
    from .. import Config, Dataset

Flags = dict[str, tuple[Any, str]]  # "section.key" → (value or None, name of the option)


class ConfigKeyOption(NamedTuple):
    """An option that sets one key of the configuration."""

    key: str
    kind: Any
    help: str


def _text(key: str, text: str) -> ConfigKeyOption:
    return ConfigKeyOption(key, str | None, text)


# By parameter name: min_rating is the option --min-rating. Not given, an option leaves its key as it is.
CONFIG_KEY_OPTIONS = {
    "data": _text("data.path", "Folder with the data. [default: the built-in synthetic data set]"),
    "layout": _text("data.layout", f"Layout of the data folder: {', '.join(LAYOUTS)}. [default: auto]"),
    "interactions": _text("data.interactions", "Interaction table to read. [default: the default file of the layout]"),
    "split_column": _text("data.split_column", "Column that contains train, val or test. [default: split]"),
    "split": _text(
        "data.split",
        "auto: the split that comes with the data, otherwise random; random: each user's interactions are split 8:1:1 "
        "at random; time: the most recent interactions overall are held out; last: the most recent interactions of "
        "each user are held out. [default: auto]",
    ),
    "split_dates": _text(
        "data.split_dates",
        "When validation and testing begin, for --split time: two dates or two numbers such as 2016-03-22,2017-05-08. "
        "[default: the most recent tenths]",
    ),
    "min_rating": ConfigKeyOption(
        "data.min_rating", float | None, "Lowest rating that counts as an interaction. [default: every row counts]"
    ),
    "min_interactions": ConfigKeyOption(
        "data.min_interactions",
        int | None,
        "Remove users and items with fewer interactions, repeatedly (k-core), before the split. [default: 1]",
    ),
    "user_column": _text("data.user_column", "Column with the user ids. [default: user]"),
    "item_column": _text("data.item_column", "Column with the item ids. [default: item]"),
    "time_column": _text("data.time_column", "Column with the times. [default: timestamp]"),
    "rating_column": _text("data.rating_column", "Column with the ratings. [default: rating]"),
    "weight_column": _text(
        "data.weight_column",
        "Column with the weights of the interactions. [default: every interaction counts the same]",
    ),
    "sep": _text("data.sep", "Separator of a text table, one character. [default: detected]"),
    "query": _text("data.query", "SELECT statement to run on the DuckDB or SQLite database given by --interactions."),
    "missing_features": _text(
        "data.missing_features",
        "What becomes of an item without a row in a feature file with ids: refuse it, train without these features "
        "(mask), or give it the mean of the other rows (mean). [default: refuse]",
    ),
    "modality": ConfigKeyOption(
        "data.modalities", list[str] | None, "Modality to read. May be given several times. [default: all]"
    ),
    "split_seed": ConfigKeyOption("data.split_seed", int | None, "Seed of the random split. [default: 0]"),
    "system": _text("model.system", f"System to train: {', '.join(SYSTEMS)}. [default: mmssl]"),
    "device": _text("train.device", "Device to train on: cpu, cuda, cuda:1. [default: cpu]"),
    "threads": ConfigKeyOption(
        "train.threads",
        int | None,
        "Number of CPU threads of a process. [default: OMP_NUM_THREADS if set, otherwise the available processors, or "
        "fewer if some are busy]",
    ),
}
DATA_OPTIONS = (
    *("data", "layout", "interactions", "query", "user_column", "item_column", "time_column", "rating_column", "sep"),
    *("weight_column", "split_column", "split", "split_dates", "min_rating", "min_interactions", "missing_features"),
)
READ_OPTIONS = (*DATA_OPTIONS[1:], "modality", "split_seed")  # of commands whose argument is the data

ConfigOption = Annotated[Path | None, typer.Option(help="Configuration file (TOML). It overrides the preset.")]
EpochsOption = Annotated[int | None, typer.Option(min=1, help="Maximum number of epochs of a run.")]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of a table.")]
RunPath = Annotated[
    Path, typer.Argument(metavar="RUN", help="Folder that train has written, or its model.safetensors.")
]
RanksOption = Annotated[
    int | None,
    typer.Option(
        "--ranks",
        metavar="N",
        help="Number of processes on this machine that share the work. [default: 1]",
        show_default=False,
    ),
]
NewItemsOption = Annotated[
    list[str] | None,
    typer.Option(
        "--new-items",
        metavar="[MODALITY=]FILE",
        help="Feature file, with ids, of items that were not in the training data, or a folder of such files. They "
        "are ranked together with the other items. May be given several times.",
    ),
]
NearestOption = Annotated[
    int,
    typer.Option(
        "--nearest",
        help="Number of nearest known items by features. The mean of their collaborative parts becomes that of a "
        "new item (docs/serving.md). 0: no collaborative part.",
    ),
]
SpreadOption = Annotated[
    float,
    typer.Option(
        "--spread",
        help="Spread of the scores of new items, as a multiple of that of known items. With less than 1, they get "
        "fewer places in the lists (docs/serving.md).",
    ),
]
ShowOption = Annotated[
    list[str] | None,
    typer.Option(
        "--show",
        metavar="COLUMN",
        help="Column of --items, such as title, to show for every item. May be given several times.",
    ),
]
SetOption = Annotated[
    list[str] | None,
    typer.Option(
        "--set", metavar="SECTION.KEY=VALUE", help="Set any key of the configuration. May be given several times."
    ),
]


def config_key_options(*names: str) -> Callable[[Callable[..., None]], Callable[..., None]]:
    """Decorator: give a command these CONFIG_KEY_OPTIONS in place of its parameter `flags`, which receives their
    values."""

    def decorate(command: Callable[..., None]) -> Callable[..., None]:
        @functools.wraps(command)
        def wrapper(**arguments: Any) -> None:
            flags = {CONFIG_KEY_OPTIONS[name].key: (arguments.pop(name), _flag(name)) for name in names}
            command(flags=flags, **arguments)

        # typer reads the options of a command from its signature.
        signature = inspect.signature(command, eval_str=True)
        parameters = []
        for parameter in signature.parameters.values():
            by_keyword = parameter.replace(kind=inspect.Parameter.KEYWORD_ONLY)
            parameters += [_parameter(name) for name in names] if parameter.name == "flags" else [by_keyword]
        wrapper.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
        return wrapper

    return decorate


def _flag(name: str) -> str:
    return f"--{name.replace('_', '-')}"


def _parameter(name: str) -> inspect.Parameter:
    option = CONFIG_KEY_OPTIONS[name]
    annotation = Annotated[option.kind, typer.Option(_flag(name), help=option.help, show_default=False)]  # type: ignore[name-defined]
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=annotation)


def configuration(
    path: Path | None, flags: Flags, settings: list[str] | None = None, preset: str | Path | None = None
) -> Config:
    """The configuration that results from a preset, a file, the options and --set. Later ones override earlier ones."""
    from .. import configure

    values, sources = merged(flags, settings)
    return configure(values, preset=preset, file=path, sources=sources)


def merged(flags: Flags, settings: list[str] | None = None) -> tuple[dict[str, Any], dict[str, str]]:
    """({"section.key": value}, {"section.key": the option it comes from}) of the options and --set."""
    overrides = {name: (value, flag) for name, (value, flag) in flags.items() if value is not None}
    for assignment in settings or []:
        name, value = parse_set(assignment)
        if name in overrides and overrides[name][0] != value:
            raise InputError(f"--set {name} and {overrides[name][1]} have different values; give only one of them")
        overrides[name] = (value, "--set")
    return {name: value for name, (value, _) in overrides.items()}, {
        name: flag for name, (_, flag) in overrides.items()
    }


def parse_set(assignment: str) -> tuple[str, Any]:
    """Parse "section.key=value" into ("section.key", value). The value is parsed as TOML, or else taken as a string."""
    name, equals, text = assignment.partition("=")
    if not equals or not name.strip():
        raise InputError(f"--set {shown(assignment)}: write --set section.key=value")
    try:
        table = tomllib.loads(f"value = {text.strip()}")
        value = table["value"] if list(table) == ["value"] else text
    except tomllib.TOMLDecodeError:
        value = text
    return name.strip(), value


def shown_columns(show: list[str] | None, items: Path | None, taken: Sequence[str]) -> list[str]:
    """The different columns of --show. Raises InputError without --items, and for a name that the output has."""
    columns = list(dict.fromkeys(show or []))
    if columns and items is None:
        raise InputError("--show is about columns of the table --items; give both")
    for name in columns:
        if name in taken:
            raise InputError(f"--show {shown(name)}: the output has a column of this name already; choose another one")
    return columns


def written(folder: Path, data: Dataset) -> None:
    """Print what a command has written to a folder of data, and the notes."""
    from ..console import output

    pairs = data.train.nnz + data.val.nnz + data.test.nnz
    output.OUT.print(
        f"{folder}: {data.n_users:,} users, {data.n_items:,} items, {pairs:,} interactions, features: "
        f"{', '.join(data.modalities) or 'none'}",
        markup=False,
    )
    for note in data.notes:
        output.OUT.print(f"note: {note}", markup=False)
