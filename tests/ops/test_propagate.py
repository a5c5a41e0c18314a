"""propagate and lightgcn against reference.py."""

import pytest
import torch
from csr_blocks import normal, random_graph
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.graph import NORMS, InteractionGraph
from mmssl_fast.ops.propagate import lightgcn, propagate

pytestmark = pytest.mark.usefixtures("poison")

# users, items, share of all pairs: odd, one user, one item, no interactions, all of them, no users
GRAPHS = [(41, 401, 0.05), (401, 41, 0.02), (1, 50, 0.5), (33, 1, 0.5), (9, 11, 0.0), (9, 11, 1.0), (0, 11, 0.0)]
DTYPES = [torch.float32, torch.float64, torch.bfloat16]


def sender_rows(graph, to):
    return graph.n_items if to == "users" else graph.n_users


def embeddings(graph, d, dtype=torch.float64):
    users, items = normal(graph.n_users, d, dtype=dtype, seed=1), normal(graph.n_items, d, dtype=dtype, seed=2)
    return users.requires_grad_(), items.requires_grad_()


def with_gradients(outputs, inputs):
    """The outputs followed by the gradients of their weighted sum."""
    weighted = sum((y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum() for y in outputs)
    return [y.detach() for y in outputs] + list(torch.autograd.grad(weighted, inputs))


@pytest.mark.parametrize("weighted", [False, True])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("to", ["users", "items"])
@pytest.mark.parametrize("shape", GRAPHS)
def test_propagate_values_and_gradients(shape, to, norm, weighted):
    graph = random_graph(*shape, weighted)
    for dtype in DTYPES:
        x = normal(sender_rows(graph, to), 41, dtype=dtype).requires_grad_()
        x64 = x.detach().double().requires_grad_()
        actual = with_gradients([propagate(graph, x, to, norm)], [x])
        plain = with_gradients([reference.propagate(graph, x, to, norm)], [x])
        truth = with_gradients([reference.propagate(graph, x64, to, norm)], [x64])
        for parts in zip(actual, plain, truth, strict=True):
            assert_as_accurate(*parts)


@pytest.mark.parametrize("layers", [0, 1, 2, 3, 4])
@pytest.mark.parametrize("norm", NORMS)
@pytest.mark.parametrize("shape", GRAPHS)
def test_lightgcn_values_and_gradients(shape, norm, layers):
    graph = random_graph(*shape, weighted=layers == 2)
    for dtype in DTYPES:
        inputs = embeddings(graph, 19, dtype)
        inputs64 = [x.detach().double().requires_grad_() for x in inputs]
        actual = with_gradients(lightgcn(graph, *inputs, layers, norm), inputs)
        plain = with_gradients(reference.lightgcn(graph, *inputs, layers, norm), inputs)
        truth = with_gradients(reference.lightgcn(graph, *inputs64, layers, norm), inputs64)
        for parts in zip(actual, plain, truth, strict=True):
            assert_as_accurate(*parts)


def test_lightgcn_without_layers_returns_copies():
    graph = random_graph(5, 7, 0.4)
    users, items = (x.detach() for x in embeddings(graph, 3))
    user_mean, item_mean = lightgcn(graph, users, items, 0)
    assert torch.equal(user_mean, users) and torch.equal(item_mean, items)
    assert user_mean.data_ptr() != users.data_ptr() and item_mean.data_ptr() != items.data_ptr()


def test_lightgcn_gradient_of_one_side_only():
    graph = random_graph(9, 11, 0.3)
    users, items = embeddings(graph, 3)
    actual = torch.autograd.grad(lightgcn(graph, users, items, 3)[0].square().sum(), [users, items])
    truth = torch.autograd.grad(reference.lightgcn(graph, users, items, 3)[0].square().sum(), [users, items])
    for pair in zip(actual, truth, strict=True):
        torch.testing.assert_close(*pair)


@pytest.mark.parametrize("strides", ["contiguous", "transposed", "expanded rows", "expanded columns", "zero"])
@pytest.mark.parametrize("norm", NORMS)
def test_gradcheck_to_second_order(norm, strides):
    graph = random_graph(5, 7, 0.4, weighted=True)

    def laid_out(x):
        if strides == "expanded rows":
            return x[:1].expand_as(x)
        if strides == "expanded columns":
            return x[:, :1].expand_as(x)
        return x.T.contiguous().T if strides == "transposed" else x * 0 if strides == "zero" else x

    users, items = embeddings(graph, 3)
    for check in (torch.autograd.gradcheck, torch.autograd.gradgradcheck):
        assert check(lambda x: propagate(graph, laid_out(x), "users", norm), (items,))
        assert check(lambda x: propagate(graph, laid_out(x), "items", norm).square(), (users,))
        assert check(lambda u, i: lightgcn(graph, laid_out(u), laid_out(i), 3, norm), (users, items))


@pytest.mark.parametrize("share", [0.4, 0.0])
def test_opcheck(share):
    graph = random_graph(5, 7, share, weighted=True)
    users, items = embeddings(graph, 3)
    arrays = (graph.crow, graph.col, graph.value, graph.t_crow, graph.t_col, graph.t_value)
    scales = [graph.inv_sqrt_degree(side, torch.float64) for side in ("users", "items")]
    ops = torch.ops.mmssl_fast
    torch.library.opcheck(ops.propagate, (*arrays, *scales, items))
    torch.library.opcheck(ops.propagate, (*arrays, None, None, items))
    torch.library.opcheck(ops.lightgcn, (*arrays, scales[0], None, scales[1], None, users, items, 2))
    torch.library.opcheck(ops.lightgcn, (*arrays, None, None, None, None, users, items, 0))


def test_compiles_fullgraph():
    graph = random_graph(41, 101, 0.1)
    users, items = embeddings(graph, 16)

    def loss(users, items):
        users, items = lightgcn(graph, users, items, 2)
        return propagate(graph, items, norm="both").square().sum() + users.sum()

    compiled = torch.compile(loss, fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(users, items), (users, items))
    for pair in zip(actual, torch.autograd.grad(loss(users, items), (users, items)), strict=True):
        torch.testing.assert_close(*pair)


def test_same_bits_for_any_thread_count(threads):
    graph = random_graph(401, 1271, 0.05)
    users, items = embeddings(graph, 64, torch.float32)
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(with_gradients(lightgcn(graph, users, items, 3), (users, items)))
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_weights_of_a_graph_count():
    graph = InteractionGraph.from_pairs([0, 0, 1], [0, 1, 1], 2, 2, [2.0, -3.0, 0.5])
    x = torch.tensor([[1.0], [10.0]])
    assert propagate(graph, x, norm="none").tolist() == [[-28.0], [5.0]]
    assert propagate(graph, x, "items", "none").tolist() == [[2.0], [2.0]]


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"x": torch.zeros(6, 2)}, "propagate: x has 6 rows, the graph has 7 items"),
        ({"x": torch.zeros(7, 2), "to": "items"}, "propagate: x has 7 rows, the graph has 5 users"),
        ({"x": torch.zeros(7)}, r"propagate: x must be \[7, d\], got shape \(7,\)"),
        ({"x": torch.zeros(7, 2), "to": "both"}, 'propagate: to must be "users" or "items", got \'both\''),
        ({"x": torch.zeros(7, 2), "norm": "l2"}, "propagate: norm must be one of receiver, both, none, got 'l2'"),
        ({"x": torch.zeros(7, 2).half()}, "propagate: values must be float32, float64 or bfloat16, got Half"),
        ({"x": torch.zeros(7, 2, device="meta")}, "propagate: x is on meta, the graph is on cpu"),
    ],
)
def test_propagate_refuses(arguments, message):
    with pytest.raises(ValueError, match="^" + message):
        propagate(random_graph(5, 7, 0.4), **arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"users": torch.zeros(4, 2)}, "users has 4 rows, the graph has 5 users"),
        ({"items": torch.zeros(8, 2)}, "items has 8 rows, the graph has 7 items"),
        (
            {"items": torch.zeros(7, 3)},
            r"users and items must have the same width and dtype, got 2 \(torch.float32\) and 3",
        ),
        (
            {"items": torch.zeros(7, 2).double()},
            r"users and items must have the same width and dtype, got 2 \(torch.float32\) and 2 \(torch.f",
        ),
        ({"layers": -1}, "layers must not be negative, got -1"),
        ({"norm": "sym"}, "norm must be one of"),
    ],
)
def test_lightgcn_refuses(change, message):
    arguments = {"users": torch.zeros(5, 2), "items": torch.zeros(7, 2), "layers": 2} | change
    with pytest.raises(ValueError, match="^lightgcn: " + message):
        lightgcn(random_graph(5, 7, 0.4), **arguments)
