"""Fixtures of the tests of the command line."""

import numpy as np
import pytest
from command_line import SMALL
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A small catalogue in the plain layout, with text ids."""
    data = synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5, "text": 4})
    named = {"user_ids": np.array([f"user{n:03}" for n in range(60)]), "item_ids": np.arange(40) + 1000}
    return write_plain(type(data)(**{**vars(data), **named}), tmp_path_factory.mktemp("catalogue") / "data")


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    out = tmp_path_factory.mktemp("runs") / "one"
    assert main(["train", "--data", str(folder), "--out", str(out), *SMALL]) == 0
    return out
