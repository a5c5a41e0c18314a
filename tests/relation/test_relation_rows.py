"""RelationRows against the dense block it stands for: every kind, scale, sum and stack, values and gradients."""

import itertools

import pytest
import torch
import torch.nn.functional as F
from relation_cases import carried, catalogue, factors, relative, weights

from mmssl_fast import reference
from mmssl_fast.graph import SeenRows
from mmssl_fast.ops.gumbel_method import choose_method
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax
from mmssl_fast.relation import RelationRows

N_ITEMS, D, H = 101, 5, 17
TAUS = (0.05, 0.5)  # order statistics and dense tiles


def setting(n_rows=13, dtype=torch.float64):
    """A graph, users (the one who has seen all first, a repeat last) and two pairs of factors."""
    graph = catalogue(50, N_ITEMS)
    users = torch.tensor([1, 2, 4, *range(7, 50)])[:n_rows]
    if n_rows > 3:
        users[-1] = users[0]
    (u, v), (a, b) = factors(n_rows, N_ITEMS, D, dtype), factors(n_rows, N_ITEMS, D, dtype, seed=7)
    return graph, users, graph.rows(users), (u, v, a, b)


def unit(rows):
    return reference.unit_rows(rows)


def both(name, n_rows=13, dtype=torch.float64, tau=TAUS[0]):
    """(rows, the same rows dense, leaves) of one way to make them."""
    graph, users, seen, (u, v, a, b) = setting(n_rows, dtype)
    scale = torch.linspace(-1, 2, n_rows, dtype=dtype)[:, None].requires_grad_()
    alpha = torch.linspace(0, 1, 2 * n_rows, dtype=dtype)[:, None].requires_grad_()
    x = torch.randn(n_rows, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(9))
    x = x.to(dtype).requires_grad_()

    def lazy(u, v, kind, seen=None, row_l2=False):
        return RelationRows.generated(u, v, kind, seen, row_l2)

    def dense(u, v, kind, seen=None, row_l2=False):
        return reference.cosine_block(u, v, seen, kind, row_l2)

    gumbel = RelationRows.gumbel(graph, users, tau, 3, 4)
    p = gumbel.dense().double()  # its values are float32 and are taken as they are; the test below compares them
    gumbel, p = gumbel.to(dtype), p.to(dtype)

    def made(generated, gumbel, block, normalize, cat):
        one, two = generated(u, v, "dot", seen), generated(a, b, "cosine")
        real = normalize(gumbel + 3.0 * generated(u, v, "cosine", seen))
        fakes = cat([generated(u, v, "dot", seen, True), generated(a, b, "cosine", seen, True)])
        return {
            "gumbel": lambda: gumbel * scale,
            "scaled": lambda: one * scale / 4 - two * 2.0,
            "same twice": lambda: one + two - one * 3.0,
            "other mask": lambda: normalize(one + two),
            "no mask": lambda: normalize(generated(u, v, "dot") + two),
            "shared v": lambda: normalize(generated(u, v, "dot", seen) + generated(a, v, "dot", seen) * scale),
            "real": lambda: real,
            "real unscaled": lambda: gumbel + scale * two,
            "real masked": lambda: normalize(gumbel + generated(u, v, "dot", seen) * 0.1),
            "dense": lambda: normalize(one + block(x)),
            "dense and gumbel": lambda: normalize(two * scale + block(x) + gumbel),
            "stack": lambda: cat([real, one, block(x), two * scale]),
            "interpolates": lambda: alpha * cat([real, real]) + (1 - alpha) * fakes,
            "misaligned": lambda: cat([one, two]) + cat([block(x)[:4], cat([gumbel, real])[:22]]),
            "normalised stack": lambda: normalize(cat([one, two])) * alpha,
        }[name]()

    lazy_rows = made(lazy, gumbel, RelationRows.from_dense, lambda r: r.normalize(), RelationRows.cat)
    dense_rows = made(dense, p, lambda x: x, unit, torch.cat)
    return lazy_rows, dense_rows, (u, v, a, b, scale, alpha, x)


NAMES = [
    *("gumbel", "scaled", "same twice", "other mask", "no mask", "shared v", "real", "real unscaled", "real masked"),
    *("dense", "dense and gumbel", "stack", "interpolates", "misaligned", "normalised stack"),
]


def without_none(*gradients):
    """An absent gradient is a zero one."""
    like = next((g for g in gradients if g is not None), torch.zeros(1))
    return [torch.zeros_like(like) if g is None else g for g in gradients]


def compare(actual, truth, leaves, tolerance):
    assert relative(actual, truth) < tolerance
    random = torch.Generator().manual_seed(5)
    outward = torch.randn(truth.shape, dtype=torch.float64, generator=random).to(truth.dtype)
    if not truth.requires_grad:
        assert not actual.requires_grad
        return
    gradients = (torch.autograd.grad(y, leaves, outward, allow_unused=True, retain_graph=True) for y in (actual, truth))
    for a, t in zip(*gradients, strict=True):
        assert relative(*without_none(a, t)) < tolerance


