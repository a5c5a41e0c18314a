"""Each way to multiply a sparse and a dense matrix: taken, or left to torch with the reason in the report."""

import warnings

import numpy as np
import pytest
import scipy.sparse
import torch
import torch.nn.functional as F
from dropin_clients.sparse_matrices import dense, matrix
from tolerances import assert_close

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.sparse import Adjacency, products

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:Sparse invariant checks"),
    pytest.mark.usefixtures("fresh", "small_ones_pay"),
]

# name: the call, and the shape of the dense factor for a 17 x 11 matrix. Further operands: p [17, 5], q [17], r [11].
FORMS = {
    "mm by keyword": (lambda a, x, p, q, r: torch.mm(input=a, mat2=x), (11, 5)),
    "mm, one keyword": (lambda a, x, p, q, r: torch.mm(a, mat2=x), (11, 5)),
    "matmul by keyword": (lambda a, x, p, q, r: torch.matmul(input=a, other=x), (11, 5)),
    "linalg.matmul": (lambda a, x, p, q, r: torch.linalg.matmul(a, x), (11, 5)),
    "mv": (lambda a, x, p, q, r: torch.mv(a, x), (11,)),
    "Tensor.mv": (lambda a, x, p, q, r: a.mv(x), (11,)),
    "matmul with a vector": (lambda a, x, p, q, r: torch.matmul(a, x), (11,)),
    "@ with a vector": (lambda a, x, p, q, r: a @ x, (11,)),
    "addmm": (lambda a, x, p, q, r: torch.addmm(p, a, x), (11, 5)),
    "addmm of a row": (lambda a, x, p, q, r: torch.addmm(p[0], a, x), (11, 5)),
    "Tensor.addmm": (lambda a, x, p, q, r: p.addmm(a, x, beta=0.5, alpha=-2), (11, 5)),
    "sparse.addmm": (lambda a, x, p, q, r: torch.sparse.addmm(p, a, x, beta=2, alpha=3), (11, 5)),
    "sparse input of linear": (lambda a, x, p, q, r: F.linear(a, x.T), (11, 5)),
    "sparse input of linear, bias": (lambda a, x, p, q, r: F.linear(a, x.T, p[0]), (11, 5)),
    "dense @ sparse": (lambda a, x, p, q, r: x @ a, (5, 17)),
    "dense mm sparse": (lambda a, x, p, q, r: torch.mm(x, a), (5, 17)),
    "dense sparse.mm sparse": (lambda a, x, p, q, r: torch.sparse.mm(x, a), (5, 17)),
    "Tensor.mm": (lambda a, x, p, q, r: x.mm(a), (5, 17)),
    "vector @ sparse": (lambda a, x, p, q, r: x @ a, (17,)),
    "rmatmul": (lambda a, x, p, q, r: a.__rmatmul__(x), (5, 17)),
    "linear": (lambda a, x, p, q, r: F.linear(x, a), (5, 11)),
    "linear of a vector": (lambda a, x, p, q, r: F.linear(x, a), (11,)),
}
COMPRESSED = {  # torch has no such product of a COO matrix
    "addmm dense, sparse": (lambda a, x, p, q, r: torch.addmm(r, x, a, alpha=2), (5, 17)),
    "linear with bias": (lambda a, x, p, q, r: F.linear(x, a, q), (5, 11)),
}
LEFT = {
    "bmm": (lambda a, x: torch.bmm(torch.stack((a, a)), torch.stack((x, x))), "torch.bmm with a sparse factor"),
    "addmm_": (lambda a, x: torch.zeros(17, 5).double().addmm_(a, x), "Tensor.addmm_ with a sparse factor"),
    "out": (lambda a, x: torch.mm(a, x, out=torch.empty(17, 5).double()), "out="),
    "hspmm": (lambda a, x: torch.hspmm(a, x), "torch.hspmm with a sparse factor"),
    "smm": (lambda a, x: torch.smm(a, x), "torch.smm with a sparse factor"),
    "multi_dot": (lambda a, x: torch.linalg.multi_dot([a, x]), "torch.linalg.multi_dot with a sparse factor"),
    "beta=0": (lambda a, x: torch.addmm(dense(17, 5), a, x, beta=0), "an option of the product"),
    "3-D": (lambda a, x: torch.stack((x.T, x.T)) @ a.t(), "a second factor that is no dense matrix or vector"),
    "sparse @ sparse": (lambda a, x: a @ a.t(), "a product of two sparse matrices"),
}


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
@pytest.mark.parametrize("form", [*FORMS, *COMPRESSED])
def test_each_form_is_taken_and_equals_torchs(form, layout, taken):
    if form in COMPRESSED and layout == "coo":
        pytest.skip("torch has no such product of a COO matrix")
    call, shape = (FORMS | COMPRESSED)[form]
    a = matrix(layout)
    x, p, q, r = (dense(*s, seed=n).requires_grad_() for n, s in enumerate([shape, (17, 5), (17,), (11,)]))
    truth = call(a.to_dense(), x, p, q, r)
    theirs = call(a, x, p, q, r)
    with sparse.accelerated():
        found = call(a, x, p, q, r)
    assert len(taken) == 1 and sparse.report().taken == 1 and not sparse.report().left
    assert found.shape == theirs.shape and found.dtype == theirs.dtype
    assert found.is_contiguous() or not theirs.is_contiguous(), "code that calls .view() on the product goes on working"
    assert_close(found, truth)
    grad = dense(*truth.shape, seed=9)
    used = [
        t
        for t in (x, p, q, r)
        if torch.autograd.grad(truth, t, grad, retain_graph=True, allow_unused=True)[0] is not None
    ]
    for actual, expected in zip(
        torch.autograd.grad(found, used, grad), torch.autograd.grad(truth, used, grad), strict=True
    ):
        assert_close(actual, expected)


