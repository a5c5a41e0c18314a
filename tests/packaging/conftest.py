"""Fixtures of the tests of packaging."""

import importlib

import pytest
from child_processes import ROOT


@pytest.fixture
def backend(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("MMSSL_FAST_CUDA", raising=False)
    return importlib.import_module("_build.backend")
