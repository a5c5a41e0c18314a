"""csrc/cuda/propagate on the emulator, against reference.py."""

import pytest
import torch
from csr_blocks import normal, random_graph
from test_propagate import DTYPES, GRAPHS, embeddings, sender_rows
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.graph import NORMS, InteractionGraph

pytestmark = pytest.mark.usefixtures("poison")


def scales(graph, norm, dtype):
    """(receive, send) of users and of items, None where the norm has no such factor."""
    sums = torch.float64 if dtype == torch.float64 else torch.float32
    users, items = (None if norm == "none" else graph.inv_sqrt_degree(side, sums) for side in ("users", "items"))
    return (users, users if norm == "both" else None), (items, items if norm == "both" else None)


def arrays(graph):
    return graph.crow, graph.col, graph.value, graph.t_crow, graph.t_col, graph.t_value


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("to", ["users", "items"])
@pytest.mark.parametrize("shape", GRAPHS)
def test_propagate(emulated, shape, to, norm, weighted):
    graph = random_graph(*shape, weighted)
    by_user = arrays(graph)
    both = by_user if to == "users" else by_user[3:] + by_user[:3]
    for dtype in DTYPES:
        x = normal(sender_rows(graph, to), 40, dtype=dtype)
        users, items = scales(graph, norm, dtype)
        receive, send = (users[0], items[1]) if to == "users" else (items[0], users[1])
        truth = reference.propagate(graph, x.double(), to, norm)
        actual = emulated.propagate(*both, receive, send, x)
        assert_as_accurate(actual, reference.propagate(graph, x, to, norm), truth)


@pytest.mark.parametrize("layers", [0, 1, 2, 3])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", GRAPHS)
def test_lightgcn(emulated, shape, norm, layers):
    graph = random_graph(*shape, weighted=layers == 2)
    for dtype in DTYPES:
        users, items = (x.detach() for x in embeddings(graph, 19, dtype))
        user_scales, item_scales = scales(graph, norm, dtype)
        actual = emulated.lightgcn(*arrays(graph), *user_scales, *item_scales, users, items, layers)
        plain = reference.lightgcn(graph, users, items, layers, norm)
        truth = reference.lightgcn(graph, users.double(), items.double(), layers, norm)
        for parts in zip(actual, plain, truth, strict=True):
            assert_as_accurate(*parts)


def test_lightgcn_of_an_item_that_everybody_has(emulated):
    users = torch.arange(700).repeat_interleave(2)
    items = torch.stack((torch.zeros(700, dtype=torch.int64), torch.arange(700) % 30 + 1), 1).flatten()
    graph = InteractionGraph.from_pairs(users, items, 700, 31)
    x = [y.detach() for y in embeddings(graph, 64, torch.float32)]
    user_scales, item_scales = scales(graph, "both", torch.float32)
    actual = emulated.lightgcn(*arrays(graph), *user_scales, *item_scales, *x, 2)
    plain = reference.lightgcn(graph, *x, 2, "both")
    truth = reference.lightgcn(graph, *(y.double() for y in x), 2, "both")
    for parts in zip(actual, plain, truth, strict=True):
        assert_as_accurate(*parts)
