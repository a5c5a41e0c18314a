"""mmssl_fast.dropin.sparse: products of sparse and dense matrices are torch's, faster, and nothing else changes."""

import copy
import gc
import pickle
import threading
import warnings

import pytest
import scipy.sparse as sp
import torch
import torch.nn as nn
import torch.utils.checkpoint
from dropin_clients import lightgcn
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
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


# --- modes ------------------------------------------------------------------------------------------------------------
def product_and_gradient(a, x, product=torch.sparse.mm):
    x = x.clone().requires_grad_()
    y = product(a, x)
    (dx,) = torch.autograd.grad(y, x, torch.ones_like(y))
    return y.detach(), dx


def near(found, truth):
    torch.testing.assert_close(found, truth, rtol=1e-5, atol=1e-5)


def assert_torchs(a, x):
    truth = a.to_dense()
    with sparse.accelerated():
        y, dx = product_and_gradient(a, x)
    assert type(y) is torch.Tensor and y.dtype == truth.dtype
    near(y, truth @ x)
    near(dx, truth.T @ torch.ones_like(y))


FIRST = {
    "inference_mode": lambda a, x: torch.inference_mode()(torch.sparse.mm)(a, x),
    "no_grad": lambda a, x: torch.no_grad()(torch.sparse.mm)(a, x),
    "func.grad": lambda a, x: torch.func.grad(lambda t: torch.sparse.mm(a, t).sum())(x),
    "func.jvp": lambda a, x: torch.func.jvp(lambda t: torch.sparse.mm(a, t), (x,), (x,)),
    "vmap": lambda a, x: torch.vmap(lambda t: torch.sparse.mm(a, t))(x[None]),
}


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("first", FIRST)
def test_a_matrix_trains_after_its_first_use_in_a_mode(first, layout, taken):
    a, x = matrix(layout), dense(11, 3)
    with sparse.accelerated():
        FIRST[first](a, x)
    assert taken
    assert_torchs(a, x)
    kept = sparse.prepared(a)
    assert not any(t.is_inference() for t in (*kept._forward, *kept._backward))


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_matrix_made_in_inference_mode(layout):
    with torch.inference_mode():
        a, x = matrix(layout), dense(11, 3)
        own = Adjacency.from_torch(a)
        with sparse.accelerated():
            for factor in (1, 2, -3):
                (a._values() if layout == "coo" else a.values()).mul_(factor)  # has no version
                assert_close(torch.sparse.mm(a, x), a.to_dense() @ x)
    assert_torchs(a.clone(), x.clone())
    product_and_gradient(own.double(), dense(11, 3), torch.mm)


def test_transforms_of_torch_func_go_through():
    a, x = matrix(), dense(11, 3)
    truth = a.to_dense()
    with sparse.accelerated():
        assert_close(torch.func.grad(lambda t: torch.sparse.mm(a, t).sin().sum())(x), truth.T @ (truth @ x).cos())
        assert_close(torch.func.jvp(lambda t: torch.sparse.mm(a, t), (x,), (2 * x,))[1], 2 * (truth @ x))
        assert_close(torch.vmap(lambda t: torch.sparse.mm(a, t))(torch.stack([x, -x])), truth @ torch.stack([x, -x]))
        assert_close(torch.func.jacrev(lambda t: torch.sparse.mm(a, t))(x[:, :1]).squeeze(), truth)


@pytest.mark.filterwarnings("ignore:.*left to torch.*")
def test_an_exported_model_leaves_nothing_behind(taken):
    a, x = matrix(), dense(11, 3)

    class Model(nn.Module):
        def forward(self, x):
            return torch.sparse.mm(a, x)

    with sparse.accelerated():
        torch.export.export(Model(), (x,))
    assert not taken
    assert_torchs(a, x)


