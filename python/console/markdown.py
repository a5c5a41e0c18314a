"""Tables in Markdown."""

from __future__ import annotations


def markdown(columns: list[str], rows: list[list[str]]) -> str:
    """A pipe table. The first column is left-aligned, the others right-aligned."""
    lines = ["| " + " | ".join(row) + " |" for row in [columns, *rows]]
    lines.insert(1, "|---" + "|---:" * (len(columns) - 1) + "|")
    return "\n".join(lines)
