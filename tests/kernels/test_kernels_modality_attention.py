"""The Triton kernels of modality_attention: on a GPU where there is one, else in Triton's interpreter."""

import pytest
import torch
from csr_blocks import normal
from tolerances import assert_as_accurate

from mmssl_fast import reference

pytest.importorskip("triton", reason="triton is not installed")
from mmssl_fast.kernels.modality_attention import modality_mix, modality_mix_bwd

pytestmark = pytest.mark.usefixtures("poison")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# modalities, nodes, d, heads: a full block and a ragged one, one modality, many, odd widths, one node, none
SHAPES = [(2, 41, 16, 4), (3, 21, 64, 2), (1, 9, 8, 2), (7, 5, 12, 3), (3, 21, 41, 1), (2, 1, 6, 6), (3, 0, 8, 2)]


def operands(modalities, nodes, d, heads, dtype, scale=1.0):
    shapes = [(modalities, nodes, d)] * 3 + [(nodes, heads * d)]
    return [normal(*shape, seed=i, scale=scale, dtype=dtype).to(DEVICE) for i, shape in enumerate(shapes)]


def by_reference(q, k, e, grad, heads):
    """reference.modality_attention's mixture with q and k given, and its gradients."""
    q, k, e = (x.clone().requires_grad_() for x in (q, k, e))
    m, n, d = e.shape
    logits = torch.einsum("anhc,bnhc->nhab", q.view(m, n, heads, d // heads), k.view(m, n, heads, d // heads))
    weights = (logits / (d / heads) ** 0.5).softmax(-1).mean(2)
    mixed = torch.einsum("nhb,bnd->nhd", weights, e).reshape(n, heads * d)
    return [mixed.detach(), *torch.autograd.grad(mixed, (q, k, e), grad)]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("shape, scale", [(shape, 1.0) for shape in SHAPES] + [(SHAPES[1], 0.0), (SHAPES[1], 20.0)])
def test_mix_and_gradients(shape, scale, dtype):
    heads = shape[3]
    q, k, e, grad = operands(*shape, dtype, scale)
    actual = [modality_mix(q, k, e, heads), *modality_mix_bwd(grad, q, k, e, heads)]
    plain = by_reference(q, k, e, grad, heads)
    truth = by_reference(*(x.double() for x in (q, k, e, grad)), heads)
    for parts in zip(actual, plain, truth, strict=True):
        tiny = 1e-11 * parts[2].abs().amax().item() if dtype == torch.float64 and parts[2].numel() else None
        assert_as_accurate(*parts, tiny)


def test_mix_is_the_reference_with_identity_weights():
    e = normal(3, 10, 8, dtype=torch.float32).to(DEVICE)
    one = torch.eye(8, device=DEVICE)
    expected = reference.modality_attention(e, one, one, torch.eye(16, device=DEVICE)[:, :8], 2)
    torch.testing.assert_close(modality_mix(e, e, e, 2)[:, :8], expected)


def test_strided_inputs():
    q, k, e, grad = operands(3, 7, 8, 2, torch.float32)
    strided = [x.transpose(0, 1).contiguous().transpose(0, 1) for x in (q, k, e)]
    assert torch.equal(modality_mix(*strided, 2), modality_mix(q, k, e, 2))
    for a, b in zip(modality_mix_bwd(grad, *strided, 2), modality_mix_bwd(grad, q, k, e, 2), strict=True):
        assert torch.equal(a, b)


@pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter has no bfloat16 arithmetic")
def test_bfloat16_is_computed_in_float32():
    q, k, e, grad = operands(3, 41, 64, 4, torch.bfloat16)
    mixed = modality_mix(q, k, e, 4)
    assert mixed.dtype == torch.bfloat16
    assert torch.equal(mixed, modality_mix(q.float(), k.float(), e.float(), 4).bfloat16())
    wide = modality_mix_bwd(grad.float(), q.float(), k.float(), e.float(), 4)
    for a, b in zip(modality_mix_bwd(grad, q, k, e, 4), wide, strict=True):
        assert torch.equal(a, b.bfloat16())


@pytest.mark.parametrize(
    "change, message",
    [
        ({"e": torch.zeros(4, 6)}, r"e must be \[M, N, d\]"),
        ({"k": torch.zeros(3, 5, 6)}, "q, k and e must have the same shape"),
        ({"k": torch.zeros(3, 4, 6).double()}, "got float32, float64, float32"),
        ({"heads": 4}, "d = 6 is not a multiple of heads = 4"),
    ],
)
def test_refuses(change, message):
    arguments = {"q": torch.zeros(3, 4, 6), "k": torch.zeros(3, 4, 6), "e": torch.zeros(3, 4, 6), "heads": 2} | change
    with pytest.raises(ValueError, match="^modality_mix: .*" + message):
        modality_mix(**arguments)
    with pytest.raises(ValueError, match="^modality_mix_bwd: .*" + message):
        modality_mix_bwd(torch.zeros(4, 12), **arguments)
