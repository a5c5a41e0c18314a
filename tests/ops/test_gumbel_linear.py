"""gumbel_linear and GumbelRows against products with the rows of gumbel_softmax."""

import pytest
import torch
from csr_blocks import normal, random_graph
from tolerances import assert_as_accurate, assert_close
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl_fast import reference
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.ops.gumbel_linear import gumbel_linear
from mmssl_fast.ops.gumbel_method import gumbel_method
from mmssl_fast.ops.gumbel_rows import GumbelRows
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax

pytestmark = pytest.mark.usefixtures("poison")

METHODS = ["dense", "order_statistics"]
GRAPHS = [(41, 401, 0.05), (7, 1271, 0.01), (1, 50, 0.5), (33, 1, 0.5), (9, 11, 0.0), (9, 300, 1.0), (3, 5000, 0.001)]


def make_weight(hidden, items, dtype, item_major):
    weight = normal(items, hidden, dtype=dtype).T
    return (weight if item_major else weight.contiguous()).requires_grad_()


@pytest.mark.parametrize("item_major", [True, False])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("shape", GRAPHS)
def test_gumbel_linear_values_and_gradients(shape, method, dtype, item_major):
    graph = random_graph(*shape)
    users = torch.cat((torch.arange(graph.n_users), torch.zeros(1, dtype=torch.int64)))
    weight = make_weight(19, graph.n_items, dtype, item_major)
    rows = gumbel_softmax(graph, users, 0.2, 5, 2, method=method)
    cotangent = normal(len(users), 19, seed=3).to(dtype)

    y = gumbel_linear(graph, users, weight, 0.2, 5, 2, method=method)
    assert y.dtype == dtype
    actual = [y.detach(), *torch.autograd.grad(y, weight, cotangent)]
    plain = [rows.to(dtype) @ weight.detach().T, cotangent.T @ rows.to(dtype)]
    truth = [rows.double() @ weight.detach().double().T, cotangent.double().T @ rows.double()]
    # The rows themselves are float32: a tile's differ from gumbel_softmax's by their rounding.
    tiny = {torch.float64: 1e-6, torch.float32: 2e-6, torch.bfloat16: 2e-2}[dtype]
    for parts in zip(actual, plain, truth, strict=True):
        assert_as_accurate(*parts, tiny=tiny)


def test_gumbel_linear_equals_reference():
    graph, weight = random_graph(41, 401, 0.05), normal(19, 401)
    users = torch.arange(41)
    actual = gumbel_linear(graph, users, weight, 0.5, 5, 2, noise_scale=0.7, method="dense")
    expected = reference.gumbel_linear(graph, users, weight, 0.5, 5, 2, noise_scale=0.7)
    torch.testing.assert_close(actual, expected, atol=1e-6, rtol=1e-6)


@pytest.mark.parametrize("n_items, tau", [(401, 0.2), (2000, 0.1), (50, 2.0)])
def test_gumbel_linear_auto_is_the_method_named(n_items, tau):
    graph, weight = random_graph(9, n_items, 0.05), normal(5, n_items)
    users, method = torch.arange(9), gumbel_method(tau, 1.0, n_items)
    expected = gumbel_linear(graph, users, weight, tau, 5, method=method)
    assert torch.equal(gumbel_linear(graph, users, weight, tau, 5), expected)
    assert GumbelRows(graph, users, tau, 5).method == method


@pytest.mark.parametrize("method", METHODS)
def test_gumbel_rows_products_share_one_generation(method):
    graph, users = random_graph(41, 3000, 0.01), torch.arange(41)
    mats = [normal(3000, 8, dtype=torch.float32), normal(3000, 3, seed=2), normal(3000, 5, dtype=torch.bfloat16)]
    rows = GumbelRows(graph, users, 0.2, 5, method=method)
    assert rows.shape == (41, 3000)
    dense = rows.dense()
    assert torch.equal(dense, gumbel_softmax(graph, users, 0.2, 5, method=method))
    products, square = rows.forward(mats)
    for product, x in zip(products, mats, strict=True):
        assert product.dtype == x.dtype
        assert_close(
            product, dense.double() @ x.double(), max(x.dtype, torch.float32, key=lambda d: torch.finfo(d).eps)
        )
    assert square.dtype == torch.float64
    assert_close(square, dense.double().square().sum(1), torch.float32)
    grads = [normal(41, 8, seed=4, dtype=torch.float32), normal(41, 3, seed=5)]
    outs = [torch.ones(3000, 8), torch.ones(3000, 3, dtype=torch.float64)]
    for times in (1, 2):
        rows.backward(grads, outs)
        for grad, out in zip(grads, outs, strict=True):
            assert_close(out, 1 + times * (dense.double().T @ grad.double()), torch.float32)


@pytest.mark.parametrize("method", METHODS)
@pytest.mark.parametrize("span", [(0, 900), (900, 3000), (0, 3000), (7, 7)])
def test_gumbel_rows_of_some_items_are_columns_of_all(method, span):
    graph, users = random_graph(41, 3000, 0.01), torch.arange(41)
    whole = GumbelRows(graph, users, 0.2, 5, method=method)
    rows = GumbelRows(graph, users, 0.2, 5, method=method, items=span)
    columns = whole.dense()[:, slice(*span)]
    assert rows.shape == columns.shape and torch.equal(rows.dense(), columns)
    x = normal(columns.shape[1], 3)
    (product,), square = rows.forward([x])
    assert_close(product, columns.double() @ x, torch.float32)
    assert_close(square, columns.double().square().sum(1), torch.float32)


