"""compare: the metrics of evaluate, user by user, and refusals of what is no pair."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch
from command_line import fails
from mmssl_trainer import InputError, compare, evaluate, fit, save
from mmssl_trainer.cli.main import main
from mmssl_trainer.console import output
from mmssl_trainer.ranking import user_metrics
from mmssl_trainer.study.compare import _compared
from scipy import stats
from training_cases import configured, small_catalogue


@pytest.fixture(scope="module")
def models():
    data = small_catalogue()
    return [fit(data, configured(name, train__epochs=2)) for name in ("popularity", "svd")]


@pytest.mark.parametrize("split, k, mask", [("test", 20, False), ("val", 5, False), ("test", 7, True)])
def test_means_are_those_of_evaluate(models, split, k, mask):
    rows, users = compare(*models, split, k, mask)
    for at, model in enumerate(models):
        want = evaluate(model, split, [k], mask)
        assert users == want["users"]
        for row in rows:
            assert row[1 + at] == pytest.approx(want[f"{row.metric}@{k}"], abs=1e-12)
    for row in rows:
        assert (
            row.difference == pytest.approx(row.second - row.first, abs=1e-12) and row.low < row.difference < row.high
        )


def test_the_tests_are_paired(models):
    rows, _ = compare(*models, k=20)
    data = models[0].interactions
    from mmssl_trainer.ranking import excluded, item_popularity

    first, second = (
        user_metrics(m.users, m.items, data.test, 20, excluded(data, False), popularity=item_popularity(data))[1]
        for m in models
    )
    for row in rows:
        test = stats.ttest_rel(second[row.metric], first[row.metric])
        assert row.p_t == pytest.approx(test.pvalue)
        assert (row.low, row.high) == pytest.approx(tuple(test.confidence_interval(0.95)))
        assert row.p_wilcoxon == pytest.approx(stats.wilcoxon(second[row.metric] - first[row.metric]).pvalue)
        assert row.better == (second[row.metric] > first[row.metric]).sum()
        assert row.worse == (second[row.metric] < first[row.metric]).sum()


def test_the_other_order_has_the_other_sign(models):
    for row, other in zip(compare(*models)[0], compare(*models[::-1])[0], strict=True):
        assert (row.difference, row.low, row.high) == pytest.approx((-other.difference, -other.high, -other.low))
        assert (row.p_t, row.better, row.worse) == pytest.approx((other.p_t, other.worse, other.better))


def test_a_model_does_not_differ_from_itself(models):
    for row in compare(models[0], models[0])[0]:
        assert row[3:] == (0.0, 0.0, 0.0, 1.0, 1.0, 0, 0)


def test_intervals_contain_the_true_difference_in_19_of_20_cases():
    rng = np.random.default_rng(0)
    first = rng.random((400, 50))
    second = first + 0.1 + rng.normal(0, 0.3, (400, 50))
    rows = [_compared("recall", *pair) for pair in zip(first, second, strict=True)]
    inside = sum(row.low <= 0.1 <= row.high for row in rows)
    assert 365 <= inside <= 393 and np.mean([row.p_t < 0.05 for row in rows]) > 0.5


def test_equal_differences_of_all_users():
    row = _compared("hit", np.zeros(30), np.ones(30))
    assert (row.low, row.difference, row.high, row.better) == (1.0, 1.0, 1.0, 30) and row.p_t < 1e-6


def test_rounding_errors_are_no_differences():
    first = np.random.default_rng(0).random(30)
    row = _compared("ndcg", first, first * (1 + 1e-15 * np.arange(30)))
    assert row.first != row.second and row[3:] == (0.0, 0.0, 0.0, 1.0, 1.0, 0, 0)


def other(model, **changes):
    return replace(model, interactions=replace(model.interactions, **changes))


def test_other_data_is_refused(models):
    first, second = models
    data = second.interactions
    moved = data.test.tolil()
    user = int(np.flatnonzero(np.diff(data.test.indptr))[0])
    moved[user, int(data.test.indices[data.test.indptr[user]])] = 0
    for changed, says in (
        (other(second, fingerprint="0" * 64), "have the fingerprints .* but not the features"),
        (other(second, test=moved.tocsr()), "different test interactions"),
        (other(second, item_ids=np.arange(80) + 1), "different ids of items"),
        (other(second, n_items=81), "80 and 81 items"),
    ):
        with pytest.raises(InputError, match=says):
            compare(first, changed)
    with pytest.raises(InputError, match="must be test or val"):
        compare(first, second, "train")
    with pytest.raises(InputError, match="k \\[0\\]"):
        compare(first, second, k=0)


def test_the_command(models, tmp_path, capsys, monkeypatch):
    paths = [str(tmp_path / f"{n}.safetensors") for n in range(3)]
    for model, path in zip([*models, other(models[1], fingerprint="f" * 64)], paths, strict=True):
        save(replace(model, metadata=model.metadata | {"fingerprint": model.interactions.fingerprint}), path)
    monkeypatch.setattr(output.OUT, "width", 200)  # the console may have read COLUMNS in an earlier test
    assert main(["compare", *paths[:2], "--k", "10"]) == 0
    said = capsys.readouterr().out
    assert "recall@10" in said and "95% interval" in said and "are not corrected" in said
    assert main(["compare", *paths[:2], "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [row["metric"] for row in found["metrics"]] == ["recall", "precision", "ndcg", "hit", "mrr"]
    assert found["metrics"][0]["difference"] == pytest.approx(compare(*models)[0][0].difference)
    assert torch.isfinite(torch.tensor([row["p_wilcoxon"] for row in found["metrics"]])).all()
    fails(capsys, ["compare", paths[0], paths[2]], paths[2], "fingerprints")
    fails(capsys, ["compare", paths[0], "/no/such"], "/no/such")
