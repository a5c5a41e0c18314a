"""Fixtures of the tests of systems."""

import pytest
from mmssl_trainer.data import synthetic


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=150, n_items=100, modalities={"image": 8, "text": 6}, mean_degree=16)
