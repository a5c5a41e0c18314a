"""modality_attention against reference.py."""

import math
from unittest import mock

import pytest
import torch
from csr_blocks import normal
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.ops.modality_attention import modality_attention

pytestmark = pytest.mark.usefixtures("poison")

# modalities, nodes, d, heads: the usual, one modality, many, odd widths, one head a column, one node, none
SHAPES = [
    (2, 41, 64, 4),
    (3, 401, 64, 4),
    (2, 33, 20, 1),
    (1, 9, 8, 2),
    (7, 5, 12, 3),
    (3, 41, 41, 1),
    (2, 1, 6, 6),
    (3, 0, 8, 2),
]


def operands(modalities, nodes, d, heads, dtype=torch.float64, scale=1.0):
    e = normal(modalities, nodes, d, seed=1, scale=scale)
    weights = [normal(*s, seed=i + 2, scale=s[0] ** -0.5) for i, s in enumerate([(d, d), (d, d), (heads * d, d)])]
    return [x.to(dtype).requires_grad_() for x in (e, *weights)]


def with_gradients(op, inputs, heads):
    y = op(*inputs, heads)
    weighted = (y * torch.linspace(-1, 2, y.numel(), dtype=y.dtype).view_as(y)).sum()
    return [y.detach(), *torch.autograd.grad(weighted, inputs)]


class AccurateSoftmax(torch.autograd.Function):
    """softmax over the last dimension. Where a weight p_i is near 1, the terms of torch's gradient
    p_i (g_i − Σ_j p_j g_j) nearly cancel; those of p_i Σ_j p_j (g_i − g_j), which is the same, do not."""

    @staticmethod
    def forward(ctx, logits):
        weights = torch.softmax(logits, -1)
        ctx.save_for_backward(weights)
        return weights

    @staticmethod
    def backward(ctx, grad):
        (weights,) = ctx.saved_tensors
        return weights * ((grad[..., :, None] - grad[..., None, :]) * weights[..., None, :]).sum(-1)


def truth(inputs, heads):
    """The reference in float64 with the gradients of AccurateSoftmax."""
    exact = [x.detach().double().requires_grad_() for x in inputs]
    with mock.patch.object(torch.Tensor, "softmax", lambda x, dim: AccurateSoftmax.apply(x)):
        return with_gradients(reference.modality_attention, exact, heads)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("scale", [1.0, 0.0, 20.0])
@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_gradients(shape, scale, dtype):
    inputs = operands(*shape, dtype, scale)
    actual = with_gradients(modality_attention, inputs, shape[3])
    plain = with_gradients(reference.modality_attention, inputs, shape[3])
    for parts in zip(actual, plain, truth(inputs, shape[3]), strict=True):
        # A float64 truth is itself rounded, which large logits enlarge.
        tiny = 1e-11 * parts[2].abs().amax().item() if dtype == torch.float64 and parts[2].numel() else None
        assert_as_accurate(*parts, tiny)


@pytest.mark.parametrize("dtype, rtol", [(torch.float32, 1e-5), (torch.float64, 1e-12)])
@pytest.mark.parametrize("nodes", [1, 17, 40])
def test_gradient_where_a_weight_is_near_one(nodes, dtype, rtol):
    """The weights are 1 / (1 + exp(-15)) and the rest, exactly the same for every node."""
    q, k, e = (torch.tensor(x, dtype=dtype).view(2, 1, 1).expand(2, nodes, 1) for x in ([1, 1], [15, 0], [0.3, -0.7]))
    grad_q, grad_k, _ = torch.ops.mmssl_fast.modality_mix_bwd(torch.ones(nodes, 1, dtype=dtype), q, k, e, 1)
    low = math.exp(-15)
    logit = (e[0, 0, 0] - e[1, 0, 0]).item() / 2 * low / (1 + low) ** 2
    torch.testing.assert_close(grad_q, torch.full_like(grad_q, 15 * logit), rtol=rtol, atol=0)
    torch.testing.assert_close(grad_k[0], torch.full_like(grad_k[0], 2 * logit), rtol=rtol, atol=0)