@pytest.mark.parametrize("method", METHODS)
def test_gumbel_linear_gradcheck(method):
    graph, users = random_graph(5, 7, 0.3), torch.tensor([4, 1, 1])
    for weight in (make_weight(3, 7, torch.float64, True), make_weight(3, 7, torch.float64, False)):
        check = lambda w: gumbel_linear(graph, users, w, 0.3, 5, method=method)  # noqa: E731
        assert torch.autograd.gradcheck(check, weight)
        assert torch.autograd.gradgradcheck(check, weight)
    column = normal(1, 7).requires_grad_()
    assert torch.autograd.gradcheck(
        lambda w: gumbel_linear(graph, users, w.expand(4, 7), 0.3, 5, method=method), column
    )


@pytest.mark.parametrize("method", METHODS)
def test_gumbel_linear_opcheck(method):
    graph, users = random_graph(5, 7, 0.3), torch.arange(5)
    noise = (0.3, torch.tensor([5, 0]), 1.0, method == "order_statistics", 0)
    weight, grad = make_weight(3, 7, torch.float64, True), normal(5, 3).requires_grad_()
    torch.library.opcheck(torch.ops.mmssl_fast.gumbel_linear, (weight, graph.crow, graph.col, users, *noise))
    torch.library.opcheck(torch.ops.mmssl_fast.gumbel_linear_bwd, (grad, graph.crow, graph.col, users, 7, *noise))


@pytest.mark.parametrize("method", METHODS)
def test_gumbel_linear_compiles_fullgraph(method):
    graph, users = random_graph(41, 401, 0.05), torch.arange(41)
    weight = make_weight(19, 401, torch.float64, True)

    def step(weight, offset):
        return gumbel_linear(graph, users, weight, 0.2, 5, offset, method=method).square()

    torch._dynamo.reset()
    compiled = torch.compile(step, fullgraph=True, backend="aot_eager")
    for offset in (0, 1, 2):
        for f in (compiled, step):
            y = f(weight, offset)
            (grad,) = torch.autograd.grad(y.sum(), weight)
            if f is compiled:
                kept = y, grad
        assert_close(kept[0], y)
        assert_close(kept[1], grad)


class LargestTensor(TorchDispatchMode):
    """Remembers the number of entries of the largest tensor that an operator returned."""

    largest = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for t in torch.utils._pytree.tree_leaves(result):
            if isinstance(t, torch.Tensor):
                self.largest = max(self.largest, t.numel())
        return result


@pytest.mark.parametrize("method", METHODS)
def test_gumbel_rows_never_form_the_matrix(method):
    batch, items = 512, 20_000
    graph, users = random_graph(batch, items, 0.001), torch.arange(batch)
    mats, grads = [normal(items, 4, dtype=torch.float32)], [normal(batch, 4, dtype=torch.float32)]
    with LargestTensor() as seen:
        rows = GumbelRows(graph, users, 0.2, 5, method=method)
        rows.forward(mats)
        rows.backward(grads, [torch.zeros(items, 4)])
    assert seen.largest <= 2**20
    with LargestTensor() as seen:
        rows.dense()
    assert seen.largest == batch * items


def test_gumbel_linear_same_bits_for_any_thread_count(threads):
    graph, users, weight = random_graph(401, 1271, 0.02), torch.arange(401), normal(8, 1271, dtype=torch.float32)
    results = []
    for count in (1, 2):
        threads(count)
        results.append(gumbel_linear(graph, users, weight, 0.2, 5, method="order_statistics"))
    assert torch.equal(*results)


@pytest.mark.parametrize("method", METHODS)
def test_gumbel_linear_empty(method):
    graph, weight = random_graph(9, 41, 0.1), normal(3, 41).requires_grad_()
    y = gumbel_linear(graph, torch.empty(0, dtype=torch.int64), weight, 0.2, 5, method=method)
    assert y.shape == (0, 3)
    (grad,) = torch.autograd.grad(y.sum(), weight)
    assert torch.equal(grad, torch.zeros(3, 41, dtype=torch.float64))
    nothing = InteractionGraph.from_pairs([], [], 3, 0)
    y = gumbel_linear(nothing, torch.arange(3), torch.zeros(2, 0), 0.2, 5, method=method)
    assert torch.equal(y, torch.zeros(3, 2))


def test_gumbel_linear_refuses():
    graph, users = random_graph(9, 41, 0.1), torch.arange(9)
    weight = torch.zeros(3, 41)
    with pytest.raises(ValueError, match=r"^gumbel_linear: weight must be \[H, 41\], got \(41, 3\)"):
        gumbel_linear(graph, users, weight.T, 0.2, 5)
    with pytest.raises(ValueError, match=r"^gumbel_linear: tau must be positive, got 0"):
        gumbel_linear(graph, users, weight, 0, 5)
    with pytest.raises(ValueError, match=r"^gumbel_linear: order statistics need tau / noise_scale < 1, got 2.0 / 1.0"):
        gumbel_linear(graph, users, weight, 2.0, 5, method="order_statistics")
    rows = GumbelRows(graph, users, 2.0, 5)
    with pytest.raises(
        ValueError, match=r"^GumbelRows.block: only method \"order_statistics\" has sparse rows, got 'dense'"
    ):
        rows.block()
    with pytest.raises(ValueError, match=r"^GumbelRows.forward: x must be \[41, k\], got shape \(40, 3\)"):
        rows.forward([torch.zeros(40, 3)])
    with pytest.raises(
        ValueError, match=r"^GumbelRows.backward: the gradient must be \[9, k\] and the output \[41, k\], got"
    ):
        rows.backward([torch.zeros(9, 3)], [torch.zeros(41, 4)])
    with pytest.raises(
        ValueError, match=r"^GumbelRows.backward: the output must be float32 or float64, got torch.bfloat16"
    ):
        rows.backward([torch.zeros(9, 3)], [torch.zeros(41, 3).bfloat16()])
