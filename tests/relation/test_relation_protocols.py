"""RelationRows under Python's and NumPy's protocols, expand_as, autocast, torch.func and autograd."""

import operator

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from relation_cases import weights
from relation_subjects import N_ITEMS, N_ROWS, SUBJECTS, H, assert_same, block, column, plain, rows_of

from mmssl_fast.relation import RelationGradient, RelationRows, torch_functions  # noqa: F401  registers the functions


@pytest.mark.parametrize("subject", SUBJECTS)
def test_protocols_of_python_and_numpy_are_refused(subject):
    x = SUBJECTS[subject]()
    for use in (
        bool,
        float,
        int,
        complex,
        list,
        abs,
        np.array,
        np.asarray,
        np.sum,
        np.mean,
        np.sin,
        operator.index,
        operator.invert,
        lambda x: 0.5 in x,
        lambda x: np.add(np.ones(N_ITEMS), x),
        np.negative,
        lambda x: np.concatenate([x, x]),
        lambda x: operator.setitem(x, 0, 1),
        lambda x: np.ones((N_ROWS, N_ROWS)) @ x,
        lambda x: x[0],
        lambda x: x[:, 0],
        lambda x: x[torch.ones(N_ROWS, dtype=torch.uint8)],
        lambda x: block()[x],
        lambda x: torch.where(x, 1, 0),
        lambda x: torch.where(block() > 0, x, block()),
        lambda x: x.sum(),
        lambda x: torch.add(x, x, out=block()),
        lambda x: torch.zeros_like(x),
        lambda x: x.mean(0),
        lambda x: torch.einsum("bi,bi->b", x, block()),
        reversed,
        lambda x: torch.zeros(N_ROWS, N_ITEMS).copy_(x),
        lambda x: torch.maximum(x, block()),
    ):
        with pytest.raises(TypeError, match=r"\.dense\(\)"):
            use(x)


@pytest.mark.parametrize(
    "tensor",
    [column(), torch.rand(1, 1), torch.tensor(0.3), torch.rand(N_ITEMS), torch.rand(1, N_ITEMS), block()],
    ids=lambda x: str(tuple(x.shape)),
)
def test_expand_as_has_the_shape_of_the_rows_and_is_the_same_in_everything(tensor):
    rows, dense = rows_of(), plain(rows_of())
    for change in (
        lambda a: a,
        lambda a: 1 - a,
        lambda a: -(2 * a + 1) / 4,
        lambda a: a - a * 0.5,
        lambda a: a.clone(),
    ):
        lazy, truth = change(tensor.expand_as(rows)), change(tensor.expand_as(dense))
        assert lazy.shape == truth.shape == (N_ROWS, N_ITEMS)
        for use in (
            lambda a, r: a.norm(dim=1),
            lambda a, r: a.sum(),
            lambda a, r: torch.cat((a, a), 1),
            lambda a, r: a > 0.5,
            lambda a, r: a[:, 2],
            lambda a, r: a.sqrt(),
            lambda a, r: a + r,
            lambda a, r: F.linear(a, a.contiguous()),
        ):
            assert_same(use(lazy, rows), use(truth, dense), tensor.shape)
    if tensor.ndim != 1 and tensor.shape[-1:] != (N_ITEMS,):
        alpha = tensor.expand_as(rows)
        assert (1 - alpha).stride(1) == 0, "the column became a matrix"
        assert isinstance((1 - alpha) * rows, RelationRows)
        assert_same((1 - alpha) * rows + alpha * block(), (1 - alpha) * dense + alpha * block(), "mixed")


def test_entries_are_exact_under_autocast_and_products_in_its_dtype():
    rows, weight = rows_of().float(), torch.randn(H, N_ITEMS)
    truth, dense = torch.topk(rows.dense(), 3), rows.dense()
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(rows.dense(), dense) and torch.allclose(rows.topk(3).values, truth.values)
        assert torch.allclose(rows.row_norm(), dense.norm(dim=1))
        assert F.linear(rows, weight).dtype == F.linear(dense, weight).dtype == torch.bfloat16


def test_transforms_of_torch_func_are_refused():
    rows = rows_of()
    for transformed in (
        lambda: torch.func.grad(lambda w: F.linear(rows, w).sum())(torch.ones(H, N_ITEMS, dtype=torch.float64)),
        lambda: torch.func.vmap(lambda w: F.linear(rows, w))(torch.ones(2, H, N_ITEMS, dtype=torch.float64)),
    ):
        with pytest.raises(TypeError, match=r"\.dense\(\)"):
            transformed()


@pytest.mark.parametrize(
    "use",
    [
        lambda x: torch.norm(x, dim=1),
        lambda x: x.dense().sum(1),
        lambda x: x.topk(2).values.sum(1),
        lambda x: F.linear(2 * x, torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(torch.cat((x, x)), torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(F.normalize(x), torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(x + x, torch.ones(1, N_ITEMS, dtype=torch.float64)),
        lambda x: F.linear(x[1:], torch.ones(1, N_ITEMS, dtype=torch.float64)),
    ],
)
@pytest.mark.parametrize("grad", [False, True])
def test_a_gradient_that_would_lack_a_term_is_refused(use, grad):
    x = rows_of(grad)
    x.requires_grad_()
    loss = use(x).sum() + F.linear(x, weights(H, N_ITEMS)).sum()
    with pytest.raises(TypeError, match=r"only linear layers can be differentiated .*use \.dense\(\)"):
        torch.autograd.grad(loss, x)
