"""Every source file says in its first lines what it is for, and is small or says there why it is not."""

import ast
import re

import pytest
from child_processes import ROOT

FOLDERS = ("mmssl_fast", "kernels", "python", "csrc", "tests", "benchmarks", "examples", "docs", "_build", ".ci")
LONGEST = 400
SOURCES = [
    path.relative_to(ROOT)
    for folder in FOLDERS
    for path in sorted((ROOT / folder).rglob("*.*"))
    if path.suffix in (".py", ".cpp", ".cu", ".h", ".cuh", ".js", ".css", ".html") and "_generated" not in path.parts
]


def says_why(text):
    return bool(re.search(r"over 400 lines|longer than others", text[:2500]))


def test_files_are_short_or_say_why_not():
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in SOURCES}
    long = [path for path, text in texts.items() if text.count("\n") > LONGEST]
    assert len(SOURCES) > 500
    assert [str(path) for path in long if "tests" in path.parts or not says_why(texts[path])] == []


@pytest.mark.parametrize("folder", FOLDERS)
def test_modules_say_what_they_are_for(folder):
    modules = [path for path in SOURCES if path.parts[0] == folder and path.suffix == ".py"]
    silent = [path for path in modules if not ast.get_docstring(ast.parse((ROOT / path).read_text(encoding="utf-8")))]
    assert [str(path) for path in silent if path.name != "conftest.py"] == []


def test_the_formatter_decides_the_format():
    texts = {path: (ROOT / path).read_text(encoding="utf-8") for path in SOURCES if path.suffix == ".py"}
    marks = re.compile("# fmt: " + "(skip|off)")
    assert [str(path) for path, text in texts.items() if marks.search(text)] == []
