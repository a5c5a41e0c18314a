"""The statistics of `mmssl-fast reproduce`: tests over users and seeds, numbers of seeds, and what they start from."""

import numpy as np
import pytest
import torch
from mmssl_trainer.data import synthetic
from mmssl_trainer.ranking import split_metrics, user_metrics
from mmssl_trainer.study.reproduce import statistics
from scipy import stats

from mmssl_fast import InteractionGraph


def test_user_metrics_average_to_the_splits():
    data = synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5, "text": 4})
    generator = torch.Generator().manual_seed(1)
    users, items = torch.randn(60, 4, generator=generator), torch.randn(40, 4, generator=generator)
    who, each = user_metrics(users, items, data.test, 20, InteractionGraph.from_scipy(data.train), batch=7)
    whole = split_metrics(users, items, data, "test", [20])
    assert who.tolist() == np.flatnonzero(np.diff(data.test.indptr)).tolist()
    assert {name: values.mean() for name, values in each.items()} == pytest.approx(
        {name: whole[f"{name}@20"] for name in each}
    )


def test_differences_are_tested():
    rng = np.random.default_rng(0)
    base = rng.random((1, 300))
    better = base + 0.05 + 0.1 * rng.standard_normal((1, 300))
    found = statistics.compare(better, base)
    expected = stats.ttest_rel(better[0], base[0])
    interval = expected.confidence_interval(0.95)
    # single seeds: a paired t-test over the users
    np.testing.assert_allclose(
        [found.mean, found.low, found.high, found.p_users, found.p],
        [(better - base).mean(), interval.low, interval.high, expected.pvalue, expected.pvalue],
        rtol=1e-9,
    )
    assert found.p < 1e-6 and found.seeds == 1
    assert statistics.compare(base, better).mean == pytest.approx(-found.mean)
    assert statistics.compare(base, base.copy()) == (0.0, 0.0, 0.0, 1.0, 1.0, None)


def test_differences_over_users_and_seeds():
    """With equal users, what is left is Welch's test over the seeds; its p-value is larger than that over users."""
    rng = np.random.default_rng(1)
    levels = [0.31, 0.34, 0.36], [0.30, 0.29, 0.33, 0.305]
    first, second = (np.array(level)[:, None] + np.zeros((1, 400)) for level in levels)
    found = statistics.compare(first, second)
    expected = stats.ttest_ind(*levels, equal_var=False)
    interval = expected.confidence_interval(0.95)
    np.testing.assert_allclose([found.low, found.high, found.p], [interval.low, interval.high, expected.pvalue])
    noisy = first + 0.2 * rng.standard_normal((3, 400)), second + 0.2 * rng.standard_normal((4, 400))
    both = statistics.compare(*noisy)
    assert both.p > both.p_users and both.low < both.mean < both.high


def test_the_number_of_seeds_reaches_the_power():
    """So many seeds and users are drawn many times: a difference is found in four of five."""
    rng, users, seeds = np.random.default_rng(2), 2000, 9
    spread, mean = 0.01, 0.012

    def drawn(level):
        return level + spread * rng.standard_normal((seeds, 1)) + 0.02 * rng.standard_normal((seeds, users))

    found = [statistics.compare(drawn(0.3 + mean), drawn(0.3)) for _ in range(400)]
    share = np.mean([d.p < 0.05 for d in found])
    needed = statistics._seeds(mean, 2 * 0.02**2 / seeds / users, 2 * spread**2)
    assert abs(needed - 11) <= 1 and 0.6 < share < 0.8  # 9 are not quite enough
    assert statistics._seeds(0.001, 0.001**2, 0.0) is None


def test_p_values_are_corrected_for_their_number():
    assert statistics.holm([0.04, 0.01, 0.03, 0.005]) == pytest.approx([0.06, 0.03, 0.06, 0.02])
    assert statistics.holm([0.9, 0.8]) == [1.0, 1.0] and statistics.holm([]) == []
