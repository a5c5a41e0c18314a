"""model.standardise: columns that differ by rounding errors only stay 0, every other one gets the variance 1."""

import numpy as np
import pytest
import torch
from mmssl_trainer.systems.inference import Scaling

from mmssl_fast.nn.features import standardised

ITEMS = 400
RNG = np.random.default_rng(0)
NOISE = RNG.standard_normal(ITEMS)
USUAL = RNG.standard_normal((ITEMS, 5)) * 0.05

EMPTY = {
    "zero": np.zeros(ITEMS),
    "constant": np.full(ITEMS, 0.1),
    "constant up to a rounding": 0.1 + np.spacing(np.float32(0.1)) * (NOISE > 0),
    "constant up to three roundings": -0.1 + np.spacing(np.float32(0.1)) * RNG.integers(-3, 4, ITEMS),
    "large and constant": 1e30 * (1 + 2e-7 * (NOISE > 0)),
    "tiny": 1e-33 * NOISE,
    "tiny with an offset": 1e-30 + 1e-31 * NOISE,
}
REAL = {
    "small": 1e-8 * NOISE,
    "a share far from 0": 1 + 1e-5 * NOISE,
    "a year": 1990 + np.round(10 * NOISE),
    "a time in nanoseconds": 1.6e18 + 1e16 * NOISE,
    "a flag of one item": (np.arange(ITEMS) == 7).astype(float),
    "a flag that one item lacks": (np.arange(ITEMS) != 7).astype(float),
}


def both(raw):
    """The columns as training scales them, and as the model file does for new items."""
    scaled = Scaling.of({"image": raw}, True)("image", torch.from_numpy(raw))
    return standardised(torch.from_numpy(raw)).numpy(), scaled.numpy()


@pytest.mark.parametrize("name", EMPTY)
def test_column_without_information_stays_zero(name):
    raw = np.column_stack([USUAL[:, :2], EMPTY[name], USUAL[:, 2:]]).astype(np.float32)
    for found in both(raw):
        assert not found[:, 2].any()
        np.testing.assert_allclose(np.delete(found, 2, 1).std(0), 1, rtol=1e-5)


@pytest.mark.parametrize("name", REAL)
def test_column_of_another_unit_gets_the_variance_one(name):
    for rest in (USUAL, np.column_stack([1e17 * NOISE[::-1], 1e-3 * USUAL])):
        raw = np.column_stack([REAL[name], rest]).astype(np.float32)
        for found in both(raw):
            np.testing.assert_allclose(found.std(0), 1, rtol=1e-4)


def test_all_columns_may_be_constant():
    for found in both(np.full((ITEMS, 3), 0.1, np.float32)):
        assert not found.any()
