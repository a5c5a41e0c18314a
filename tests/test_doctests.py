"""The examples in the docstrings of mmssl_fast run. Every public name of both packages has one, and an entry in the API
reference. tests/test_api.py runs the examples of mmssl_trainer."""

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


PACKAGES = [
    *("mmssl_fast", "mmssl_fast.nn", "mmssl_fast.relation", "mmssl_fast.distributed", "mmssl_trainer"),
    *("mmssl_fast.dropin.sparse", "mmssl_fast.dropin.hkuds", "mmssl_fast.dropin.layers", "mmssl_fast.dropin.losses"),
    *("mmssl_fast.dropin.lightgcn_pytorch", "mmssl_fast.dropin.mmrec", "mmssl_fast.dropin.recbole"),
    "mmssl_fast.dropin.pyg",
]
# Their example needs somebody else's program. The docstring has the lines to add to it.
CLIENTS = {f"mmssl_fast.dropin.{name}" for name in ("hkuds", "lightgcn_pytorch", "mmrec", "recbole")}


def public(package):
    """{name: class or function} of __all__, or else of what the module defines."""
    module = importlib.import_module(package)
    own = [name for name, value in vars(module).items() if getattr(value, "__module__", "") == package]
    names = getattr(module, "__all__", [name for name in own if not name.startswith("_")])
    return {name: getattr(module, name) for name in names if callable(getattr(module, name))}


NAMES = [(package, name) for package in PACKAGES for name in public(package)]


@pytest.mark.parametrize(("package", "name"), NAMES)
def test_public_name_has_an_example(package, name):
    """A class may have its examples in its methods."""
    value = public(package)[name]
    if package in CLIENTS and name == "accelerate":
        assert re.search(r"    from mmssl_fast.dropin import .*\n(?: .*\n)* +.*\baccelerate\(", value.__doc__)
        return
    docstrings = doctest.DocTestFinder().find(value, name, globs={})
    assert any(docstring.examples for docstring in docstrings), f"{package}.{name}: no example in its docstring"


def reference():
    """The names that docs/api documents, as written and in the module that they are in."""
    entries = set()
    for page in (Path(__file__).resolve().parent.parent / "docs" / "api").glob("*.md"):
        module = ""
        for kind, target in re.findall(r"^\.\. (currentmodule|auto\w+):: ([\w.]+)$", page.read_text(), re.MULTILINE):
            if kind == "currentmodule":
                module = target
            elif kind == "automodule":
                entries |= {(target, name) for name in public(target)}
            else:
                package, _, name = target.rpartition(".")
                entries.add((package or module, name))
    return entries


def test_public_names_are_in_the_api_reference():
    """By the same object under any of the names that it is imported by."""
    documented = [getattr(importlib.import_module(module), name, None) for module, name in reference()]
    missing = [f"{package}.{name}" for package, name in NAMES if public(package)[name] not in documented]
    assert len(NAMES) > 100 and not missing
