"""mmssl_fast.dropin.sparse: products of sparse and dense matrices are torch's, faster, and nothing else changes."""

import gc
import warnings

import pytest
import torch
import torch.nn as nn
from dropin_clients import lightgcn
from dropin_clients.sparse_matrices import dense, matrix, near
from tolerances import assert_close

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.sparse import Adjacency, decide

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:Sparse invariant checks"),
    pytest.mark.usefixtures("fresh", "small_ones_pay"),
]


PRODUCTS = {
    "sparse.mm": lambda a, x: torch.sparse.mm(a, x),
    "mm": lambda a, x: torch.mm(a, x),
    "spmm": lambda a, x: torch.spmm(a, x),
    "matmul": lambda a, x: torch.matmul(a, x),
    "method": lambda a, x: a.mm(x),
    "operator": lambda a, x: a @ x,
}


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32])
@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("product", PRODUCTS)
def test_products_and_gradients_are_torchs(product, layout, dtype, taken):
    a, x = matrix(layout, dtype=dtype), dense(11, 5, dtype=dtype).requires_grad_()
    grad = dense(17, 5, dtype=dtype, seed=2)
    truth = a.to_dense().double() @ x.double()
    with sparse.accelerated():
        y = PRODUCTS[product](a, x)
        (dx,) = torch.autograd.grad(y, x, grad)
    assert len(taken) == 1
    assert_close(y, truth)
    assert_close(dx, a.to_dense().double().T @ grad.double())
    PRODUCTS[product](a, x)
    assert len(taken) == 1, "outside the context torch's own product runs"


def test_function_equals_torch_and_takes_an_adjacency():
    a, x = matrix(), dense(11, 3)
    for own in (a, Adjacency.from_torch(a)):
        assert_close(sparse.mm(own, x), torch.sparse.mm(a, x))


def test_gradcheck_to_the_second_order():
    a = matrix()
    x = dense(11, 2).requires_grad_()
    assert torch.autograd.gradcheck(lambda x: sparse.mm(a, x), x)
    assert torch.autograd.gradgradcheck(lambda x: sparse.mm(a, x).sin(), x)


@pytest.mark.parametrize("n_rows, n_cols, d", [(17, 11, 0), (17, 11, 1), (2, 9, 3)])
def test_odd_shapes(n_rows, n_cols, d):
    a, x = matrix(n_rows=n_rows, n_cols=n_cols), dense(n_cols, d)
    assert_close(sparse.mm(a, x), a.to_dense() @ x)
    assert sparse.mm(torch.sparse_coo_tensor(size=(3, 4), dtype=torch.float64), dense(4, 2)).equal(
        torch.zeros(3, 2, dtype=torch.float64)
    )


def test_a_matrix_is_prepared_once_and_forgotten_with_it():
    a, x = matrix(), dense(11, 3)
    first = sparse.prepared(a)
    sparse.mm(a, x)
    assert sparse.prepared(a) is first and sparse.prepared(matrix()) is not first
    del a
    gc.collect()
    assert not len(decide._matrices)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_matrix_written_to_is_prepared_anew(layout):
    a, x = matrix(layout), dense(11, 3)
    sparse.mm(a, x)
    (a.coalesce() if layout == "coo" else a).values()
    a.mul_(3) if layout == "coo" else a.values().mul_(3)
    assert_close(sparse.mm(a, x), a.to_dense() @ x)


LEFT = {
    "a matrix that requires grad": (lambda: matrix().requires_grad_(), lambda: dense(11, 3)),
    "a product of two sparse matrices": (lambda: matrix(), lambda: matrix(n_rows=11, n_cols=7)),
    "a matrix of torch.int64": (lambda: matrix().long(), lambda: dense(11, 3).long()),
}


@pytest.mark.parametrize("name", LEFT)
def test_what_cannot_be_taken_goes_to_torch_and_says_so_once(name, taken):
    a, x = (make() for make in LEFT[name])
    truth = torch.sparse.mm(a, x).to_dense()
    with sparse.accelerated():
        with pytest.warns(UserWarning, match=f"{name} is left to torch"):
            found = torch.sparse.mm(a, x)
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            torch.sparse.mm(a, x)
    assert torch.equal(found.to_dense(), truth) and not taken


