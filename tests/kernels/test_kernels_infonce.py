"""The Triton kernels of infonce: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from csr_blocks import normal
from tolerances import assert_as_accurate

pytest.importorskip("triton", reason="triton is not installed")
from mmssl_fast.kernels import infonce as kernels
from mmssl_fast.kernels import shapes
from mmssl_fast.kernels.infonce import infonce, infonce_bwd
from mmssl_fast.reference import unit_rows

pytestmark = pytest.mark.usefixtures("poison")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# users, anchors, d: several tiles of keys, one, more columns than a block, one user, no anchors, an odd width
SHAPES = [(130, 70, 8), (64, 64, 16), (70, 5, 150), (1, 1, 4), (9, 0, 8), (33, 41, 41)]


def operands(users, anchors, d, dtype):
    h, e = (unit_rows(normal(users, d, seed=seed)) for seed in (1, 2))
    if users > 4:
        e[3] = 0
    ids = torch.randint(users, (anchors,), generator=torch.Generator().manual_seed(3))
    term_grad, lse_grad = (normal(anchors, seed=seed) for seed in (4, 5))
    return [x.to(DEVICE, dtype) for x in (h, e)], ids.to(DEVICE), [x.to(DEVICE, dtype) for x in (term_grad, lse_grad)]


def by_reference(h, e, ids, term_grad, lse_grad, tau, exclude_self):
    """The two outputs of reference.infonce's formula before the mean, and the gradients."""
    h, e = h.clone().requires_grad_(), e.clone().requires_grad_()
    anchors = e[ids]
    within = anchors @ e.mT / tau
    if exclude_self:
        within = within.scatter(1, ids[:, None], -torch.inf)
    lse = torch.cat((anchors @ h.mT / tau, within), 1).logsumexp(1)
    term = lse - (anchors * h[ids]).sum(1) / tau
    grads = torch.autograd.grad((term, lse), (h, e), (term_grad, lse_grad))
    return [term.detach(), lse.detach(), *grads]


def by_kernels(h, e, ids, term_grad, lse_grad, tau, exclude_self):
    term, lse = infonce(h, e, ids, tau, exclude_self)
    return [term, lse, *infonce_bwd(term_grad, lse_grad, h, e, ids, lse, tau, exclude_self)]


def check(shape, tau, exclude_self, dtype):
    (h, e), ids, grads = operands(*shape, dtype)
    actual = by_kernels(h, e, ids, *grads, tau, exclude_self)
    plain = by_reference(h, e, ids, *grads, tau, exclude_self)
    truth = by_reference(h.double(), e.double(), ids, *(g.double() for g in grads), tau, exclude_self)
    for parts in zip(actual, plain, truth, strict=True):
        # exp2 on a GPU is right to 2 ulp, and logits of 1/tau are rounded before it.
        largest = max(parts[2].abs().amax().item(), 1) if parts[2].numel() else 0
        assert_as_accurate(*parts, tiny=16 * torch.finfo(dtype).eps * largest * max(1, 0.2 / tau))


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, exclude_self):
    check(shape, 0.2, exclude_self, torch.float32)


@pytest.mark.parametrize("tau", [2.0, 0.024, 0.02, 0.003])
def test_temperatures(tau):
    """From 1/τ = 43 on float32 cannot hold all logits under one shift: a running maximum takes over."""
    check((130, 20, 8), tau, True, torch.float32)


def test_float64():
    check((70, 40, 12), 0.2, True, torch.float64)
    check((70, 40, 12), 0.003, False, torch.float64)


def test_keys_in_one_part_or_many(monkeypatch):
    (h, e), ids, grads = operands(130, 20, 8, torch.float32)
    many = by_kernels(h, e, ids, *grads, 0.2, False)
    monkeypatch.setattr(shapes, "parts_of", lambda tiles, others: 1)
    for a, b in zip(many, by_kernels(h, e, ids, *grads, 0.2, False), strict=True):
        torch.testing.assert_close(a, b)


def test_an_id_that_occurs_many_times():
    (h, e), _, _ = operands(20, 0, 8, torch.float32)
    ids = torch.tensor([7] * 40 + [3, 7, 19, 3], device=DEVICE)
    grads = [normal(44, seed=seed, dtype=torch.float32).to(DEVICE) for seed in (4, 5)]
    actual = by_kernels(h, e, ids, *grads, 0.2, False)
    again = by_kernels(h, e, ids, *grads, 0.2, False)
    assert all(torch.equal(a, b) for a, b in zip(actual, again, strict=True))
    for a, b in zip(actual, by_reference(h, e, ids, *grads, 0.2, False), strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"e": torch.zeros(4, 3)}, r"h and e must both be \[U, d\], got \(5, 3\) and \(4, 3\)"),
        ({"e": torch.zeros(5, 3).double()}, "h and e must have the same dtype, got float32 and float64"),
        ({"h": torch.zeros(5, 3).half(), "e": torch.zeros(5, 3).half()}, "unit rows must be float32 or float64"),
        ({"ids": torch.zeros(2, dtype=torch.int32)}, r"ids must be int64 \[B\], got int32 \(2,\)"),
        ({"tau": 0.0}, "tau must be positive, got 0.0"),
    ],
)
def test_refuses(change, message):
    arguments = {"h": torch.zeros(5, 3), "e": torch.zeros(5, 3), "ids": torch.arange(2), "tau": 0.2}
    with pytest.raises(ValueError, match="^infonce: " + message):
        infonce(**(arguments | change), exclude_self=False)


@pytest.mark.parametrize(
    "dtype, bfloat16, precision",
    [
        (torch.float32, True, "bf16"),
        (torch.float32, False, "tf32x3"),
        (torch.float64, True, "ieee"),
    ],
)
def test_bfloat16_rounds_float32_operands(dtype, bfloat16, precision):
    (h, e), ids, _ = operands(33, 41, 8, dtype)
    assert kernels._Call("infonce", h, e, ids, 0.2, False, bfloat16).blocks["PRECISION"] == precision
