"""Writes the reference of the command line from `--help` when the documentation is built."""

from __future__ import annotations

from configuration_reference import write_page
from mmssl_trainer.cli.app import app
from sphinx.errors import ExtensionError
from typer.testing import CliRunner


def commands_page() -> str:
    """The help of every command, in the order of `mmssl-fast --help`."""
    lines: list[str] = []
    for words in command_names():
        result = CliRunner(env={"COLUMNS": "96"}).invoke(app, [*words, "--help"], prog_name="mmssl-fast")
        if result.exit_code:
            raise ExtensionError(f"mmssl-fast {' '.join(words)} --help failed: {result.output}")
        lines += ["", f"## `{' '.join(words)}`", "", "```text", result.output.strip(), "```"]
    return "\n".join(lines) + "\n"


def command_names() -> list[list[str]]:
    """The words of every command, such as ["data", "check"]."""
    names = [[command.name or command.callback.__name__] for command in app.registered_commands]
    for group in app.registered_groups:
        names += [[group.name, command.name] for command in group.typer_instance.registered_commands]
    return names


def setup(app):
    app.connect("builder-inited", lambda app: write_page(app, "commands.md", commands_page()))
    return {"parallel_read_safe": True}