@pytest.mark.parametrize("form", LEFT)
def test_what_is_left_to_torch_is_said_and_counted(form, taken):
    call, reason = LEFT[form]
    a, x = matrix(), dense(11, 5)
    truth = call(a, x)
    with sparse.accelerated(), pytest.warns(UserWarning, match="is left to torch"):
        found = call(a, x)
    assert sparse.report().left == {reason: 1} and not taken
    assert torch.equal(found.to_dense(), truth.to_dense())


@pytest.mark.filterwarnings("ignore:.*left to torch.*")
@pytest.mark.parametrize(
    "call",
    [
        lambda a, x: torch.sparse.mm(a, mat2=x),
        lambda a, x: torch.addmm(x, x.T, a),
        lambda a, x: F.linear(x.T, a, x[:, 0]),
        lambda a, x: torch.mm(a, x[:, 0]),
        lambda a, x: torch.mv(a, x),
    ],
)
def test_wrong_calls_are_torchs_errors(call):
    a, x = matrix(), dense(11, 3)
    with pytest.raises((RuntimeError, TypeError, IndexError)) as theirs:
        call(a, x)
    with sparse.accelerated(), pytest.raises(type(theirs.value)) as found:
        call(a, x)
    assert str(found.value) == str(theirs.value)


@pytest.mark.parametrize("form", [*FORMS, *COMPRESSED])
def test_an_adjacency_is_a_factor_in_each_form(form):
    call, shape = (FORMS | COMPRESSED)[form]
    if form in ("Tensor.mv", "rmatmul"):
        return  # methods of a tensor
    a = matrix()
    x, p, q, r = (dense(*s, seed=n) for n, s in enumerate([shape, (17, 5), (17,), (11,)]))
    truth = call(a.to_dense(), x, p, q, r)
    assert_close(call(Adjacency.from_torch(a), x, p, q, r), truth)
    with sparse.accelerated():
        assert_close(call(Adjacency.from_torch(a), x, p, q, r), truth)


def test_every_product_of_torch_with_a_sparse_kernel_is_known():
    """Functions of torch whose name says that they multiply, and that take a sparse matrix, are in the table."""
    a, x = matrix(), dense(11, 3)
    unknown = []
    for namespace in (torch, torch.Tensor, torch.sparse, torch.linalg):
        for name in dir(namespace):
            func = getattr(namespace, name)
            if not any(part in name for part in ("mm", "matmul", "mv", "dot")) or not callable(func):
                continue
            if func in products.READERS or name.endswith("_"):
                continue
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")
                try:
                    func(a, x)
                except (RuntimeError, TypeError, NotImplementedError, AttributeError, IndexError):
                    continue
            unknown.append(f"{namespace.__name__}.{name}")
    assert unknown == []


@pytest.mark.parametrize("layout", [torch.sparse_csr, torch.sparse_csc, torch.sparse_coo])
def test_a_scipy_product_whose_columns_are_not_sorted(layout):
    """SciPy leaves them so, with indices in int32, and torch takes them: a COO matrix made from such a CSR calls itself
    coalesced."""
    generator = np.random.default_rng(0)
    bought = scipy.sparse.csr_array((generator.random((30, 12)) < 0.3) * generator.random((30, 12)))
    product = bought.T @ bought
    assert not product.has_sorted_indices
    parts = [torch.from_numpy(part) for part in (product.indptr, product.indices, product.data)]
    assert parts[0].dtype == parts[1].dtype == torch.int32
    make = torch.sparse_csc_tensor if layout == torch.sparse_csc else torch.sparse_csr_tensor
    a = make(*parts, product.shape)  # the matrix is symmetric
    a = a.to_sparse_coo() if layout == torch.sparse_coo else a
    x, full = dense(12, 5).requires_grad_(), torch.from_numpy(product.toarray())
    with sparse.accelerated():
        y = torch.sparse.mm(a, x).sin() + torch.sparse.mm(a.t(), x)
        (got,) = torch.autograd.grad(y.sum(), x)
    assert sparse.report().taken == 2
    wanted = (full @ x).sin() + full.T @ x
    assert_close(y, wanted)
    assert_close(got, torch.autograd.grad(wanted.sum(), x)[0])
