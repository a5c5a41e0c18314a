"""What the sparse drop-in says that it did, and the rule by which it leaves products to torch."""

import operator
import warnings

import pytest
import torch
from dropin_clients.sparse_matrices import assert_torchs, dense, matrix
from tolerances import assert_close

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.sparse import Adjacency, cost, decide, pattern
from mmssl_fast.dropin.sparse.matrices import TOO_BRIEF, TOO_SMALL

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:Sparse invariant checks"),
    pytest.mark.usefixtures("fresh"),
]


def graph(entries=4000, n=500, seed=0):
    random = torch.Generator().manual_seed(seed)
    indices = torch.randint(n, (2, entries), generator=random)
    return torch.sparse_coo_tensor(indices, torch.rand(entries, generator=random), (n, n)).coalesce()


def without_edges(a, seed):
    """Edge dropout as LightGCN-PyTorch and MMRec write it."""
    keep = torch.rand(a._nnz(), generator=torch.Generator().manual_seed(seed)) > 0.2
    return torch.sparse_coo_tensor(a._indices()[:, keep], a._values()[keep] / 0.8, a.shape)


def with_values(a, seed):
    value = torch.rand(a._nnz(), generator=torch.Generator().manual_seed(seed))
    return torch.sparse_coo_tensor(a._indices(), value, a.shape)


@pytest.mark.usefixtures("small_ones_pay")
def test_the_report_counts_products_matrices_and_reasons():
    a, x = matrix(), dense(11, 3)
    with sparse.accelerated(), pytest.warns(UserWarning, match="left to torch"):
        for _ in range(64):
            a @ x
        a @ a.t()
    report = sparse.report()
    assert report.taken == 64 and report.left == {"a product of two sparse matrices": 1}
    (kind,) = report.matrices
    assert (kind.prepared, kind.revalued, kind.products, kind.entries, kind.shape) == (1, 0, 64, 60, (17, 11))
    assert report.seconds > 0 and report.prepare_seconds > 0
    assert len(report.ratios) == 3 and report.speedup == sorted(report.ratios)[1]
    text = str(report)
    assert "64 sparse products taken, 1 left to torch" in text and "two sparse matrices: 1" in text
    assert "17 x 11, 60 entries, COO, float64: prepared 1 times" in text and "3 timed against torch's own" in text
    with sparse.accelerated():
        a @ x
    assert report.taken == 64 and sparse.report().taken == 65, "a report is a copy"
    sparse.reset_report()
    assert sparse.report().taken == 0 and "time saved: not known" in str(sparse.report())


@pytest.mark.usefixtures("small_ones_pay")
@pytest.mark.parametrize("layout", ["coo", "coalesced", "csr", "csc"])
def test_other_values_on_a_known_pattern_are_not_sorted(layout, monkeypatch):
    a = matrix("coo" if layout == "coalesced" else layout)
    a = a.coalesce() if layout == "coalesced" else a
    made = {
        torch.sparse_coo: lambda v: torch.sparse_coo_tensor(a._indices().clone(), v, a.shape),
        torch.sparse_csr: lambda v: torch.sparse_csr_tensor(a.crow_indices(), a.col_indices(), v, a.shape),
        torch.sparse_csc: lambda v: torch.sparse_csc_tensor(a.ccol_indices(), a.row_indices(), v, a.shape),
    }[a.layout]
    sorts = []
    for name in ("coo_to_csr", "coo_to_csr_values"):
        real = getattr(pattern, name)
        monkeypatch.setattr(pattern, name, lambda *args, name=name, real=real: sorts.append(name) or real(*args))
    assert_torchs(a, dense(11, 3))
    for seed in range(3):
        assert_torchs(made(dense(a._nnz(), seed=seed)), dense(11, 3))
    with torch.no_grad():
        (a._values() if a.layout == torch.sparse_coo else a.values()).mul_(3)
    assert_torchs(a, dense(11, 3))
    assert sorts == ["coo_to_csr_values", "coo_to_csr"], "with the values, and once for all other values"
    (kind,) = sparse.report().matrices
    assert (kind.prepared, kind.revalued) == (1, 4)


@pytest.mark.usefixtures("small_ones_pay")
def test_a_matrix_prepared_anew_every_step_is_warned_of_once():
    a, x = graph(), torch.randn(500, 8)
    with sparse.accelerated(), warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        for step in range(30):
            dropped = without_edges(a, step)
            dropped @ (dropped @ x)
    (warning,) = [str(w.message) for w in caught if "mmssl_fast" in str(w.message)]
    assert "500 x 500 matrix was sorted 10 times, each time for about 2 products" in warning
    assert "torch.sparse_coo_tensor(a.indices(), values, a.shape)" in warning
    assert caught[-1].filename == __file__


@pytest.mark.usefixtures("small_ones_pay")
def test_values_that_change_every_step_are_not_warned_of():
    a, x = graph(), torch.randn(500, 8)
    with sparse.accelerated(), warnings.catch_warnings():
        warnings.simplefilter("error")
        for step in range(30):
            with_values(a, step) @ x
    (kind,) = sparse.report().matrices
    assert (kind.prepared, kind.revalued) == (1, 29)