@pytest.mark.parametrize("backward", ["method", "autograd.backward", "autograd.grad", "create_graph"])
@pytest.mark.parametrize("use_reentrant", [False, True])
def test_checkpointed_products_are_recomputed_as_they_were(use_reentrant, backward, taken):
    if use_reentrant and backward in ("autograd.grad", "create_graph"):
        pytest.skip("torch's reentrant checkpoint takes neither")
    a, x = matrix(), dense(11, 3)

    def gradient():
        t = x.clone().requires_grad_()
        loss = torch.utils.checkpoint.checkpoint(
            lambda t: torch.sparse.mm(a, t).pow(2).tanh(), t, use_reentrant=use_reentrant
        ).sum()
        if backward == "method":
            loss.backward()
        elif backward == "autograd.backward":
            torch.autograd.backward([loss])
        elif backward == "autograd.grad":
            return torch.autograd.grad(loss, [t])[0]
        else:
            (first,) = torch.autograd.grad(loss, t, create_graph=True)
            first.square().sum().backward()
        return t.grad

    truth = gradient()
    assert not taken
    with sparse.accelerated():
        assert_close(gradient(), truth)
    assert len(taken) == (3 if backward == "create_graph" else 2), "the recomputation is accelerated too"


def test_backward_inside_the_context_is_torchs():
    x = dense(4, 3).requires_grad_()
    with sparse.accelerated():
        x.sum().backward(retain_graph=True)
        x.backward(torch.ones_like(x), inputs=[x])
        torch.autograd.backward((x.sum(), x), (None, torch.ones_like(x)))
        with pytest.raises(RuntimeError, match="scalar outputs"):
            x.backward()
        with pytest.raises(RuntimeError, match="not have been used"):
            torch.autograd.grad(x.sum(), dense(2, 2).requires_grad_())
    assert torch.equal(x.grad, torch.full_like(x, 4))


def test_enable_is_of_a_thread(taken):
    a, x = matrix(), dense(11, 3)

    def other():
        torch.sparse.mm(a, x)
        count.append(len(taken))
        sparse.disable()  # ends nothing of the first thread's
        sparse.enable()
        torch.sparse.mm(a, x)
        count.append(len(taken))
        sparse.disable()

    count = []
    sparse.enable()
    try:
        thread = threading.Thread(target=other)
        thread.start()
        thread.join()
        torch.sparse.mm(a, x)
    finally:
        sparse.disable()
    assert count == [0, 1] and len(taken) == 2


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_two_threads_meet_a_new_matrix_at_once(layout):
    a, x, wrong = matrix(layout), dense(11, 3), []
    truth, barrier = a.to_dense() @ x, threading.Barrier(4)

    def work():
        barrier.wait()
        for _ in range(20):
            if not torch.allclose(sparse.mm(a, x), truth):
                wrong.append(1)

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not wrong


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_a_copied_adjacency(copied):
    own = copied(Adjacency.from_torch(matrix()))
    assert_close(product_and_gradient(own, dense(11, 3), torch.mm)[0], matrix().to_dense() @ dense(11, 3))


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


# --- writes -----------------------------------------------------------------------------------------------------------
def values_of(a):
    return a._values() if a.layout == torch.sparse_coo else a.values()


def other_matrix(a, seed):
    layout = {torch.sparse_coo: "coo", torch.sparse_csr: "csr", torch.sparse_csc: "csc"}[a.layout]
    made = matrix(layout, *a.shape, dtype=a.dtype, seed=seed)
    return made.coalesce() if layout == "coo" and a.is_coalesced() else made


def move_an_entry(a, random):
    """The column (of CSC the row) of one entry, through a view that leaves no version."""
    ids = a._indices()[1] if a.layout == torch.sparse_coo else a.col_indices() if a.layout == torch.sparse_csr else None
    ids = a.row_indices() if ids is None else ids
    size = a.shape[0] if a.layout == torch.sparse_csc else a.shape[1]
    ids.data[random % 60 : random % 60 + 1] = random % size


def through_numpy(a, random):
    values_of(a).detach().numpy()[random % 60 :] = random % 7 - 3


