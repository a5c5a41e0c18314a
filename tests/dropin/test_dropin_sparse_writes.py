"""mmssl_fast.dropin.sparse: however a sparse matrix is written to, the next product is of what it holds then."""

import pytest
import torch
import torch.nn as nn
from dropin_clients.sparse_matrices import assert_torchs, dense, matrix
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from mmssl_fast.dropin import sparse

pytestmark = [
    pytest.mark.filterwarnings("ignore:Sparse CSR tensor support", "ignore:Sparse invariant checks"),
    pytest.mark.usefixtures("fresh", "small_ones_pay"),
]


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
        pytest.skip(f"torch cannot write to a matrix of this layout so: {error}")
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
