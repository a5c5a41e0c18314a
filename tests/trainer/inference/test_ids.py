"""Ids as people give them: one instead of a list, and integers as pandas writes them in a column of floats."""

import numpy as np
import pytest
from mmssl_trainer import InputError, configure, embed_items, fit, fold_in, recommend, similar
from mmssl_trainer.data import synthetic


@pytest.fixture(scope="module")
def model():
    data = synthetic(seed=1, n_users=90, n_items=70, modalities={"image": 8, "text": 6}, mean_degree=12)
    return fit(data, configure({"model.system": "svd", "model.dim": 8, "svd.content": 0.5, "train.threads": 1}))


@pytest.mark.parametrize(
    "call",
    [
        lambda model, one: recommend(model, one, k=2),
        lambda model, one: recommend(model, k=2, candidates=one),
        lambda model, one: recommend(model, k=2, histories={"a": one}),
        lambda model, one: fold_in(model, [one]),
        lambda model, one: similar(model, one, k=2),
    ],
    ids=["users", "candidates", "histories", "fold_in", "similar"],
)
@pytest.mark.parametrize("one", ["17", 17])
def test_a_single_id_is_not_read_as_a_list(model, call, one):
    """A text would otherwise be one id per character: lists of the users 1 and 7 instead of 17."""
    with pytest.raises(InputError, match=f"{one!r}: give a list of ids"):
        call(model, one)


@pytest.mark.parametrize(
    "call",
    [
        lambda model: recommend(model, [17.0], k=2),
        lambda model: recommend(model, k=2, candidates=[3, 17.0]),
        lambda model: recommend(model, k=2, histories={"a": ["17.0"]}, unknown="skip"),
        lambda model: recommend(model, k=2, excluded=[(3, 17.0)]),
        lambda model: recommend(model, k=2, excluded=[("17.0", 3)]),
        lambda model: similar(model, ["17.0"], k=2),
    ],
    ids=["users", "candidates", "histories", "excluded items", "excluded users", "similar"],
)
def test_integers_written_as_floats_are_named_and_never_ignored(model, call):
    with pytest.raises(InputError, match=r"'17.0' is not in the data; the data has '17'; write the column as integers"):
        call(model)


def test_ids_of_new_users_may_look_like_floats(model):
    assert recommend(model, k=1, histories={"17.0": [3]}).user.tolist() == ["17.0"]


def test_a_user_with_two_histories_is_refused(model):
    with pytest.raises(InputError, match="the user '1' occurs as a number and as text"):
        recommend(model, k=2, histories={1: [3], "1": [5]})


def test_arguments_without_their_partner_are_refused(model):
    with pytest.raises(InputError, match="nearest = 3: needs new items"):
        recommend(model, k=2, nearest=3)
    with pytest.raises(InputError, match="unknown = 'x': must be refuse or skip"):
        recommend(model, k=2, unknown="x")


def test_candidates_do_not_limit_the_length_of_lists(model):
    found = recommend(model, [3], k=60, candidates=range(5), exclude="train")
    left = set(range(5)) - set(model.interactions.train[[3]].indices.tolist())
    assert set(found.item.tolist()) == left
    with pytest.raises(InputError, match=r"k \[71\]: each must be between 1 and 70"):
        recommend(model, [3], k=71, candidates=range(5))


def test_rows_of_different_lengths_are_refused(model):
    features = {"image": [[1.0] * 8, [1.0]], "text": np.ones((2, 6))}
    with pytest.raises(InputError, match="features 'image': have rows of different lengths; give numbers of the shape"):
        embed_items(model, features)