def resized(a, random):
    if a.layout == torch.sparse_coo:
        a.sparse_resize_((a.shape[0] + random % 3, a.shape[1]), 2, 0)
    elif a.layout == torch.sparse_csr:
        a.resize_((a.shape[0], a.shape[1]))


def meta_and_back(a, random):
    kept = a.data
    a.data = a.data.to("meta")
    a.data = kept


def to_dtype(a, random):
    if a.layout != torch.sparse_coo:
        raise RuntimeError("changes the dtype of a CSR tensor's data and leaves its values as they are")
    a.data = a.data.to(torch.float32 if a.dtype == torch.float64 else torch.float64)


WRITES = {
    "mul_": lambda a, random: a.mul_(random % 5 - 2),
    "values.mul_": lambda a, random: values_of(a).mul_(random % 5 - 2),
    "values.data": lambda a, random: values_of(a).data.add_(random % 5),
    "values in inference mode": lambda a, random: torch.inference_mode()(lambda: values_of(a).data.add_(1))(),
    "permuted values": lambda a, random: values_of(a).data.copy_(values_of(a).flip(0).clone()),
    "numpy": through_numpy,
    "moved entry": move_an_entry,
    "copy_": lambda a, random: a.copy_(other_matrix(a, random)),
    "data": lambda a, random: setattr(a, "data", other_matrix(a, random)),
    "data scaled": lambda a, random: setattr(a, "data", a.data * 3),
    "zero_": lambda a, random: a.zero_(),
    "resize": resized,
    "dtype": to_dtype,
    "meta and back": meta_and_back,
    "values.set_": lambda a, random: values_of(a).detach().set_(values_of(a) * 2),
    "nothing": lambda a, random: None,
}


@pytest.mark.filterwarnings("ignore:.*left to torch.*")
@pytest.mark.parametrize("kind", ["coo", "coalesced", "csr", "csc"])
@settings(
    max_examples=25,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
@given(st.lists(st.tuples(st.sampled_from(sorted(WRITES)), st.integers(0, 1000)), min_size=1, max_size=6))
def test_however_a_matrix_is_written_to_the_product_is_torchs(kind, writes):
    a = matrix("coo" if kind == "coalesced" else kind)
    a = torch.nn.Parameter(a.coalesce() if kind == "coalesced" else a, requires_grad=False)
    assert_torchs(a, dense(a.shape[1], 3, dtype=a.dtype))
    for name, random in writes:
        try:
            with torch.no_grad():
                WRITES[name](a, random)
        except (RuntimeError, NotImplementedError):
            pass  # torch takes no such write for this layout
        assert_torchs(a, dense(a.shape[1], 3, dtype=a.dtype))


@pytest.mark.parametrize("name", WRITES)
@pytest.mark.parametrize("kind", ["coo", "coalesced", "csr", "csc"])
def test_each_way_to_write(kind, name):
    a = matrix("coo" if kind == "coalesced" else kind)
    a = torch.nn.Parameter(a.coalesce() if kind == "coalesced" else a, requires_grad=False)
    assert_torchs(a, dense(11, 3))
    try:
        with torch.no_grad():
            WRITES[name](a, 7)
    except (RuntimeError, NotImplementedError) as error:
        pytest.skip(f"torch: {error}")
    assert_torchs(a, dense(a.shape[1], 3, dtype=a.dtype))


def test_a_module_moved_to_another_dtype():
    module = nn.Module()
    module.a = nn.Parameter(matrix(dtype=torch.float32), requires_grad=False)
    assert_torchs(module.a, dense(11, 3, dtype=torch.float32))
    module.double()
    assert_torchs(module.a, dense(11, 3))


@pytest.mark.filterwarnings("ignore:.*left to torch.*")
def test_a_matrix_on_meta_is_torchs(taken):
    with sparse.accelerated():
        with pytest.raises(NotImplementedError, match=r"aten::|SparseMeta"):
            torch.sparse.mm(matrix().to("meta"), dense(11, 3).to("meta"))
    assert not taken
