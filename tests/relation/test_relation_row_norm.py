"""relation_row_norm against the norm of the dense block."""

import pytest
import torch
from relation_cases import carried, catalogue, factors, relative, wide
from tolerances import assert_as_accurate

from mmssl_fast import reference, static_shapes
from mmssl_fast.graph import SeenRows
from mmssl_fast.relation.algebra import relation_row_norm as module
from mmssl_fast.relation.algebra.relation_row_norm import relation_row_norm
from mmssl_fast.relation.algebra.weight_columns import ItemEntries

pytestmark = pytest.mark.usefixtures("poison")


def block(n_rows, n_items, seen):
    return catalogue(max(50, n_rows), n_items).rows(torch.arange(n_rows)) if seen else None


def results(op, u, v, seen, dn):
    n = op(u, v, seen)
    return n, *torch.autograd.grad(n, (u, v), dn.to(n.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize(
    "shape", [(13, 41, 5), (41, 401, 64), (7, 1271, 3), (1, 41, 5), (5, 1, 3), (0, 41, 5), (4, 6, 0)]
)
def test_relation_row_norm_equals_dense(shape, seen, dtype):
    n_rows, n_items, d = shape
    u, v = factors(n_rows, n_items, d, dtype)
    rows, dn = block(n_rows, n_items, seen), torch.linspace(-1, 2, n_rows, dtype=torch.float64)
    actual = results(relation_row_norm, u, v, rows, dn)
    truth = results(reference.relation_row_norm, *wide(u, v), rows, dn.to(dtype))
    if dtype == torch.float64:
        assert all(relative(a, t) < 1e-10 for a, t in zip(actual, truth, strict=True))
    else:
        plain = results(reference.relation_row_norm, u, v, rows, dn)
        for a, p, t in zip(actual, plain, truth, strict=True):
            assert_as_accurate(a, p, t)
    if n_rows > 3:  # row 3 is zero; all of row 1 is seen
        for empty in (3, 1) if seen else (3,):
            assert actual[0][empty] == 0 and not actual[1][empty].any()


@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-9), (torch.float32, 1e-5)])
@pytest.mark.parametrize("ratio", [1e-2, 1e-3, 1e-6])
def test_relation_row_norm_where_seen_items_carry_the_row(ratio, dtype, limit):
    u, v, seen = carried(dtype, ratio)
    n = relation_row_norm(u, v, seen)
    unmasked = relation_row_norm(u, v)
    assert (n / unmasked)[::2].max() < 3 * ratio and (n / unmasked)[1::2].min() > 0.9  # the case is what it says
    dn = torch.linspace(1, 2, 6)
    actual = results(relation_row_norm, u, v, seen, dn)
    truth = results(reference.relation_row_norm, *wide(u, v), seen, dn)
    error = ((actual[0].double() - truth[0]) / truth[0]).abs().max()
    assert error < limit
    assert all(relative(a, t) < limit for a, t in zip(actual[1:], truth[1:], strict=True))


def test_relation_row_norm_would_lose_digits_without_the_dense_rows(monkeypatch):
    u, v, seen = carried(torch.float64, 1e-6)
    monkeypatch.setattr(module, "CANCELLED_SHARE", 0.0)
    truth = reference.relation_row_norm(u, v, seen)
    assert ((relation_row_norm(u, v, seen) - truth) / truth).abs().max() > 1e-8


def test_relation_row_norm_forms_carried_rows_in_blocks(monkeypatch):
    from mmssl_fast.relation.algebra import cancelled

    monkeypatch.setattr(cancelled, "BLOCK_ELEMENTS", 301)
    u, v, seen = carried(torch.float64, 1e-6)
    actual = results(relation_row_norm, u, v, seen, torch.ones(6))
    truth = results(reference.relation_row_norm, u, v, seen, torch.ones(6))
    assert all(relative(a, t) < 1e-9 for a, t in zip(actual, truth, strict=True))


def test_relation_row_norm_gradcheck():
    u, v = (torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (4, 9))
    seen = SeenRows(torch.tensor([0, 2, 2, 7, 8]), torch.tensor([1, 8, 0, 2, 3, 5, 8, 4]))
    assert torch.autograd.gradcheck(
        lambda u, v: relation_row_norm(u, v, seen), (u.requires_grad_(), v.requires_grad_())
    )


def test_relation_row_norm_cannot_be_differentiated_twice():
    u, v = factors(3, 9, 3)
    (du,) = torch.autograd.grad(relation_row_norm(u, v).sum(), u, create_graph=True)
    with pytest.raises(NotImplementedError, match="relation_row_norm has no second derivative"):
        torch.autograd.grad(du.square().sum(), v)


@pytest.mark.parametrize("seen", [False, True])
def test_relation_row_norm_opcheck(seen):
    u, v = factors(5, 9, 3)
    crow, col = block(5, 9, seen) or (None, None)
    torch.library.opcheck(torch.ops.mmssl_fast.relation_row_norm, (u, v, crow, col))


def test_relation_row_norm_compiles_fullgraph():
    u, v = factors(13, 41, 5)
    seen = block(13, 41, True)
    compiled = torch.compile(lambda u, v: relation_row_norm(u, v, seen).square(), fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(u, v).sum(), (u, v))
    truth = torch.autograd.grad(reference.relation_row_norm(u, v, seen).square().sum(), (u, v))
    assert all(relative(a, t) < 1e-10 for a, t in zip(actual, truth, strict=True))


def test_relation_row_norm_refuses():
    with pytest.raises(
        ValueError, match=r"^relation_row_norm: u must be \[B, d\] and v \[I, d\], got \(3, 4\) and \(9, 2\)"
    ):
        relation_row_norm(torch.zeros(3, 4), torch.zeros(9, 2))


@pytest.mark.parametrize("width", [0, 1, 7, 200])
def test_gram_does_not_depend_on_the_blocks_of_rows(width, monkeypatch):
    v, w = torch.randn(401, width), torch.randn(401, 3)
    whole = module.gram(v), module.gram(v, w)
    torch.testing.assert_close(module.gram(v), module.gram(v, v), rtol=1e-12, atol=1e-12)
    monkeypatch.setattr(module, "GRAM_ENTRIES", 100)
    for actual, expected in zip((module.gram(v), module.gram(v, w)), whole, strict=True):
        torch.testing.assert_close(actual, expected, rtol=1e-12, atol=1e-12)


def test_relation_row_norm_computes_the_gram_matrix_once(monkeypatch):
    calls = []
    gram = module.gram
    monkeypatch.setattr(module, "gram", lambda *x: calls.append(x) or gram(*x))
    u, v = factors(5, 9, 3)
    relation_row_norm(u, v).sum().backward()
    assert len(calls) == 1 and u.grad is not None and v.grad is not None


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("crow, col", [([0, 3, 3, 7], [8, 2, 5, 2, 0, 2, 8]), ([0, 0], []), ([0, 2], [4, 4])])
def test_compact_columns_number_the_distinct_items(crow, col, index):
    entries = ItemEntries(torch.tensor(crow), torch.tensor(col, dtype=index), 9)
    compact = entries.compact_col
    assert compact.dtype == torch.int64
    assert torch.equal(entries.by_item[0][compact], torch.tensor(col, dtype=torch.int64))
    with static_shapes.forced():
        assert torch.equal(ItemEntries(torch.tensor(crow), torch.tensor(col, dtype=index), 9).compact_col, compact)
