"""Which matrices and pairs make a graph: one rule for every entry, evaluation's included."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer.ranking import ranking_metrics, user_metrics

from mmssl_fast import InteractionGraph
from mmssl_fast.dropin.hkuds import interaction_graph
from mmssl_fast.graph import interactions

KINDS = [sp.coo_matrix, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.lil_matrix, sp.bsr_matrix]
ROWS, COLUMNS = np.array([0, 0, 1, 1]), np.array([0, 1, 1, 2])


def made_of(values, kind=sp.coo_matrix):
    return kind(sp.coo_matrix((np.asarray(values), (ROWS, COLUMNS)), shape=(2, 3)))


def evaluated(matrix):
    return ranking_metrics(torch.ones(2, 1), torch.tensor([[3.0], [2.0], [1.0]]), matrix, [2])


ENTRIES = {
    "InteractionGraph.from_scipy": InteractionGraph.from_scipy,
    "ranking_metrics": evaluated,
    "user_metrics": lambda m: user_metrics(torch.ones(2, 1), torch.ones(3, 1), m, 2),
}


@pytest.mark.parametrize("entry", ENTRIES)
@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize(
    "values, message",
    [
        (
            [1.0, -1.0, 1.0, 1.0],
            r"value \d \(user 0, item 1\) is -1; an interaction must have a positive value; remove it",
        ),
        ([1, 1, -3, 1], r"value \d \(user 1, item 1\) is -3; an interaction must have a positive value"),
        ([1.0, np.nan, 1.0, 1.0], r"value \d \(user 0, item 1\) is nan; values must be finite"),
        ([1.0, 1.0, 1.0, np.inf], r"value \d \(user 1, item 2\) is inf; values must be finite"),
        ([1.0, 1.0, 1.0 + 2j, 1.0], "values must be real numbers, got complex128"),
    ],
)
def test_the_same_values_are_refused(entry, kind, values, message):
    with pytest.raises(ValueError, match=f"^{entry}: {message}"):
        ENTRIES[entry](made_of(values, kind))


@pytest.mark.parametrize("values", [[1, 1, 1, 0], [5.0, 0.5, 2.0, 0.0], [True, True, True, False], [2, 255, 7, 0]])
@pytest.mark.parametrize("kind", KINDS)
def test_positive_values_are_edges_and_stored_zeros_none(kind, values):
    data = np.asarray(values, np.uint8) if max(values) > 200 else values
    graph, expected = InteractionGraph.from_scipy(made_of(data, kind)), made_of([1.0, 1.0, 1.0, 0.0])
    expected.eliminate_zeros()
    assert graph.nnz == 3 and graph.value is None and graph.col.tolist() == [0, 1, 1]
    assert evaluated(made_of(data, kind)) == evaluated(expected.tocsr())


def test_pairs_named_twice_count_once():
    twice = sp.csr_matrix((np.ones(3), np.array([1, 0, 1]), np.array([0, 3, 3])), shape=(2, 3))
    assert InteractionGraph.from_scipy(twice).nnz == 2
    assert InteractionGraph.from_pairs([0, 0, 0], [1, 0, 1], 2, 3).nnz == 2
    once = sp.csr_array(np.array([[1.0, 1, 0], [0, 0, 0]]))
    assert evaluated(twice) == evaluated(once) and evaluated(twice)["recall@2"] == 1.0
    assert (interactions(twice, "x") != interactions(once, "x")).nnz == 0


def test_edge_values_of_either_sign_are_kept_where_they_are_asked_for():
    graph = InteractionGraph.from_scipy(made_of([1.0, -2.0, 0.0, 0.5]), weights=True)
    assert graph.value.tolist() == [1.0, -2.0, 0.5]
    pairs = InteractionGraph.from_pairs(ROWS, COLUMNS, 2, 3, [1.0, -2.0, 0.0, 0.5])
    assert torch.equal(pairs.value, graph.value) and torch.equal(pairs.col, graph.col)
    assert interaction_graph(made_of([1.0, -2.0, 0.0, 0.5])).value.tolist() == [1.0, -2.0, 0.5]


def test_edges_that_cancel_are_none():
    graph = InteractionGraph.from_pairs([0, 0, 1], [0, 0, 1], 2, 2, [1.0, -1.0, 2.0])
    assert graph.nnz == 1 and graph.user_degree.tolist() == [0, 1] and graph.value.tolist() == [2.0]


@pytest.mark.parametrize("value, message", [(np.nan, "values must be finite"), (1e300, "values must fit in float32")])
def test_edge_values_that_are_no_float32_are_refused(value, message):
    with pytest.raises(ValueError, match=f"^InteractionGraph.from_pairs: value 1 .*{message}"):
        InteractionGraph.from_pairs([0, 1], [0, 1], 2, 2, [1.0, value])
    with pytest.raises(ValueError, match=f"^InteractionGraph.from_scipy: value 1 .*{message}"):
        InteractionGraph.from_scipy(made_of([1.0, value, 1.0, 1.0]), weights=True)
