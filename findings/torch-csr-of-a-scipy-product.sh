#!/usr/bin/env bash
# torch 2.13.0 and SciPy 1.17.1: a product of two SciPy matrices, handed to torch as CSR, loses entries when multiplied
# elementwise.
#
# B.T @ B (how often two items occur together) has its columns in descending or mixed order: SciPy does not sort the
# result of a product, and it is a valid SciPy matrix. torch.sparse_csr_tensor takes the three arrays without a word.
# One would guess that it either works or is refused. to_dense, @, +, single elements and the products with A itself are
# right, so that tests pass. But A * dense (weights, a mask, a normalisation) keeps 3 of 9 entries of a full 3 x 3
# matrix, A * another CSR matrix loses entries too, and to_sparse_coo() calls itself coalesced and gives numbers in
# sparse_mask that stand nowhere in the matrix. sort_indices() in SciPy before handing over mends all of it;
# check_invariants=True would have refused the arrays.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch==2.13.0 scipy==1.17.1 numpy==2.4.6
"$work/venv/bin/python" -W ignore - <<'PYTHON'
import numpy as np
import scipy
import torch
from scipy import sparse

print("torch", torch.__version__, "SciPy", scipy.__version__)


def in_torch(matrix, **options):
    parts = (torch.from_numpy(part) for part in (matrix.indptr, matrix.indices, matrix.data))
    return torch.sparse_csr_tensor(*parts, matrix.shape, **options)


bought = sparse.csr_array(np.array([[1, 1, 1], [0, 1, 1]], np.float32))
together = bought.T @ bought
dense, eye, ones = torch.from_numpy(together.toarray()), torch.eye(3), torch.ones(3, 3)
print("columns", together.indices.tolist(), "matrix", dense.tolist())
assert together.indices.tolist() == [2, 1, 0] * 3 and dense.tolist() == [[1, 1, 1], [1, 2, 2], [1, 2, 2]]

A = in_torch(together)
right = {"to_dense": (A, dense), "A @ A": (A @ A, dense @ dense), "A + I": (A + eye.to_sparse_csr(), dense + eye)}
right |= {"A @ ones": (A @ ones, dense @ ones), "A * A": (A * A, dense * dense)}
for name, (got, want) in right.items():
    assert torch.equal(got.to_dense(), want), name
assert all(A[i, j] == dense[i, j] for i in range(3) for j in range(3))
print("right:", *right, sep="  ")

coo, identity = A.to_sparse_coo(), eye.to_sparse().coalesce()
wrong = {"A * ones": (A * ones, dense), "A * I, both CSR": (A * eye.to_sparse_csr(), dense * eye)}
wrong |= {"A * I, both COO": (coo * identity, dense * eye), "mask by I": (coo.sparse_mask(identity), dense * eye)}
for name, (got, want) in wrong.items():
    print(f"{name}: {got.to_dense().tolist()} instead of {want.tolist()}")
assert coo.is_coalesced()
assert torch.equal((A * ones).to_dense(), torch.tensor([[0.0, 0, 1], [0, 0, 2], [0, 0, 2]]))
for name in ("A * I, both CSR", "A * I, both COO"):
    assert torch.equal(wrong[name][0].to_dense(), torch.diag(torch.tensor([0.0, 0, 2]))), name
assert not torch.equal(wrong["mask by I"][0].to_dense(), dense * eye)

try:
    in_torch(together, check_invariants=True)
except RuntimeError as error:
    print("check_invariants=True refuses it")
    assert "sorted and distinct" in str(error)
else:
    raise AssertionError("check_invariants=True accepts unsorted columns")
together.sort_indices()
A = in_torch(together, check_invariants=True)
assert torch.equal((A * ones).to_dense(), dense) and torch.equal((A * eye.to_sparse_csr()).to_dense(), dense * eye)
print("after sort_indices() all are right")
PYTHON