def test_gradients_of_edge_values_stay_torchs():
    a = matrix().coalesce().requires_grad_()
    x = dense(11, 3)
    with sparse.accelerated(), pytest.warns(UserWarning, match="requires grad"):
        loss = torch.sparse.mm(a, x).square().sum()
    (found,) = torch.autograd.grad(loss, a)
    (truth,) = torch.autograd.grad(torch.sparse.mm(a, x).square().sum(), a)
    assert_close(found.to_dense(), truth.to_dense())


def test_everything_else_is_untouched(taken):
    a, x, w = matrix(), dense(11, 3), dense(3, 4)
    with sparse.accelerated(), warnings.catch_warnings():
        warnings.simplefilter("error")
        assert torch.equal(x @ w, torch.mm(x, w)) and torch.equal(nn.functional.linear(x, w.T), torch.mm(x, w))
        assert not taken
        with pytest.raises(RuntimeError, match="cannot be multiplied"):
            x @ x
        sparse.mm(a, x)


def test_wrong_sizes_are_torchs_error(taken):
    with sparse.accelerated(), pytest.warns(UserWarning, match="sizes"), pytest.raises(RuntimeError):
        torch.sparse.mm(matrix(), dense(12, 3))


def test_enable_lasts_until_disable(taken):
    a, x = matrix(), dense(11, 3)
    sparse.enable()
    sparse.enable()
    try:
        torch.sparse.mm(a, x)
    finally:
        sparse.disable()
    torch.sparse.mm(a, x)
    sparse.disable()
    assert len(taken) == 1


@pytest.mark.parametrize("frozen_items", [False, True])
def test_a_model_trains_to_the_same_parameters(frozen_items, taken):
    n_users, n_items = 40, 30
    random = torch.Generator().manual_seed(3)
    users, items = (torch.randint(n, (300,), generator=random) for n in (n_users, n_items))

    def trained():
        torch.manual_seed(0)
        adjacency = lightgcn.joint_adjacency(users, items, n_users, n_items)
        if frozen_items:
            model = lightgcn.FrozenItemGraph(adjacency, dense(n_items, 8).float(), n_users, n_items)
        else:
            model = lightgcn.LightGCN(adjacency, n_users, n_items)
        optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
        for _ in range(5):
            optimiser.zero_grad()
            model.loss(users, items, items.flip(0)).backward()
            optimiser.step()
        return list(model.parameters())

    truth = trained()
    assert not taken
    with sparse.accelerated():
        found = trained()
    assert len(taken) == 5 * (2 + frozen_items)
    for a, t in zip(found, truth, strict=True):
        torch.testing.assert_close(a, t, rtol=1e-4, atol=1e-6)


@pytest.mark.filterwarnings("ignore:.*left to torch.*")
def test_matrices_of_other_dimensions_are_torchs(taken):
    vector, x = torch.ones(3).to_sparse(), dense(3, 2).float()
    with sparse.accelerated():
        with pytest.raises((RuntimeError, IndexError)):
            torch.sparse.mm(vector, x)
        with pytest.raises(RuntimeError):
            torch.sparse.mm(torch.ones(2, 2, 3).to_sparse(), x)
    assert not taken


def test_a_matrix_that_is_wrongly_called_coalesced():
    """torch sums what is stored, in whatever order, and so does this."""
    indices = torch.tensor([[2, 0, 2, 1], [1, 0, 1, 3]])
    a = torch.sparse_coo_tensor(indices, torch.tensor([1.0, 2.0, 3.0, 4.0]), (3, 4), is_coalesced=True)
    x = dense(4, 2).float()
    expected = torch.sparse.mm(a, x)
    near(sparse.mm(a, x), expected)
    near(Adjacency.from_torch(a).to_dense() @ x, expected)