@pytest.mark.parametrize("n_rows", [13, 1])
@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("name", NAMES)
def test_linear_norm_topk_and_dense_equal_the_dense_block(name, tau, n_rows):
    if n_rows == 1 and name == "misaligned":
        pytest.skip("cuts a stack of 26 rows")
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


@pytest.mark.parametrize("scale", [1.0, -2.0, "lengths", "mixed"])
@pytest.mark.parametrize("whole_rows_k", [0, 128])
@pytest.mark.parametrize("masked", [False, True])
def test_topk_ties_go_to_the_lower_item_by_every_way(scale, whole_rows_k, masked, monkeypatch):
    from mmssl_fast.relation import topk

    monkeypatch.setattr(topk, "WHOLE_ROWS_K", whole_rows_k)
    monkeypatch.setattr(topk, "MERGE_ELEMENTS", 60)
    _, _, seen, (u, v, *_) = setting()
    seen = seen if masked else None
    u, v = u.detach().round(), v.detach().round()  # many equal entries, and seen ones at 0
    factor = {"lengths": torch.ones(13, 1) / 2, "mixed": torch.linspace(-1, 1, 13)[:, None]}.get(scale, scale)
    rows = RelationRows.generated(u, v, "dot", seen) * factor
    dense = reference.cosine_block(u, v, seen, "dot") * factor
    values, items = torch.sort(dense, dim=1, descending=True, stable=True)
    for elements in (1, 1 << 19):
        monkeypatch.setattr(topk, "TILE_ELEMENTS", elements)
        for k in (1, 7, 30, N_ITEMS):
            found = torch.topk(rows, k)
            assert torch.equal(found.indices, items[:, :k])
            torch.testing.assert_close(found.values, values[:, :k])


def test_topk_beyond_128_and_refusals():
    u, v = factors(5, 401, 3)
    rows = RelationRows.generated(u, v)
    assert relative(rows.topk(300).values, torch.topk(rows.dense(), 300).values) < 1e-12
    for arguments in ({"k": 402}, {"k": -1}, {"k": 3, "dim": 0}, {"k": 3, "largest": False}):
        with pytest.raises(ValueError if len(arguments) == 1 else TypeError, match=r"^RelationRows\.topk: "):
            rows.topk(**arguments)
    for k in (3, 300):
        with pytest.raises(ValueError, match="NaN"):
            RelationRows.generated(u * float("nan"), v, "dot").topk(k)


@pytest.mark.parametrize("k", [1, 7, 50, 401])
def test_topk_values_and_gradients_where_rows_are_fully_seen_or_not_at_all(k):
    u, v = factors(9, 401, 6)
    mask = torch.rand(9, 401, generator=torch.Generator().manual_seed(7)) < 0.4
    mask[0], mask[1] = False, True
    crow = torch.zeros(10, dtype=torch.int64)
    crow[1:] = mask.sum(1).cumsum(0)
    rows = RelationRows.generated(u, v, "dot", SeenRows(crow, mask.nonzero()[:, 1]))
    dense = (u @ v.T).masked_fill(mask, 0)
    values, items = torch.sort(dense, dim=1, descending=True, stable=True)
    with torch.no_grad():
        plain = rows.topk(k)
    found = rows.topk(k)
    for each in (plain, found):
        assert torch.equal(each.indices, items[:, :k])
        assert relative(each.values, values[:, :k]) < 1e-12
    actual = torch.autograd.grad(found.values.square().sum(), (u, v), retain_graph=True)
    truth = torch.autograd.grad(values[:, :k].square().sum(), (u, v))
    for a, t in zip(actual, truth, strict=True):
        assert relative(a, t) < 1e-12


@pytest.mark.parametrize("key", [slice(3, 20), slice(None, None, 2), slice(4, 4), torch.tensor([25, 0, 0, -1])])
def test_rows_are_taken_by_slice_and_id(key):
    rows, dense, _ = both("stack")
    weight = weights(H, N_ITEMS)
    taken = key if isinstance(key, slice) else key.where(key >= 0, key + len(dense))
    assert relative(rows[key].linear(weight), F.linear(dense[taken], weight)) < 1e-10
    with pytest.raises(TypeError, match="dense"):
        rows[3]
    with pytest.raises(IndexError, match="52 rows"):
        rows[torch.tensor([52])]