def test_nodes_do_not_depend_on_their_neighbours():
    """The kernels take 16 nodes at a time."""
    q, k, e = (normal(3, 41, 20, seed=i) for i in range(3))
    grad, ops = normal(41, 80, seed=3), torch.ops.mmssl_fast
    y, grads = ops.modality_mix(q, k, e, 4), ops.modality_mix_bwd(grad, q, k, e, 4)
    for part in (slice(0, 7), slice(5, 30), slice(40, 41)):
        few = q[:, part], k[:, part], e[:, part]
        assert torch.equal(ops.modality_mix(*few, 4), y[part])
        for a, b in zip(ops.modality_mix_bwd(grad[part], *few, 4), grads, strict=True):
            assert torch.equal(a, b[:, part])


def test_logits_beyond_the_range_of_exp():
    inputs = operands(3, 5, 8, 2, torch.float32, scale=1e3)
    exact = [x.detach().double() for x in inputs]
    actual = modality_attention(*inputs, 2)
    assert actual.isfinite().all()
    torch.testing.assert_close(actual.double(), reference.modality_attention(*exact, 2), rtol=1e-4, atol=1e-2)


@pytest.mark.parametrize("strides", ["contiguous", "nodes first", "expanded"])
def test_gradcheck(strides):
    e, *weights = operands(3, 4, 6, 2)
    if strides == "nodes first":
        e = e.detach().transpose(0, 1).contiguous().transpose(0, 1).requires_grad_()

    def op(e, *weights):
        return modality_attention(e[:1].expand(3, 4, 6) if strides == "expanded" else e, *weights, 2)

    assert torch.autograd.gradcheck(op, (e, *weights))


def test_second_derivative_is_refused():
    inputs = operands(3, 4, 6, 2)
    (grad,) = torch.autograd.grad(modality_attention(*inputs, 2).sum(), inputs[0], create_graph=True)
    with pytest.raises(RuntimeError, match="modality_attention has no second derivative"):
        grad.sum().backward()


@pytest.mark.parametrize("nodes", [5, 0])
def test_opcheck(nodes):
    q, k, e = (normal(3, nodes, 6, seed=i).requires_grad_() for i in range(3))
    torch.library.opcheck(torch.ops.mmssl_fast.modality_mix, (q, k, e, 2))
    q, k, e = (x.detach() for x in (q, k, e))
    torch.library.opcheck(torch.ops.mmssl_fast.modality_mix_bwd, (normal(nodes, 12), q, k, e, 2))


def test_compiles_fullgraph():
    inputs = operands(3, 41, 16, 4)
    compiled = torch.compile(modality_attention, fullgraph=True, backend="aot_eager")
    for pair in zip(with_gradients(compiled, inputs, 4), with_gradients(modality_attention, inputs, 4), strict=True):
        torch.testing.assert_close(*pair)


def test_autocast_multiplies_in_bfloat16_and_mixes_in_float32():
    inputs = operands(3, 41, 16, 4, torch.float32)
    with torch.autocast("cpu", torch.bfloat16):
        y = modality_attention(*inputs, 4)
    assert y.dtype == torch.bfloat16
    torch.testing.assert_close(y.float(), modality_attention(*inputs, 4), rtol=0.05, atol=0.05)


def test_same_bits_for_any_thread_count(threads):
    q, k, e, grad = (normal(*s, dtype=torch.float32) for s in [(3, 1271, 64)] * 3 + [(1271, 256)])
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(
            [torch.ops.mmssl_fast.modality_mix(q, k, e, 4), *torch.ops.mmssl_fast.modality_mix_bwd(grad, q, k, e, 4)]
        )
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"e": torch.zeros(4, 6)}, r"e must be \[M, N, d\] with M, d ≥ 1, got \(4, 6\)"),
        ({"e": torch.zeros(0, 4, 6)}, r"e must be \[M, N, d\]"),
        ({"heads": 4}, "d = 6 is not a multiple of heads = 4"),
        ({"heads": 0}, "d = 6 is not a multiple of heads = 0"),
        ({"wq": torch.zeros(6, 5)}, r"wq must be \[6, 6\], got \(6, 5\)"),
        ({"wo": torch.zeros(6, 6)}, r"wo must be \[12, 6\], got \(6, 6\)"),
        ({"wk": torch.zeros(6, 6).double()}, r"wk must have the dtype of e, torch.float32, got torch.float64"),
    ],
)
def test_refuses(change, message):
    arguments = {"e": torch.zeros(3, 4, 6), "wq": torch.zeros(6, 6), "wk": torch.zeros(6, 6), "heads": 2}
    with pytest.raises(ValueError, match="^modality_attention: " + message):
        modality_attention(**(arguments | {"wo": torch.zeros(12, 6)} | change))
