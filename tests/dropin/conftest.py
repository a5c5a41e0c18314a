"""Fixtures of the sparse drop-in's tests: no matrices from other tests, products that are counted, small ones taken."""

import pytest

from mmssl_fast.dropin import sparse, sparse_matrices
from mmssl_fast.dropin.adjacency import Adjacency


@pytest.fixture
def fresh(monkeypatch):
    monkeypatch.setattr(sparse, "_told", set())
    sparse.reset_report()
    yield
    sparse.reset_report()


@pytest.fixture
def small_ones_pay(monkeypatch):
    """Every product gains and preparing is cheap, so that matrices of a few entries are taken."""
    monkeypatch.setattr(sparse_matrices.sparse_cost, "gain", lambda *args, **kwargs: 1e9)


@pytest.fixture
def taken(monkeypatch):
    """The products that ran on propagate, by the shape of their dense factor."""
    calls, real = [], Adjacency.mm
    monkeypatch.setattr(Adjacency, "mm", lambda self, x: calls.append(x.shape) or real(self, x))
    return calls
