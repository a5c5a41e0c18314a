"""gradient_norm against (g @ weight).norm(dim=1)."""

import pytest
import torch
from relation_cases import relative, weights, wide
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.relation.algebra import gradient_norm as module
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm
from mmssl_fast.relation.algebra.pending_gradient import pending_gradient

pytestmark = pytest.mark.usefixtures("poison")

# rows, hidden, items; the first three go through K, the others through g W
SHAPES = [(41, 17, 401), (64, 33, 5), (300, 520, 41), (5, 41, 401), (1, 9, 7), (0, 4, 9), (3, 1, 1)]


def gradient(rows, h, dtype=torch.float64):
    g = torch.randn(rows, h, dtype=torch.float64, generator=torch.Generator().manual_seed(6)).to(dtype)
    if rows > 2:
        g[2] = 0
    return g.requires_grad_()


def results(op, g, weight, dn):
    n = op(g, weight)
    return n, *torch.autograd.grad(n, (g, weight), dn.to(n.dtype))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
@pytest.mark.parametrize("item_major", [True, False])
@pytest.mark.parametrize("shape", SHAPES)
def test_gradient_norm_equals_dense(shape, item_major, dtype):
    rows, h, n_items = shape
    g, weight = gradient(rows, h, dtype), weights(h, n_items, item_major, dtype)
    dn = torch.linspace(-1, 2, rows, dtype=torch.float64)
    actual = results(gradient_norm, g, weight, dn)
    truth = results(reference.gradient_norm, *wide(g, weight), dn.to(dtype))
    if dtype == torch.float64:
        assert all(relative(a, t) < 1e-10 for a, t in zip(actual, truth, strict=True))
    else:
        plain = results(reference.gradient_norm, g, weight, dn)
        for a, p, t in zip(actual, plain, truth, strict=True):
            assert_as_accurate(
                a, p, t, tiny=2e-5 * t.abs().max().item() if dtype == torch.float32 and t.numel() else None
            )
    assert actual[2].stride() == weight.stride()
    if rows > 2:
        assert actual[0][2] == 0 and not actual[1][2].any()


@pytest.mark.parametrize("elements", [5 * 401, 5 * 401 - 1])
def test_gradient_norm_keeps_a_small_product_and_streams_a_large_one(elements, monkeypatch):
    monkeypatch.setattr(module, "SAVED_ELEMENTS", elements)
    g, weight = gradient(5, 41), weights(41, 401)
    kept = torch.ops.mmssl_fast.gradient_norm(g, weight, "float64")[3]
    assert kept.shape == (5, 401 if elements == 5 * 401 else 0)
    dn = torch.linspace(-1, 2, 5, dtype=torch.float64)
    actual, truth = results(gradient_norm, g, weight, dn), results(reference.gradient_norm, *wide(g, weight), dn)
    assert all(relative(a, t) < 1e-10 for a, t in zip(actual, truth, strict=True))
    with pending_gradient(weight) as pending:
        gradient_norm(g, weight).backward(dn)
    assert relative(pending.dense(), truth[2]) < 1e-10


def nearly_dependent(ratio, rows=300, h=128, n_items=401):
    """W whose rows nearly agree in one direction that row 0 and 1 of g are blind to: ‖gW‖ is `ratio` of ‖g‖‖W‖."""
    random = torch.Generator().manual_seed(8)
    common = torch.randn(n_items, dtype=torch.float64, generator=random)
    weight = common + ratio * torch.randn(h, n_items, dtype=torch.float64, generator=random)
    g = torch.randn(rows, h, dtype=torch.float64, generator=random)
    g[:2] -= g[:2].mean(1, keepdim=True)
    return g.float().requires_grad_(), weight.float().requires_grad_()


@pytest.mark.parametrize("ratio", [0.3, 1e-1, 1e-2, 1e-3, 1e-4])
def test_gradient_norm_where_float32_cancels(ratio):
    g, weight = nearly_dependent(ratio)
    dn = torch.zeros(300)
    dn[:2] = 1
    actual = results(gradient_norm, g, weight, dn)
    truth = results(reference.gradient_norm, *wide(g, weight), dn)
    plain = results(reference.gradient_norm, g, weight, dn)
    for name, a, p, t in zip(("n", "dg", "dw"), actual, plain, truth, strict=True):
        a, p, t = (x[:2] if name == "n" else x for x in (a, p, t))
        assert relative(a, t) < max(2e-5, 2 * relative(p, t)), name


def test_gradient_norm_would_lose_digits_without_streaming(monkeypatch):
    monkeypatch.setitem(module.CANCELLED_LENGTH, torch.float32, 0.0)
    monkeypatch.setitem(module.CANCELLED_GRADIENT, torch.float32, 0.0)
    g, weight = nearly_dependent(1e-3)
    truth = reference.gradient_norm(*wide(g, weight))[:2]
    assert ((gradient_norm(g, weight)[:2].double() - truth) / truth).abs().max() > 1e-4


def test_gradient_norm_gradcheck():
    for rows, h in ((7, 3), (2, 6)):
        g = torch.randn(rows, h, dtype=torch.float64, generator=torch.Generator().manual_seed(6)).requires_grad_()
        assert torch.autograd.gradcheck(gradient_norm, (g, weights(h, 9)))
        assert torch.autograd.gradcheck(lambda g, w: gradient_norm(g[:1].expand(4, -1), w), (g, weights(h, 9)))


def test_gradient_norm_cannot_be_differentiated_twice():
    g, weight = gradient(7, 3), weights(3, 9)
    for x in (g, weight):
        (dx,) = torch.autograd.grad(gradient_norm(g, weight).sum(), x, create_graph=True)
        with pytest.raises(RuntimeError):
            torch.autograd.grad(dx.square().sum(), weight)


def test_gradient_norm_leaves_out_what_needs_no_gradient():
    g, weight = gradient(7, 3), weights(3, 9)
    (dg,) = torch.autograd.grad(gradient_norm(g, weight.detach()).sum(), g)
    assert relative(dg, torch.autograd.grad(reference.gradient_norm(g, weight.detach()).sum(), g)[0]) < 1e-10


@pytest.mark.parametrize("rows", [7, 2])
def test_gradient_norm_opcheck(rows):
    torch.library.opcheck(torch.ops.mmssl_fast.gradient_norm, (gradient(rows, 5), weights(5, 9), "float64"))


def test_gradient_norm_compiles_fullgraph():
    g, weight = gradient(13, 5), weights(5, 41)
    compiled = torch.compile(lambda g, w: (gradient_norm(g, w) - 1).square(), fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(g, weight).sum(), (g, weight))
    truth = torch.autograd.grad((reference.gradient_norm(g, weight) - 1).square().sum(), (g, weight))
    assert all(relative(a, t) < 1e-10 for a, t in zip(actual, truth, strict=True))


@pytest.mark.parametrize(
    "g, weight, message",
    [
        (torch.zeros(3, 4), torch.zeros(5, 9), r"g must be \[B, H\] and weight \[H, I\], got \(3, 4\) and \(5, 9\)"),
        (torch.zeros(3, 5).double(), torch.zeros(5, 9), "the same floating dtype, got torch.float64 and torch.float32"),
    ],
)
def test_gradient_norm_refuses(g, weight, message):
    with pytest.raises(ValueError, match="^gradient_norm: .*" + message):
        gradient_norm(g, weight)
