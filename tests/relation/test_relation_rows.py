"""RelationRows against the dense block it stands for: every kind, scale, sum and stack, values and gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from relation_blocks import N_ITEMS, NAMES, TAUS, D, H, both, compare, setting, unit, without_none
from relation_cases import carried, catalogue, factors, relative, weights

from mmssl_fast import reference
from mmssl_fast.ops.gumbel_method import choose_method
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax
from mmssl_fast.relation import RelationRows


@pytest.mark.parametrize("n_rows", [13, 1])
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("name", NAMES)
def test_linear_norm_topk_and_dense_equal_the_dense_block(name, tau, n_rows):
    if n_rows == 1 and name == "misaligned":
        pytest.skip("needs 13 rows: it is cut out of a stack of 26")
    rows, dense, leaves = both(name, n_rows, tau=tau)
    assert rows.shape == dense.shape and rows.dtype == dense.dtype and len(rows) == len(dense)
    assert rows.requires_grad == dense.requires_grad
    compare(rows.dense(), dense, leaves, 1e-10)
    weight, bias = weights(H, N_ITEMS), torch.randn(H, dtype=torch.float64, requires_grad=True)
    compare(rows.linear(weight, bias), F.linear(dense, weight, bias), (*leaves, weight, bias), 1e-10)
    row_major = weights(H, N_ITEMS, item_major=False)
    compare(rows.linear(row_major), F.linear(dense, row_major), (*leaves, row_major), 1e-10)
    norm = torch.where(dense.any(1), torch.where(dense.any(1, keepdim=True), dense, 1.0).norm(dim=1), 0.0)
    compare(rows.row_norm(), norm, leaves, 1e-10)
    compare(rows.normalize().linear(weight), F.linear(unit(dense), weight), (*leaves, weight), 1e-9)
    for k in (0, 3, N_ITEMS):
        values, items = rows.topk(k)
        compare(values, dense.gather(1, items), leaves, 1e-10)
        assert relative(values, torch.topk(dense, k).values) < 1e-10


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("name", NAMES)
def test_linear_float32_is_within_1e_5(name, tau):
    rows, _, leaves = both(name, dtype=torch.float32, tau=tau)
    _, dense, wide_leaves = both(name, dtype=torch.float64, tau=tau)
    weight = weights(H, N_ITEMS, dtype=torch.float32)
    wide_weight = weights(H, N_ITEMS)
    outward = torch.randn(dense.shape[0], H, generator=torch.Generator().manual_seed(5))
    z, truth = rows.linear(weight), F.linear(dense, wide_weight)
    assert z.dtype == torch.float32 and relative(z, truth) < 1e-5
    actual = torch.autograd.grad(z, (*leaves, weight), outward, allow_unused=True)
    true = torch.autograd.grad(truth, (*wide_leaves, wide_weight), outward.double(), allow_unused=True)
    for a, t in zip(actual, true, strict=True):
        assert relative(*without_none(a, t)) < 1e-5


def test_gumbel_rows_are_those_of_gumbel_softmax_by_both_methods():
    assert [choose_method("test", "auto", tau, 1.0, N_ITEMS) for tau in TAUS] == ["order_statistics", "dense"]
    graph, users, *_ = setting()
    for tau in TAUS:
        p = gumbel_softmax(graph, users, tau, 3, 4)
        torch.testing.assert_close(RelationRows.gumbel(graph, users, tau, 3, 4).dense(), p, atol=1e-7, rtol=1e-5)
        torch.testing.assert_close(p.sum(1), torch.ones(13))


def test_one_item():
    u, v = factors(5, 1, 3)
    graph = catalogue(50, 1)
    seen = graph.rows(torch.arange(5))
    weight = weights(4, 1)
    for row_l2, kind in itertools.product((False, True), ("cosine", "dot")):
        compare(
            RelationRows.generated(u, v, kind, seen, row_l2).linear(weight),
            F.linear(reference.cosine_block(u, v, seen, kind, row_l2), weight),
            (u, v, weight),
            1e-9,
        )


def test_empty_batch():
    u, v = factors(0, N_ITEMS, D)
    rows, weight = RelationRows.generated(u, v).normalize(), weights(H, N_ITEMS)
    assert rows.linear(weight).shape == (0, H) and rows.dense().shape == (0, N_ITEMS) and rows.row_norm().shape == (0,)
    assert rows.topk(3).values.shape == (0, 3)
    assert not torch.autograd.grad(rows.linear(weight).sum(), weight)[0].any()


def test_an_all_seen_row_and_a_zero_user_are_exactly_zero():
    _, _, seen, (u, v, *_) = setting()
    for kind, row_l2 in itertools.product(("cosine", "dot"), (False, True)):
        rows = RelationRows.generated(u, v, kind, seen, row_l2)
        z = rows.linear(weights(H, N_ITEMS))
        (du,) = torch.autograd.grad(z.square().sum(), u)
        for row in (0, 3):  # user 1 has seen everything; u[3] is zero
            assert not z[row].any() and rows.row_norm()[row] == 0
        assert not du[0].any() and not du.isnan().any()


def test_rows_their_seen_items_carry_stay_accurate_through_normalize():
    u, v, seen = carried(torch.float32, 1e-3)
    weight = weights(H, 301, dtype=torch.float32)
    wide = [t.detach().double() for t in (u, v, weight)]
    z = RelationRows.generated(u, v, "dot", seen).normalize().linear(weight)
    truth = F.linear(unit(reference.cosine_block(*wide[:2], seen, "dot")), wide[2])
    assert relative(z, truth) < 1e-5


def test_rows_their_seen_items_carry_stay_accurate_in_sums():
    u, v, seen = carried(torch.float64, 1e-7)
    other = torch.randn(6, 301, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    (a, b) = factors(6, 301, 8, seed=7)
    one = RelationRows.generated(u, v, "dot", seen)
    for rows in (one + RelationRows.generated(a, b), one + RelationRows.from_dense(other)):
        norm, truth = rows.row_norm(), rows.dense().norm(dim=1)
        assert ((norm - truth) / truth).abs().max() < 1e-12
        assert all(
            relative(x, t) < 1e-10
            for x, t in zip(*(torch.autograd.grad(n.sum(), (u, v)) for n in (norm, truth)), strict=True)
        )


def test_sums_of_rows_whose_every_item_is_seen_are_exactly_zero():
    graph = catalogue(30, N_ITEMS, share=1.0)
    users = torch.tensor([i for i in range(30) if i != 2])
    seen, ((u, v), (a, b)) = graph.rows(users), (factors(29, N_ITEMS, D), factors(29, N_ITEMS, D, seed=7))
    rows = RelationRows.generated(u, v, "dot", seen) + RelationRows.generated(a, b, "dot", seen)
    assert not rows.row_norm().any() and not rows.normalize().linear(weights(H, N_ITEMS)).any()
    gradients = torch.autograd.grad(rows.normalize().linear(weights(H, N_ITEMS)).sum(), (u, v, a, b))
    assert not any(g.any() for g in gradients)


def test_a_sum_that_cancels_is_measured_densely():
    u, v = factors(13, N_ITEMS, D)
    nearly = (v * (1 + 1e-9 * torch.randn(v.shape, dtype=v.dtype, generator=torch.Generator().manual_seed(3)))).detach()
    rows = RelationRows.generated(u, v, "dot") - RelationRows.generated(u, nearly, "dot")
    truth = (u @ v.T - u @ nearly.T).norm(dim=1)
    assert relative(rows.row_norm() * 1e9, truth * 1e9) < 1e-6
    gone = RelationRows.generated(u, v)
    assert not (gone - gone).row_norm().any() and not (gone - gone).linear(weights(H, N_ITEMS)).any()


def test_normalize_is_f_normalize_with_eps():
    u, v = factors(13, N_ITEMS, D)
    u = (u * torch.logspace(-14, 0, 13, dtype=u.dtype)[:, None]).detach()
    assert (
        relative(F.normalize(RelationRows.generated(u, v, "dot"), dim=1).dense(), F.normalize(u @ v.T, dim=1)) < 1e-10
    )


def test_a_nan_user_stays_nan():
    graph, users, seen, (u, v, *_) = setting()
    u = u.detach().clone()
    u[4] = float("nan")
    one = RelationRows.generated(u, v.detach(), "dot", seen)
    for rows in (one.normalize(), (one + RelationRows.gumbel(graph, users, TAUS[0], 3)).normalize()):
        for result in (rows.linear(weights(H, N_ITEMS)), rows.row_norm()):
            assert result[4].isnan().all() and not result[5:].isnan().any() and not result[:4].isnan().any()


def test_autocast_rounds_products_over_the_weight_only():
    _, _, seen, leaves = setting(dtype=torch.float32)
    u, v = (x.detach() for x in leaves[:2])
    rows, weight = RelationRows.generated(u, v, "cosine", seen), weights(H, N_ITEMS, dtype=torch.float32)
    exact = rows.linear(weight)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        z = rows.linear(weight)
        plain = F.linear(rows.dense().to(torch.float32), weight)
    assert z.dtype == plain.dtype == torch.bfloat16
    assert 1e-4 < relative(z, exact) <= 2 * relative(plain, exact)
    (dw,) = torch.autograd.grad(z.float().square().sum(), weight)
    (truth,) = torch.autograd.grad(exact.square().sum(), weight)
    assert dw.dtype == torch.float32 and relative(dw, truth) < 2e-2


def test_bfloat16_rows():
    u, v = factors(13, N_ITEMS, D, torch.bfloat16)
    rows, weight = RelationRows.generated(u, v, row_l2=True), weights(H, N_ITEMS, dtype=torch.bfloat16)
    z = rows.linear(weight)
    assert z.dtype == torch.bfloat16
    assert relative(z, F.linear(rows.dense().double(), weight.double())) < 2e-2
    z.float().sum().backward()
    assert u.grad.dtype == torch.bfloat16 and weight.grad.dtype == torch.bfloat16


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda r: r.linear(torch.zeros(3, 4)),
            r"RelationRows\.linear: weight must be \[H, 101\] for these rows, got \(3, 4\)",
        ),
        (
            lambda r: r.linear(torch.zeros(3, 101)),
            r"RelationRows\.linear: weight must have the dtype of the rows, torch.float64, got torch.float32",
        ),
        (lambda r: r + r[:4], r"RelationRows \+: the shapes \(13, 101\) and \(4, 101\) differ"),
        (
            lambda r: RelationRows.generated(torch.zeros(3, 2), torch.zeros(4, 2), "l1"),
            'kind must be "cosine" or "dot"',
        ),
        (
            lambda r: RelationRows.cat([r, RelationRows.generated(torch.zeros(3, 2), torch.zeros(4, 2))]),
            r"same number of items, got \[4, 101\]",
        ),
        (lambda r: RelationRows.from_dense(torch.zeros(3)), r"must be a dense floating tensor \[B, I\]"),
    ],
)
def test_refusals(call, message):
    u, v = factors(13, N_ITEMS, D)
    with pytest.raises((ValueError, TypeError), match=message):
        call(RelationRows.generated(u, v))
