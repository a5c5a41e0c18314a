"""The examples in the docstrings of mmssl_fast run, and every public name has one."""

import doctest
import importlib
import inspect
import pkgutil
import re
from pathlib import Path

import pytest
import torch
import torch.nn.functional as F

import mmssl_fast
import mmssl_fast.nn
import mmssl_fast.relation

MODULES = [
    name
    for _, name, _ in pkgutil.walk_packages(mmssl_fast.__path__, "mmssl_fast.")
    if not name.startswith(("mmssl_fast.kernels", "mmssl_fast._C"))  # no examples, and kernels/ needs triton
    and ">>> " in inspect.getsource(importlib.import_module(name))
]
# What a reader of the documentation has imported.
PUBLIC = {
    name: getattr(package, name)
    for package in (mmssl_fast, mmssl_fast.nn, mmssl_fast.relation)
    for name in package.__all__
    if not name.startswith("__")
}


@pytest.mark.parametrize("name", MODULES)
def test_examples(name):
    """doctest reports the name of the function whose example fails."""
    module = importlib.import_module(name)
    runner, report = doctest.DocTestRunner(optionflags=doctest.NORMALIZE_WHITESPACE), []
    for docstring in doctest.DocTestFinder().find(module, globs=PUBLIC | {"torch": torch, "F": F} | vars(module)):
        torch.manual_seed(0)
        runner.run(docstring, out=report.append)
    assert runner.tries and not runner.failures, "".join(report)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_has_an_example(name):
    """A class may have its examples in its methods."""
    docstrings = doctest.DocTestFinder().find(PUBLIC[name], name, globs={})
    assert any(docstring.examples for docstring in docstrings), f"{name}: no example in its docstring"


@pytest.mark.parametrize("name", PUBLIC)
def test_public_name_is_in_the_api_reference(name):
    pages = (Path(__file__).resolve().parent.parent / "docs" / "api").glob("*.md")
    directive = re.compile(rf"^\.\. auto(class|function):: ([\w.]+\.)?{name}$", re.MULTILINE)
    assert any(directive.search(page.read_text()) for page in pages), f"{name}: not in docs/api"
