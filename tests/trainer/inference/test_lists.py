"""Lists for new users and new items, from candidates, without excluded pairs, and diverse: against literal rankings."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer import InputError, configure, embed_items, fit, fold_in, recommend
from mmssl_trainer.data import synthetic
from mmssl_trainer.runs.diversity import diverse


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=90, n_items=70, modalities={"image": 8, "text": 6}, mean_degree=12)


@pytest.fixture(scope="module")
def model(data):
    settings = {"model.system": "mmssl", "model.dim": 8, "model.heads": 2, "train.epochs": 2, "train.threads": 1}
    return fit(data, configure(settings | {"train.batch": 300}))


def lists(found):
    """{user: items}."""
    result = {}
    for user, rank, item, _ in zip(*(column.tolist() for column in found), strict=True):
        result.setdefault(user, []).append(item)
        assert rank == len(result[user])
    return result


def best(scores, left_out, k):
    return [item for item in scores.argsort(descending=True).tolist() if item not in left_out][:k]


def test_users_by_history(model):
    histories = {"a": [3, 8, 20], "b": [5]}
    found = lists(recommend(model, k=6, histories=histories))
    for user, embedding in zip("ab", fold_in(model, list(histories.values())), strict=True):
        assert found[user] == best(model.items @ embedding, histories[user], 6)
    assert list(lists(recommend(model, ["b"], k=2, histories=histories))) == ["b"]
    with pytest.raises(InputError, match="user 'c' is not in the data"):
        recommend(model, ["c"], histories=histories)


def test_an_unknown_item_is_named_with_its_user(model):
    with pytest.raises(InputError, match=r"not in the training data: 'x7' in histories\['bob'\]; leave"):
        recommend(model, histories={"ann": [3], "bob": [3, "x7"]})


def test_an_empty_history_gets_the_most_popular_items_of_training(model, data):
    counts = data.train.sum(axis=0)
    found = recommend(model, k=5, histories={"nobody": []})
    assert sorted(counts[found.item], reverse=True) == sorted(counts, reverse=True)[:5]
    assert not found.score.any()


def test_new_items_are_ranked_beside_the_others(model, data):
    features = {name: 3 * values[:4] for name, values in data.features.items()}
    found = lists(recommend(model, [1, 2], k=74, new_items=([900, 901, 902, 903], features)))
    items = torch.cat([model.items, embed_items(model, features)])
    names = [*range(70), 900, 901, 902, 903]
    for user in (1, 2):
        seen = data.train[[user]].indices.tolist()
        assert found[user] == [names[item] for item in best(items @ model.users[user], seen, 74)]
    near = lists(recommend(model, [1], k=74, new_items=([900, 901, 902, 903], features), nearest=5))
    assert near[1] != found[1]


def test_history_with_new_items(model, data):
    """A new item in a history is left out of the list, and brings nothing to the embedding."""
    features = {name: values[:2] for name, values in data.features.items()}
    options = {"histories": {"a": [3, 8, 900]}, "new_items": ([900, 901], features)}
    found = lists(recommend(model, k=72, **options))["a"]
    assert 900 not in found and 901 in found and len(found) == 72 - 3
    scores = torch.cat([model.items, embed_items(model, features)]) @ fold_in(model, [[3, 8]])[0]
    assert [{900: 70, 901: 71}.get(item, item) for item in found] == best(scores, {3, 8, 70}, 72)


def test_candidates_and_excluded_pairs(model, data):
    found = lists(recommend(model, [4, 9], k=5, candidates=[60, 61, "62", 7, 8, "none"], excluded=[(4, 61), (9, 8)]))
    for user, excluded in ((4, 61), (9, 8)):
        seen = set(data.train[[user]].indices.tolist()) | {excluded}
        others = set(range(70)) - {60, 61, 62, 7, 8}
        assert found[user] == best(model.items @ model.users[user], seen | others, 5)
    unknown = recommend(model, [4], k=5, excluded=[("nobody", 61), (4, "nothing")])
    assert unknown.item.tolist() == recommend(model, [4], k=5).item.tolist()
    with pytest.raises(InputError, match="none of the candidates is an item of the model"):
        recommend(model, [4], candidates=["x"])


def test_candidates_for_users_by_history(model):
    found = lists(recommend(model, k=4, histories={"a": [3, 8]}, candidates=range(3, 30), excluded=[("a", 12)]))
    scores = model.items @ fold_in(model, [[3, 8]])[0]
    assert found["a"] == best(scores, {3, 8, 12, *range(3), *range(30, 70)}, 4)


def test_a_popular_item_stays_popular_among_candidates(model, data):
    counts = data.train.sum(axis=0)
    wanted = np.argsort(counts)[::-1][[2, 10, 30]]
    found = recommend(model, k=3, histories={"nobody": []}, candidates=wanted.tolist())
    assert counts[found.item].tolist() == sorted(counts[wanted], reverse=True)


def greedy(scores, items, embeddings, k, diversity):
    """Maximal marginal relevance of one user, written out."""
    unit = torch.nn.functional.normalize(embeddings)
    pool = [(item, score) for item, score in zip(items.tolist(), scores.tolist(), strict=True) if item >= 0]
    values = [score for _, score in pool]
    low, high = min(values), max(values)
    chosen = []
    while pool and len(chosen) < k:

        def value(pair):
            relevance = (pair[1] - low) / ((high - low) or 1)
            nearest = max((float(unit[pair[0]] @ unit[other]) for other in chosen), default=0)
            return (1 - diversity) * relevance - diversity * nearest

        best = max(pool, key=value)
        chosen.append(best[0])
        pool.remove(best)
    return chosen


@pytest.mark.parametrize("diversity", [0.2, 0.5, 0.9, 1.0])
def test_diverse_lists_are_those_of_the_definition(diversity):
    generator = torch.Generator().manual_seed(3)
    embeddings = torch.randn(40, 5, generator=generator)
    items = torch.stack([torch.randperm(40, generator=generator)[:20] for _ in range(6)])
    scores = torch.randn(6, 20, generator=generator).sort(descending=True).values
    items[1, 12:], scores[1, 12:] = -1, -torch.inf
    items[2, 3:], scores[2, 3:] = -1, -torch.inf  # fewer than k
    values, found = diverse(scores, items, embeddings, 8, diversity)
    for row in range(6):
        expected = greedy(scores[row], items[row], embeddings, 8, diversity)
        assert found[row].tolist() == expected + [-1] * (8 - len(expected))
        score_of = dict(zip(items[row].tolist(), scores[row].tolist(), strict=True))
        assert values[row].tolist() == [score_of[item] for item in expected] + [-torch.inf] * (8 - len(expected))


def test_diversity_makes_lists_more_different(model):
    unit = torch.nn.functional.normalize(model.items)

    def similarity(diversity):
        found = lists(recommend(model, k=10, diversity=diversity))
        return np.mean([((unit[rows] @ unit[rows].T).sum() - 10) / 90 for rows in found.values()])

    plain = lists(recommend(model, k=10))
    assert lists(recommend(model, k=10, diversity=1e-9)) == plain
    assert similarity(0) > similarity(0.3) > similarity(0.9)
    with pytest.raises(InputError, match=r"diversity = 1.5: must be between 0 and 1"):
        recommend(model, diversity=1.5)


def test_excluded_matrix_has_the_shape_of_the_model(model):
    from mmssl_trainer.inference.candidates import pairs_of

    pairs = pairs_of(model, [1, 1, 2], [3, 3, 4])
    assert isinstance(pairs, sp.csr_array) and pairs.shape == (90, 70) and pairs.data.tolist() == [1, 1]
