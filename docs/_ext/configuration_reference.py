"""Writes the configuration reference from the code when the documentation is built."""

from __future__ import annotations

from pathlib import Path

from mmssl_trainer.config.sections import Config
from mmssl_trainer.config.toml import to_toml
from sphinx.errors import ExtensionError


def configuration_page() -> str:
    """Every section of the configuration as a table: key, default, and the comment that config.toml has above it."""
    lines: list[str] = []
    comment: list[str] = []
    for line in to_toml(Config()).splitlines():
        if line.startswith("["):
            lines += ["", f"## `{line}`", "", "| key | default | meaning |", "|---|---|---|"]
        elif line.startswith("#"):
            comment.append(line.lstrip("# "))
            continue
        elif line:
            key, equals, default = line.partition(" = ")
            if not equals:
                raise ExtensionError(f"the configuration has a line that is neither comment, section nor key: {line!r}")
            meaning = " ".join(comment).replace("|", "\\|")
            lines.append(f"| `{key}` | `{default}` | {meaning} |")
        comment = []
    return "\n".join(lines) + "\n"


def write_page(app, name: str, text: str) -> None:
    """Write a file to docs/_generated, from which a page includes it."""
    target = Path(app.srcdir) / "_generated" / name
    target.parent.mkdir(exist_ok=True)
    if not target.exists() or target.read_text() != text:  # a newer file would be read again at every build
        target.write_text(text)


def setup(app):
    app.connect("builder-inited", lambda app: write_page(app, "configuration.md", configuration_page()))
    return {"parallel_read_safe": True}
