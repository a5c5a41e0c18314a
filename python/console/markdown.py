"""Tables for a Markdown file."""

from __future__ import annotations


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A pipe table; the first column on the left, the others on the right."""
    lines = ["| " + " | ".join(row) + " |" for row in [columns, *rows]]
    lines.insert(1, "|---" + "|---:" * (len(columns) - 1) + "|")
    return "\n".join(lines)