def test_values_are_computed_once_a_weight_version(monkeypatch):
    """Real, fake and interpolated rows of one step meet W once; a changed W is met again; backwards stay separate."""
    from mmssl_fast.relation.algebra import parts as algebra

    passes = []
    project = algebra._project
    monkeypatch.setattr(algebra, "_project", lambda w, vs, gemm: passes.append(len(vs)) or project(w, vs, gemm))
    graph, users, seen, (u, v, a, b) = setting()
    weight = weights(H, N_ITEMS)
    real = (RelationRows.gumbel(graph, users, TAUS[0], 3) + 3.0 * RelationRows.generated(u, v)).normalize().detach()
    fake = RelationRows.generated(a, b, "dot", seen, True)
    losses = [
        real.linear(weight).square().sum(),
        fake.detach().linear(weight).square().sum(),
        (real * 0.3 + fake.detach() * 0.7).linear(weight).square().sum(),
        fake.linear(weight).square().sum(),
    ]
    assert passes == [1, 1, 0]
    for loss in losses:  # each frees its own graph above z
        loss.backward()
    p = real.dense(), fake.dense().detach()
    w = weight.detach().requires_grad_()
    truth = sum(F.linear(x, w).square().sum() for x in (p[0], p[1], p[0] * 0.3 + p[1] * 0.7, p[1]))
    assert relative(weight.grad, torch.autograd.grad(truth, w)[0]) < 1e-10
    with torch.no_grad():
        weight.mul_(2)
    assert relative(fake.linear(weight), F.linear(p[1], weight)) < 1e-10
    assert passes[3:] == [1]
    with torch.no_grad():
        a.mul_(3)
    changed = RelationRows.generated(a, b, "dot", seen)
    assert relative(changed.linear(weight), F.linear(changed.dense(), weight)) < 1e-10


def test_gradients_of_one_backward_meet_before_the_weight(monkeypatch):
    """What reaches the same constant rows by several calls is summed at their z: one product for dW, not one a call."""
    from mmssl_fast.relation.algebra import parts as algebra

    products = []
    gradient = algebra._weight_gradient
    monkeypatch.setattr(algebra, "_weight_gradient", lambda *a: products.append(1) or gradient(*a))
    x, (u, v) = torch.randn(13, N_ITEMS, dtype=torch.float64), factors(13, N_ITEMS, D)
    real, fake, weight = RelationRows.from_dense(x), RelationRows.generated(u.detach(), v.detach()), weights(H, N_ITEMS)

    def loss(real, fake):
        mixed = F.linear(0.3 * real + 0.7 * fake, weight)
        return sum(F.linear(rows, weight).square().sum() for rows in (real, fake)) + mixed.pow(3).sum()

    (actual,), (truth,) = (torch.autograd.grad(loss(*rows), weight) for rows in ((real, fake), (x, fake.dense())))
    assert relative(actual, truth) < 1e-10 and products == [1]


@pytest.mark.parametrize("change", ["weight", "rows"])
def test_a_change_in_place_before_backward_is_an_error(change):
    x, weight = torch.randn(13, N_ITEMS, dtype=torch.float64), weights(H, N_ITEMS)
    loss = RelationRows.from_dense(x).linear(weight).sum()
    with torch.no_grad():
        (weight if change == "weight" else x).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_rows_first_used_under_no_grad_or_a_frozen_weight_train_afterwards():
    x, weight = torch.randn(13, N_ITEMS, dtype=torch.float64), weights(H, N_ITEMS)
    rows = RelationRows.from_dense(x)
    with torch.no_grad():
        rows.linear(weight)
    weight.requires_grad_(False)
    assert not rows.linear(weight).requires_grad
    weight.requires_grad_(True)
    for _ in range(2):
        rows.linear(weight).sum().backward()
    assert relative(weight.grad, 2 * x.sum(0).expand(H, -1)) < 1e-10
    assert not rows.detach().linear(weight.detach()).requires_grad


def test_values_kept_are_not_the_ones_handed_out():
    u, v = factors(13, N_ITEMS, D)
    rows, weight = RelationRows.generated(u.detach(), v.detach()), weights(H, N_ITEMS).detach()
    first = rows.linear(weight).clone()
    rows.linear(weight).zero_()
    assert torch.equal(rows.linear(weight), first)


def test_inference_mode_values_do_not_reach_training():
    u, v = factors(13, N_ITEMS, D)
    rows, weight = RelationRows.generated(u.detach(), v.detach()), weights(H, N_ITEMS)
    with torch.inference_mode():
        rows.linear(weight)
    rows.linear(weight).sum().backward()
    assert weight.grad.any()


def test_rows_work_in_inference_mode():
    graph, users, seen, leaves = setting()
    weight = weights(H, N_ITEMS)
    with torch.inference_mode():
        u, v = (x * 1 for x in leaves[:2])
        rows = (
            RelationRows.gumbel(graph, users, TAUS[0], 3) + RelationRows.generated(u, v, "cosine", seen)
        ).normalize()
        for w in (weight, weight * 1):
            assert relative(rows.linear(w), F.linear(rows.dense(), w)) < 1e-10
        assert rows.topk(3).indices.shape == (13, 3)


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


def test_a_leaf_changed_before_backward_is_an_error():
    u, v = factors(13, N_ITEMS, D)
    weight = weights(H, N_ITEMS)
    z = RelationRows.generated(u, v, "dot").linear(weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()


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
