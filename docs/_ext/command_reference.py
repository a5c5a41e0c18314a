"""Writes the reference of the command line from the commands' own help when the documentation is built."""

from __future__ import annotations

import re
from typing import Any

from configuration_reference import write_page
from mmssl_trainer.cli.app import app
from typer.main import get_command

OPTION = re.compile(r"(?<!\w)--[a-z][a-z-]*")
SPECIAL = re.compile(r"([\\`*_\[\]<>|$])")


def commands_page() -> str:
    """Usage, description and options of every command, in the order of `mmssl-fast --help`.

    Lists of terms instead of the text of --help, so that they fit a phone.
    """
    lines: list[str] = []
    for words, command in commands(get_command(app)):
        context = command.make_context(f"mmssl-fast {words}", [], resilient_parsing=True)
        usage = " ".join([context.command_path, *command.collect_usage_pieces(context)])
        lines += ["", f"## `{words}`", "", "```text", usage, "```", "", prose(command.help or "")]
        for parameter in command.params:
            if record := described(parameter, context):
                lines += ["", f"`{record[0]}`", f": {prose(record[1])}"]
    return "\n".join(lines) + "\n"


def commands(group: Any, above: str = "") -> list[tuple[str, Any]]:
    """(words such as "data check", command) of every command."""
    found = []
    for name, command in group.commands.items():
        words = f"{above} {name}".strip()
        found += commands(command, words) if hasattr(command, "commands") else [(words, command)]
    return found


def described(parameter: Any, context: Any) -> tuple[str, str] | None:
    """(name or options, help) of an argument or option; None for --help."""
    record = parameter.get_help_record(context)
    return None if record is None or parameter.name == "help" else record


def prose(text: str) -> str:
    """Plain text as Markdown, with options as code."""
    parts = OPTION.split(" ".join(text.split()))
    options = [f"`{option}`" for option in OPTION.findall(text)]
    escaped = [SPECIAL.sub(r"\\\1", part) for part in parts]
    return "".join(part for pair in zip(escaped, [*options, ""], strict=True) for part in pair)


def setup(app):
    app.connect("builder-inited", lambda app: write_page(app, "commands.md", commands_page()))
    return {"parallel_read_safe": True}
