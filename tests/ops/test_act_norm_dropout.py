"""act_norm_dropout against leaky_relu, batch_norm and a Philox mask in plain PyTorch, twice differentiated."""

import pytest
import torch
from tolerances import assert_as_accurate

from mmssl_fast import act_norm_dropout, reference
from mmssl_fast.ops.act_norm_dropout import backward_by_torch, double_backward_by_torch, forward_by_torch

pytestmark = pytest.mark.usefixtures("poison")

AT = torch.tensor([7, 3])
SHAPES = [(2, 1), (3, 63), (41, 65), (101, 130), (128, 64), (259, 129)]  # the kernels take 128 rows at a time


def leaves(shape, dtype=torch.float64):
    random = torch.Generator().manual_seed(sum(shape))
    z, *columns = (torch.randn(size, generator=random, dtype=torch.float64) for size in (shape, shape[1:], shape[1:]))
    return [x.to(dtype).requires_grad_() for x in (3 * z + 1, *columns)]


def ours(z, weight, bias, rate=0.31, slope=0.2):
    return act_norm_dropout(z, weight, bias, rate, AT, slope)[0]


def plain(z, weight, bias, rate=0.31, slope=0.2):
    return reference.act_norm_dropout(z, weight, bias, rate, *AT.tolist(), slope)


def twice(function, inputs):
    """Value, gradients, and the gradients of a penalty on the length of the gradient with respect to z."""
    y = function(*inputs)
    first = torch.autograd.grad(y.square().sum(), inputs, create_graph=True)
    penalty = (first[0].norm(dim=1) - 1).square().mean()
    return [x.detach() for x in (y, *first, *torch.autograd.grad(penalty, inputs, materialize_grads=True))]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("rate, slope", [(0.31, 0.2), (0.0, 1.0), (0.9, 0.0)])
@pytest.mark.parametrize("shape", SHAPES)
def test_act_norm_dropout_values_and_both_derivatives(shape, rate, slope, dtype):
    inputs = leaves(shape, dtype)
    wide = [x.detach().double().requires_grad_() for x in inputs]

    def all_of(function, x):
        return twice(lambda *each: function(*each, rate, slope), x)

    actual, expected = all_of(ours, inputs), all_of(plain, inputs)
    for a, e, truth in zip(actual, expected, all_of(plain, wide), strict=True):
        scale = max(truth.abs().max().item(), *(x.abs().max().item() for x in actual[1:4]))
        assert_as_accurate(a, e, truth, tiny=64 * torch.finfo(dtype).eps * scale)


@pytest.mark.parametrize("rows", [40, 129, 700])
def test_act_norm_dropout_of_columns_far_from_zero(rows):
    """The sums of squares are about the mean, so that they keep their digits."""
    z, weight, bias = (x.detach() for x in leaves((rows, 70)))
    z = (1000 + z).float()
    y, mean, variance = act_norm_dropout(z, weight.float(), bias.float(), 0.0, AT)
    truth = plain(z.double(), weight.float().double(), bias.float().double(), 0.0)
    torch.testing.assert_close(mean.double(), z.double().mean(0), rtol=1e-6, atol=0)
    torch.testing.assert_close(variance.double(), z.double().var(0, correction=0), rtol=1e-4, atol=0)
    assert (y - truth).abs().max() <= 1e-3


def test_act_norm_dropout_with_nan_in_one_column():
    z, weight, bias = (x.detach() for x in leaves((300, 70)))
    expected = ours(z, weight, bias)
    z[200, 66] = float("nan")
    actual = ours(z, weight, bias)
    assert actual[:, 66].isnan().all()
    others = torch.arange(70) != 66
    assert torch.equal(actual[:, others], expected[:, others])


def test_act_norm_dropout_gradcheck_twice():
    inputs = leaves((5, 3))
    assert torch.autograd.gradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(ours, inputs)
    assert torch.autograd.gradgradcheck(lambda z, *rest: ours(z.expand(5, 3), *rest), [leaves((5, 1))[0], *inputs[1:]])


