"""benchmarks/libraries: the lines that a can_<library>.py prints, and the tables that table.py makes from them."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

LIBRARIES = Path(__file__).resolve().parents[1] / "benchmarks" / "libraries"
pytestmark = pytest.mark.source
PROGRAM = """
from checks import Checks
checks = Checks("json", "2")
"""


def python(*command):
    environment = os.environ | {"PYTHONPATH": str(LIBRARIES)}
    return subprocess.run([sys.executable, *command], capture_output=True, text=True, env=environment)


def run(tmp_path, body):
    path = tmp_path / "can_json.py"
    path.write_text(PROGRAM + body)
    return python(path)


def test_a_row_keeps_its_bars_and_its_evidence(tmp_path):
    body = """
@checks.can("k-core", "export(path, 'a' | 'b')")
def _():
    print("a message | of the library")
    return len([1])
checks.searched("diversity", "no_such_word|nor_this")
"""
    printed = tmp_path / "can_json.txt"
    printed.write_text(run(tmp_path, body).stdout)
    table = python(LIBRARIES / "table.py", printed)
    assert "| k-core | yes |\n" in table.stdout
    assert "| k-core | yes | run | `export(path, 'a' \\| 'b')` | 1 |\n" in table.stdout
    assert "| diversity | no | search | `grep -ri 'no_such_word\\|nor_this'` |  |\n" in table.stdout


def test_an_import_is_no_run(tmp_path):
    body = "\n@checks.can('k-core', 'json.tool')\ndef _():\n    import json.tool\n"
    ended = run(tmp_path, body)
    assert ended.returncode and "k-core: calls nothing; use exists" in ended.stderr
    assert "k-core\tyes\timport\tjson.tool\t\n" in run(tmp_path, body.replace("checks.can", "checks.exists")).stdout
