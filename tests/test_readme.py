"""The README's Python runs as printed, and the commands it shows exist."""

import re
from pathlib import Path

import pytest

README = Path(__file__).resolve().parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n(.*?)```", README.read_text(encoding="utf-8"), flags=re.S)


@pytest.mark.parametrize("code", BLOCKS, ids=range(len(BLOCKS)))
def test_readme_python_runs(code):
    exec(compile(code, str(README), "exec"), {})


def test_readme_has_python():
    assert BLOCKS


def test_readme_commands_exist():
    from mmssl_trainer.cli.app import app
    from typer.main import get_command

    known = set(get_command(app).commands)
    named = set(re.findall(r"mmssl-fast (\w+)", README.read_text(encoding="utf-8")))
    assert named and named <= known, f"README names {sorted(named - known)}"
