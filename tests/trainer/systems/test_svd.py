"""Truncated SVD against torch.linalg.svd, and at its limits."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from mmssl_trainer.data import Dataset
from mmssl_trainer.errors import InputError
from mmssl_trainer.training.loop import fit
from plain_systems import (
    configured,
    dense,
)


@pytest.mark.parametrize("power", [0, 2])
def test_svd_scores_are_the_walks_in_its_strongest_directions(data, power):
    fitted = fit(data, configured("svd", svd__power=power, svd__user_exponent=0.4, svd__item_exponent=0.1))
    a = dense(data.train)
    scaled = a.sum(1, keepdim=True).clamp(min=1) ** -0.4 * a * a.sum(0).clamp(min=1) ** -0.1
    right = torch.linalg.svd(scaled, full_matrices=False)[2]
    walks = torch.linalg.matrix_power(scaled @ scaled.mT, power) @ scaled @ right[:16].mT @ right[:16]
    found = (fitted.users @ fitted.items.mT).double()
    torch.testing.assert_close(F.normalize(found), F.normalize(walks), rtol=1e-4, atol=1e-5)
    assert not fitted.epochs and fitted.best == fitted.val["recall@20"]


def test_svd_knows_weak_directions_and_users_without_items():
    """Three components of the graph, one far stronger: its rounding must not outrank the others' walks."""
    parts = [np.ones((60, 20)), *(np.random.default_rng(s).random((30, 15)) < 0.4 for s in (1, 2)), np.zeros((1, 1))]
    matrix = sp.csr_array(sp.block_diag(parts, dtype=np.float32))
    empty = sp.csr_array(matrix.shape, dtype=np.float32)
    data = Dataset("parts", "made", *matrix.shape, matrix, empty, empty, {})
    values = {"svd__user_exponent": 0.0, "svd__item_exponent": 0.0, "svd__power": 16}
    fitted = fit(data, configured("svd", **values))
    best = (fitted.users @ fitted.items.mT).argmax(1)
    assert all(20 <= i < 35 for i in best[60:90]) and all(35 <= i < 50 for i in best[90:120])
    assert torch.equal(fitted.users[120] @ fitted.items.mT, torch.zeros(51)) and fitted.users.isfinite().all()


def test_svd_with_content_adds_the_likeness_to_a_users_items(data):
    alone, beside = (fit(data, configured("svd", svd__content=weight)) for weight in (0.0, 0.7))

    def by_spread(scores):
        return scores.double() / scores.double().std(1, correction=0, keepdim=True)

    expected = by_spread(alone.users @ alone.items.mT)
    a = dense(data.train)
    for raw in data.features.values():
        raw = torch.from_numpy(raw).double()
        unit = F.normalize((raw - raw.mean(0)) / raw.std(0, correction=0))
        expected += 0.7 * by_spread(a / a.sum(1, keepdim=True) @ unit @ unit.mT)
    torch.testing.assert_close((beside.users @ beside.items.mT).double(), expected, rtol=1e-4, atol=1e-4)


def test_svd_with_content_of_items_all_alike_or_of_users_without_items():
    matrix = (np.random.default_rng(0).random((30, 20)) < 0.3).astype(np.float32)
    matrix[4] = 0
    train, empty = sp.csr_array(matrix), sp.csr_array((30, 20), dtype=np.float32)
    same = np.tile(np.float32([0.1, 0.2, 0.7]), (20, 1))
    alike = same * np.linspace(0.3, 1.7, 20, dtype=np.float32)[:, None]  # of one direction, but for rounding
    without = Dataset("same", "made", 30, 20, train, empty, empty, {})
    values = {"svd__content": 0.5, "model__dim": 8}
    alone = fit(without, configured("svd", **values | {"svd__content": 0.0}))
    for features, standardise in ((same, True), (same, False), (alike, False)):
        data = Dataset("same", "made", 30, 20, train, empty, empty, {"same": features})
        found = fit(data, configured("svd", model__standardise=standardise, **values))
        scores = found.users @ found.items.mT
        assert scores.isfinite().all() and not scores[4].any()
        torch.testing.assert_close(F.normalize(scores), F.normalize(alone.users @ alone.items.mT), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="svd needs features"):
        fit(without, configured("svd", **values))


def test_svd_ranks_better_than_popularity(data):
    assert fit(data, configured("svd", model__dim=8)).best > 1.1 * fit(data, configured("popularity")).best


def test_svd_refuses_a_rank_that_there_is_not(data):
    with pytest.raises(InputError, match=r"model\.dim = 100 and 150 users, 100 items: set model.dim to 96 or less"):
        fit(data, configured("svd", model__dim=100))
    one = sp.csr_array(np.ones((1, 8), np.float32))
    alone = Dataset("alone", "made", 1, 8, one, 0 * one, 0 * one, {})
    with pytest.raises(InputError, match="1 users, 8 items: there must be at least two of each"):
        fit(alone, configured("svd", model__dim=1, model__heads=1))
