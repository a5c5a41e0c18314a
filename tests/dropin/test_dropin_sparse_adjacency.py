"""mmssl_fast.dropin.sparse.Adjacency in the place of torch's sparse tensor and of torch_sparse's SparseTensor."""

import copy
import pickle

import pytest
import scipy.sparse as sp
import torch
from dropin_clients.sparse_matrices import dense, matrix, product_and_gradient
from tolerances import assert_close

from mmssl_fast.dropin.sparse import Adjacency

pytestmark = pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:Sparse invariant checks")


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
    with pytest.raises(TypeError, match=r"relu supports an Adjacency .*to_torch"):
        torch.relu(own)
    with pytest.raises(TypeError, match="factor of a product with a dense matrix"):
        torch.mm(own, own)
    with pytest.raises(AttributeError, match="to_torch"):
        own.sqrt()
    with pytest.raises(TypeError, match="strided"):
        Adjacency.from_torch(x)


@pytest.mark.parametrize("kind", [sp.coo_matrix, sp.csr_matrix, sp.csc_matrix, sp.csr_array, sp.dok_matrix])
def test_adjacency_of_scipy(kind):
    a = kind(sp.random(13, 7, 0.3, random_state=0) * 2.5)
    own = Adjacency.from_scipy(a)
    assert own.dtype == torch.float32
    assert_close(own @ dense(7, 3).float(), torch.from_numpy(a.toarray()) @ dense(7, 3), torch.float32)


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda a: pickle.loads(pickle.dumps(a))])
def test_a_copied_adjacency(copied):
    own = copied(Adjacency.from_torch(matrix()))
    assert_close(product_and_gradient(own, dense(11, 3), torch.mm)[0], matrix().to_dense() @ dense(11, 3))


def test_methods_of_a_sparse_tensor_of_torch_sparse():
    a = matrix().coalesce()
    own, x = Adjacency.from_torch(a), dense(11, 3)
    whole = a.to_dense()
    assert own.sparse_sizes() == (17, 11) and own.sparse_size(1) == own.size(-1) == 11 and own.dim() == own.ndim == 2
    assert own.nnz() == own._nnz() == a._nnz() and own.is_coalesced()
    for y in (own.matmul(x), own.matmul(x, reduce="sum"), own.spmm(x, "add")):
        assert_close(y, whole @ x)
    assert_close(own.matmul(x[:, 0]), whole @ x[:, 0])
    for dim in (0, 1, -1, -2):
        assert_close(own.sum(dim), whole.sum(dim))
        assert_close(torch.sparse.sum(own, dim).to_dense(), whole.sum(dim))
    assert_close(own.sum(), whole.sum())
    assert_close(torch.sparse.sum(own), whole.sum())
    assert_close(own.transpose(0, 1) @ dense(17, 2), whole.T @ dense(17, 2))
    assert own.transpose(1, -1) is own
    row, col, value = own.coo()
    assert torch.equal(torch.stack((row, col)), a.indices()) and torch.equal(value, a.values())
    crow, column, value = own.csr()
    assert torch.equal(crow, a.to_sparse_csr().crow_indices()) and torch.equal(column, col)
    with pytest.raises(ValueError, match="reduce"):
        own.matmul(x, "mean")
    with pytest.raises(IndexError, match="dim must be"):
        own.sum(2)


def test_what_an_adjacency_returns_is_a_copy():
    own, x = Adjacency.from_torch(matrix()), dense(11, 3)
    before = own @ x
    for tensor in (own.values(), own._values(), own.indices(), *own.coo(), *own.csr()):
        tensor.zero_()
    assert torch.equal(own @ x, before)


@pytest.mark.parametrize("layout", ["coo", "csr", "csc"])
def test_new_values_on_the_same_entries(layout):
    own = Adjacency.from_torch(matrix(layout))
    for seed in (3, 4):
        value = dense(own.nnz(), seed=seed)
        made = own.set_value(value)
        truth = torch.sparse_coo_tensor(own.indices(), value, own.shape).to_dense()
        y, dx = product_and_gradient(made, dense(11, 3), torch.mm)
        assert_close(y, truth @ dense(11, 3))
        assert_close(dx, truth.T @ torch.ones(17, 3).double())
        assert_close(made.set_value(2 * value).t() @ dense(17, 2), 2 * truth.T @ dense(17, 2))
    with pytest.raises(ValueError, match=r"value must be \[(52|60)\]"):
        own.set_value(dense(3))
