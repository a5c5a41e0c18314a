"""Models with sparse embeddings (neighbours): lists for candidates, and one sentence for what needs dense ones."""

import numpy as np
import pytest
import torch
from mmssl_trainer import InputError, configure, embed_items, export, fit, fold_in, load_data, recommend, similar
from mmssl_trainer.data import synthetic
from mmssl_trainer.serving.catalogue import Catalogue


@pytest.fixture(scope="module", params=["itemknn", "userknn", "ease"])
def model(request):
    return fit(load_data(), configure({"model.system": request.param}))


def test_candidates_are_the_lists_without_the_others(model):
    data = model.interactions
    allowed = np.arange(0, data.n_items, 3)
    whole = recommend(model, [0, 7], k=data.n_items)
    some = recommend(model, [0, 7], k=5, candidates=allowed)
    for user in (0, 7):
        expected = [item for item in whole.item[whole.user == user] if item in set(allowed)][:5]
        assert some.item[some.user == user].tolist() == expected


def test_what_needs_dense_embeddings_is_refused_in_one_line(model, tmp_path):
    calls = [
        lambda: fold_in(model, [[1, 2]]),
        lambda: embed_items(model, {}),
        lambda: recommend(model, histories={"a": [1]}),
    ]
    calls += [lambda: export(model, tmp_path / "e", "npy"), lambda: Catalogue(model)]
    if not hasattr(model.items, "norm"):
        calls += [lambda: similar(model, [1]), lambda: recommend(model, [0], diversity=0.5)]
    for call in calls:
        with pytest.raises(InputError, match=r"needs dense embeddings, but .* \(ease.rank\)|cannot embed"):
            call()
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("settings", [{"ease.rank": 16}, {}])
def test_ease_with_dense_embeddings_is_not_said_to_be_sparse(settings, tmp_path):
    """EASE has dense embeddings with a rank, or for fewer users than items; then it is exported and served."""
    data = load_data() if settings else synthetic(0, n_users=30, n_items=40)
    model = fit(data, configure({"model.system": "ease", **settings}))
    assert torch.is_tensor(model.users) and torch.is_tensor(model.items)
    export(model, tmp_path / "e", "npy")
    assert len(similar(model, [1], k=3).similar) == 3 and len(recommend(model, [0], k=5, diversity=0.5).item) == 5
    catalogue = Catalogue(model)
    for refused in (catalogue.no_histories, *_refusals(lambda: fold_in(model, [[1]]), lambda: embed_items(model, {}))):
        assert "not implemented" in refused and "sparse" not in refused


def _refusals(*calls):
    for call in calls:
        with pytest.raises(InputError) as refused:
            call()
        yield str(refused.value)
