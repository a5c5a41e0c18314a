"""The command line: all commands, in the order in which --help lists them.

Each command imports torch, and modules that need it, only when it runs, so that --help does not wait for torch.
"""

from __future__ import annotations

import os
from importlib.metadata import version as installed_version
from typing import Annotated

import typer

from ..errors import InputError
from .benchmark import benchmark
from .compare import compare
from .data_check import data_check
from .data_convert import data_convert
from .data_prepare import data_prepare
from .doctor import doctor
from .evaluate import evaluate
from .export import export
from .features_audio import features_audio
from .features_image import features_image
from .features_text import features_text
from .recommend import recommend
from .report import report
from .reproduce import reproduce
from .serve import serve
from .similar import similar
from .train import train
from .tune import tune

app = typer.Typer(
    help="Train, evaluate and use multi-modal self-supervised recommendation (MMSSL).",
    add_completion=False,
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)
data_app = typer.Typer(help="Check, convert or prepare data.")
features_app = typer.Typer(help="Make feature files from texts, images or recordings.")


@app.callback(invoke_without_command=True)
def mmssl_fast(
    context: typer.Context,
    version: Annotated[bool, typer.Option("--version", help="Print the version and exit.")] = False,
) -> None:
    refuse_several_processes(context.invoked_subcommand)
    if version:
        print(f"mmssl-fast {installed_version('mmssl_fast')}")
        raise typer.Exit
    help_without_command(context)


OVER_RANKS = ("train", "evaluate", "recommend")


def refuse_several_processes(command: str | None) -> None:
    """Raise InputError if torchrun has started several processes for a command that works with one only."""
    if int(os.environ.get("WORLD_SIZE") or 1) > 1 and command not in OVER_RANKS:
        raise InputError(
            f"mmssl-fast {command or ''} works with one process only; leave out torchrun, which is for "
            f"{', '.join(OVER_RANKS)}"
        )


@data_app.callback(invoke_without_command=True)
@features_app.callback(invoke_without_command=True)
def help_without_command(context: typer.Context) -> None:
    if context.invoked_subcommand is None:
        print(context.get_help())


for command in (train, evaluate, compare, recommend, similar, export, serve):
    app.command()(command)
app.add_typer(data_app, name="data")
data_app.command("check")(data_check)
data_app.command("convert")(data_convert)
data_app.command("prepare")(data_prepare)
app.add_typer(features_app, name="features")
features_app.command("text")(features_text)
features_app.command("image")(features_image)
features_app.command("audio")(features_audio)
app.command()(doctor)
app.command(context_settings={"allow_extra_args": True, "ignore_unknown_options": True})(benchmark)
for command in (reproduce, report, tune):
    app.command()(command)
