"""mmssl_fast.dropin.sparse: products of sparse and dense matrices are torch's, faster, and nothing else changes."""

import gc
import warnings

import pytest
import scipy.sparse as sp
import torch
import torch.nn as nn
from dropin_clients import lightgcn
from tolerances import assert_close

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.adjacency import Adjacency

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:Sparse invariant checks")


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(sparse, "_told", set())
    monkeypatch.setattr(sparse, "_prepared", {})


@pytest.fixture
def taken(monkeypatch):
    """The number of products that ran on propagate."""
    calls, real = [], Adjacency.mm
    monkeypatch.setattr(Adjacency, "mm", lambda self, x: calls.append(x.shape) or real(self, x))
    return calls


def matrix(layout="coo", n_rows=17, n_cols=11, dtype=torch.float64, seed=0):
    """Not symmetric, negative values, an empty row and column, entries out of order and one of them twice."""
    random = torch.Generator().manual_seed(seed)
    row, col = (torch.randint(n, (60,), generator=random) for n in (n_rows - 1, n_cols - 1))
    row[-1], col[-1] = row[0], col[0]
    value = torch.randn(60, generator=random, dtype=torch.float64).to(dtype)
    coo = torch.sparse_coo_tensor(torch.stack((row, col)), value, (n_rows, n_cols))
    return {"coo": lambda: coo, "csr": coo.to_sparse_csr, "csc": coo.to_sparse_csc}[layout]()


def dense(*shape, dtype=torch.float64, seed=1):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)).to(dtype)


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
    assert taken == [(11, 5)]
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
    assert not sparse._prepared


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_matrix_written_to_is_prepared_anew(layout):
    a, x = matrix(layout), dense(11, 3)
    sparse.mm(a, x)
    (a.coalesce() if layout == "coo" else a).values()
    a.mul_(3) if layout == "coo" else a.values().mul_(3)
    assert_close(sparse.mm(a, x), a.to_dense() @ x)


LEFT = {
    "a matrix that requires grad": (lambda: matrix().requires_grad_(), lambda: dense(11, 3)),
    "no dense matrix": (lambda: matrix(), lambda: matrix(n_rows=11, n_cols=7)),
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


# --- Adjacency --------------------------------------------------------------------------------------------------------
def test_adjacency_behaves_as_the_sparse_tensor_it_stands_for():
    a, x = matrix(), dense(17, 3)
    own = Adjacency.from_torch(a)
    assert own.shape == a.shape and own.size(0) == 17 and own.dtype == torch.float64 and own.is_sparse
    assert_close(own.to_dense(), a.to_dense())
    assert_close(own.t() @ x, a.to_dense().T @ x)
    assert_close(own.T.to_torch().to_dense(), a.to_dense().T)
    assert own.float().double().dtype == torch.float64 and own.to(torch.float64) is own and own.cpu() is own
    assert_close(torch.mm(own.float(), dense(11, 2).float()), a.to_dense() @ dense(11, 2), torch.float32)
    assert own.coalesce() is own and not own.requires_grad and "17 x 11" in repr(own)
    with pytest.raises(ValueError, match=r"Adjacency.mm: x must be \[11, d\], got \(17, 3\)"):
        own @ x
    with pytest.raises(ValueError, match="float32"):
        own @ dense(11, 3).float()
    with pytest.raises(TypeError, match=r"relu does not take an Adjacency .*to_torch"):
        torch.relu(own)
    with pytest.raises(TypeError, match="first factor"):
        torch.mm(x.T, own)
    with pytest.raises(AttributeError, match="to_torch"):
        own.values()
    with pytest.raises(TypeError, match="strided"):
        Adjacency.from_torch(x)


@pytest.mark.parametrize("kind", [sp.coo_matrix, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.dok_matrix])
def test_adjacency_of_scipy(kind):
    a = kind(sp.random(13, 7, 0.3, random_state=0) * 2.5)
    own = Adjacency.from_scipy(a)
    assert own.dtype == torch.float32
    assert_close(own @ dense(7, 3).float(), torch.from_numpy(a.toarray()) @ dense(7, 3), torch.float32)


# --- models -----------------------------------------------------------------------------------------------------------
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
