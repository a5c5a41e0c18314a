"""Fixtures of the tests of training."""

import pytest
from checkpoint_runs import catalogue
from mmssl_trainer.data import synthetic


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=60, n_items=40, modalities={"image": 8, "text": 6})


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return catalogue(tmp_path_factory.mktemp("catalogue") / "data")