def test_act_norm_dropout_by_torch_is_what_the_kernels_compute():
    """CUDA's owner, on CPU tensors."""
    z, weight, bias = (x.detach() for x in leaves((41, 65)))
    how = AT, 0.2, 1e-5, 0.31
    y, mean, variance = forward_by_torch(z, weight, bias, *how)
    grad, gg = torch.randn_like(z), (torch.randn_like(z), torch.randn_like(weight), torch.randn_like(weight))
    saved = grad, z, mean, variance, weight
    ops = torch.ops.mmssl_fast
    for actual, expected in [
        ((y, mean, variance), ops.act_norm_dropout(z, weight, bias, *how)),
        (backward_by_torch(*saved, *how), ops.act_norm_dropout_bwd(*saved, *how)),
        (double_backward_by_torch(*gg, *saved, *how), ops.act_norm_dropout_bwd_bwd(*gg, *saved, *how)),
    ]:
        torch.testing.assert_close(actual, expected, rtol=1e-10, atol=1e-12)


def test_act_norm_dropout_drops_at_its_rate_and_anew_at_another_seed():
    z, weight, bias = (x.detach() for x in leaves((401, 200)))
    kept = [act_norm_dropout(z, weight, bias, 0.31, torch.tensor(at))[0] != 0 for at in ([1, 0], [2, 0], [1, 1])]
    for mask in kept:
        assert abs(mask.double().mean() - 0.69) < 5 * (0.31 * 0.69 / mask.numel()) ** 0.5
    for other in kept[1:]:
        assert abs((kept[0] & other).double().mean() - 0.69**2) < 0.01


def test_act_norm_dropout_in_bfloat16_is_computed_in_float32():
    inputs = [x.detach() for x in leaves((41, 65), torch.bfloat16)]
    actual = ours(*inputs)
    assert actual.dtype == torch.bfloat16
    assert torch.equal(actual, ours(*(x.float() for x in inputs)).bfloat16())


def test_act_norm_dropout_opcheck_and_fullgraph():
    inputs = leaves((7, 5))
    how = AT, 0.2, 1e-5, 0.31
    ops = torch.ops.mmssl_fast
    torch.library.opcheck(ops.act_norm_dropout, (*inputs, *how))
    z, weight, bias = (x.detach() for x in inputs)
    _, mean, variance = ops.act_norm_dropout(z, weight, bias, *how)
    saved = torch.randn_like(z), z, mean, variance, weight
    torch.library.opcheck(ops.act_norm_dropout_bwd, (*saved, *how))
    torch.library.opcheck(ops.act_norm_dropout_bwd_bwd, (z, weight, bias, *saved, *how))
    compiled = torch.compile(ours, fullgraph=True, backend="aot_eager")
    assert torch.equal(compiled(*inputs), ours(*inputs))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"z": torch.randn(1, 5)}, "at least 2 rows"),
        ({"z": torch.randn(5)}, "at least 2 rows"),
        ({"rate": 1.0}, "rate must be in"),
        ({"slope": -1.0}, "slope must not be negative"),
        ({"eps": 0.0}, "eps must be positive"),
        ({"weight": torch.ones(4)}, "weight must be"),
        ({"bias": torch.ones(5, dtype=torch.float64)}, "bias must be"),
        ({"seed_offset": torch.tensor([1])}, "seed_offset must be"),
    ],
)
def test_act_norm_dropout_refuses(change, message):
    sound = {
        "z": torch.randn(3, 5),
        "weight": torch.ones(5),
        "bias": torch.ones(5),
        "seed_offset": AT,
        "slope": 0.2,
        "eps": 1e-5,
        "rate": 0.3,
    }
    with pytest.raises(ValueError, match=f"^act_norm_dropout: .*{message}"):
        torch.ops.mmssl_fast.act_norm_dropout(*(sound | change).values())
