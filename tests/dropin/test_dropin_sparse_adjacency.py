"""mmssl_fast.dropin.adjacency.Adjacency in the place of torch's sparse tensor and of torch_sparse's SparseTensor."""

import copy
import pickle

import pytest
import scipy.sparse as sp
import torch
from dropin_clients.sparse_matrices import dense, matrix, product_and_gradient
from tolerances import assert_close

from mmssl_fast.dropin.adjacency import Adjacency

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
    with pytest.raises(TypeError, match=r"relu does not take an Adjacency .*to_torch"):
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