def test_small_and_narrow_products_are_torchs(taken):
    a, x = matrix(dtype=torch.float32), dense(11, dtype=torch.float32)
    with sparse.accelerated():
        assert torch.equal(a @ x, torch.mv(a, x))
    assert not taken and sparse.report().left == {TOO_SMALL: 2}
    with sparse.accelerated(always=True):
        assert_close(a @ x, a.to_dense() @ x, torch.float32)
    assert len(taken) == 1


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("needs_grad", [False, True])
def test_small_products_are_decided_early_as_they_are_late(layout, needs_grad, monkeypatch):
    """What leaves a product to torch before the other checks is the rule that would leave it after them."""
    reached = []
    monkeypatch.setattr(decide, "_run", lambda *args, **kwargs: reached.append(args))
    with sparse.accelerated():
        for entries in (100, 1000, 1500, 2000, 3000, 20000):
            a = graph(entries, 400)
            a = {"coo": a, "csr": a.to_sparse_csr(), "csc": a.to_sparse_csc()}[layout]
            for width in (1, 64, 1024):
                is_vector = width == 1  # whose products take more of Python
                x = torch.randn(400, *(() if is_vector else (width,)), requires_grad=needs_grad)
                for grad in (False, True):
                    with torch.set_grad_enabled(grad):
                        a @ x
                    backward = needs_grad and grad
                    gain = cost.gain(a.layout, a._nnz(), a.shape, width, backward=backward, short=not is_vector)
                    assert bool(reached) == (gain > 0)
                    reached.clear()
    assert set(sparse.report().left) == {TOO_SMALL}


def test_matrices_that_live_for_too_few_products_are_torchs(taken):
    """1500 x 1500 with 4000 entries: one product with its gradient gains less than sorting costs, four gain more."""
    a, x = graph(5000, 1500), torch.randn(1500, 64).requires_grad_()
    gain = cost.gain(a.layout, 4000, a.shape, 64, backward=True, short=True)
    assert gain < cost.prepare_cost(4000, a.shape, False, short=True) < 4 * gain
    with sparse.accelerated():
        for step in range(20):
            without_edges(a, step) @ x
        assert len(taken) == 1, "the first, of which nothing was known"
        assert sparse.report().left == {TOO_BRIEF: 19}
        for _ in range(80):
            a @ x
    assert len(taken) > 50, "a matrix that lives on is prepared after all"
    with sparse.accelerated():
        for step in range(20):
            dropped = without_edges(a, step)
            for _ in range(6):
                dropped @ x
    assert sparse.report().matrices[0].prepared > 10, "and so are those that are used more often from now on"


def test_contents_that_change_at_every_product_cost_ever_less(taken):
    """The same tensor rewritten after each product: preparing in vain happens a logarithmic number of times."""
    a, x = graph(2000, 500), torch.randn(500, 64).requires_grad_()
    random = torch.Generator().manual_seed(0)
    with sparse.accelerated():
        for _ in range(400):
            with torch.no_grad():
                a._indices().copy_(a._indices()[:, torch.randperm(a._nnz(), generator=random)])
            a @ x
    (kind,) = sparse.report().matrices
    assert kind.prepared + kind.revalued <= 20


def test_decisions_are_the_same_in_every_run():
    """Also where the product is called by another name."""
    counts = []
    calls = operator.matmul, operator.matmul, lambda a, x: torch.mm(a, x)
    for product in calls:
        sparse.reset_report()
        a, x = graph(4000, 500), torch.randn(500, 32).requires_grad_()
        with sparse.accelerated():
            for step in range(12):
                dropped = without_edges(a, step)
                for _ in range(step % 4 + 1):
                    product(dropped, x)
        (kind,) = sparse.report().matrices
        counts.append((sparse.report().taken, sparse.report().left, kind.left, list(kind.lifetimes)))
    assert counts[0] == counts[1] == counts[2] and counts[0][1][TOO_BRIEF]


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_the_rule_grows_with_sizes(layout):
    kind = {"coo": torch.sparse_coo, "csr": torch.sparse_csr, "csc": torch.sparse_csc}[layout]
    shape = torch.Size((16000, 16000))
    assert cost.gain(kind, 100, shape, 64) < 0 < cost.gain(kind, 120_000, shape, 64, backward=True)
    assert cost.gain(kind, 120_000, shape, 128, from_right=True) < cost.gain(kind, 120_000, shape, 128)
    assert cost.prepare_cost(10**5, shape, True) < cost.prepare_cost(10**5, shape, False)


def test_an_adjacency_is_never_weighed(taken):
    own, x = Adjacency.from_torch(matrix()), dense(11, 3)
    with sparse.accelerated():
        assert_close(own @ x, matrix().to_dense() @ x)
        assert_close(torch.mm(own, x), matrix().to_dense() @ x)
    assert not taken and not sparse.report().left


@pytest.mark.usefixtures("small_ones_pay")
@pytest.mark.parametrize("backward_inside", [True, False])
def test_under_autocast_the_product_keeps_float32(backward_inside):
    """torch rounds both factors of a COO product to bfloat16 and sums in it: the mean of 4096 ones is 0.0625 there."""
    a = torch.sparse_coo_tensor(
        torch.stack((torch.zeros(4096).long(), torch.arange(4096))), torch.full((4096,), 2.0**-12)
    )
    x = torch.ones(4096, 3, requires_grad=True)
    with sparse.accelerated(), torch.autocast("cpu", torch.bfloat16):
        y = torch.sparse.mm(a, x)
        if backward_inside:
            y.sum().backward()
    if not backward_inside:
        y.sum().backward()
    assert y.dtype == torch.float32 and torch.equal(y, torch.ones(1, 3))
    assert torch.equal(x.grad, torch.full_like(x, 2.0**-12))
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.sparse.mm(a, x.detach()).dtype == torch.bfloat16
