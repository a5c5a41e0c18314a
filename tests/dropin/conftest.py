"""Fixtures of the drop-ins' tests: sparse products that are counted or always taken, the released code accelerated."""

import pytest
from dropin_clients import released

from mmssl_fast.dropin import hkuds, sparse
from mmssl_fast.dropin.sparse import Adjacency, cost, decide


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


@pytest.fixture
def taken(monkeypatch):
    """The products that ran on propagate, by the shape of their dense factor."""
    calls, real = [], Adjacency.mm
    monkeypatch.setattr(Adjacency, "mm", lambda self, x: calls.append(x.shape) or real(self, x))
    return calls


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
