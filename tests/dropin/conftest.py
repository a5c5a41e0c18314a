"""Fixtures of the drop-ins' tests: sparse products that are counted or always taken, the released code accelerated."""

import pytest
from dropin_clients import released

from mmssl_fast.dropin import hkuds, sparse
from mmssl_fast.dropin.sparse import cost, decide


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(decide, "_told", set())
    sparse.reset_report()
    yield
    sparse.reset_report()


@pytest.fixture
def small_ones_pay(monkeypatch):
    """Every product gains and preparing is cheap, so that matrices of a few entries are taken."""
    monkeypatch.setattr(cost, "gain", lambda *args, **kwargs: 1e9)


class Taken:
    """``len(taken)``: the number of products that were accelerated since the test began; its truth: whether any was."""

    def __init__(self) -> None:
        self.before = sparse.report().taken

    def __len__(self) -> int:
        return sparse.report().taken - self.before


@pytest.fixture
def taken(fresh):
    return Taken()


@pytest.fixture
def accelerated():
    """``accelerated("test_torch", …)``: these parts (default: all) until the test ends."""
    done = []

    def accelerate(*parts, **options):
        done.append(hkuds.accelerate(released, *([parts] if parts else []), **options))
        return done[-1]

    yield accelerate
    for report in done[::-1]:
        report.restore()
