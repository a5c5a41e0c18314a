"""infonce against the log-softmax over all users, formed whole."""

import math
import sys

import pytest
import torch
import torch.nn.functional as F
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.ops.infonce import infonce

module = sys.modules[infonce.__module__]

pytestmark = pytest.mark.usefixtures("poison")

sizes = module.infonce_sizes()

# users, anchors, d
SHAPES = [(41, 9, 64), (401, 1271, 17), (1, 1, 1), (1, 3, 5), (700, 300, 8), (257, 1, 3), (9000, 5, 4)]


def inputs(users, anchors, d, dtype=torch.float64, seed=0):
    random = torch.Generator().manual_seed(seed)
    h, e = (torch.randn(users, d, dtype=torch.float64, generator=random).to(dtype) for _ in range(2))
    ids = torch.randint(0, users, (anchors,), generator=random)
    return h.requires_grad_(), e.requires_grad_(), ids


def value_and_grads(op, h, e, ids, *options):
    loss = op(h, e, ids, *options)
    return (loss, *torch.autograd.grad(loss, (h, e)))


def wide(*tensors):
    return [x.detach().double().requires_grad_() for x in tensors]


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("tau", [0.5, 0.085])
@pytest.mark.parametrize("shape", SHAPES)
def test_infonce_value_and_gradients(shape, tau, exclude_self, dtype):
    h, e, ids = inputs(*shape, dtype)
    actual = value_and_grads(infonce, h, e, ids, tau, exclude_self)
    plain = value_and_grads(reference.infonce, h, e, ids, tau, exclude_self)
    truth = value_and_grads(reference.infonce, *wide(h, e), ids, tau, exclude_self)
    for parts in zip(actual, plain, truth, strict=True):
        # A single unit row has gradient 0 in exact arithmetic; rounding leaves about eps / tau, in float64's truth too.
        units = 64 if dtype == torch.float64 else 4
        assert_as_accurate(*parts, tiny=units * torch.finfo(dtype).eps * max(parts[2].abs().max().item(), 1 / tau))


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("tau", [0.01, 0.002, 50.0])
def test_infonce_at_extreme_temperatures(tau, exclude_self):
    """exp(s / tau) overflows, and exp((s - 1) / tau) vanishes for every key once the anchor itself is left out."""
    h, e, ids = inputs(3000, 40, 24, torch.float32)
    actual = value_and_grads(infonce, h, e, ids, tau, exclude_self)
    plain = value_and_grads(reference.infonce, h, e, ids, tau, exclude_self)
    truth = value_and_grads(reference.infonce, *wide(h, e), ids, tau, exclude_self)
    for parts in zip(actual, plain, truth, strict=True):
        assert parts[0].isfinite().all()
        assert_as_accurate(*parts)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_infonce_zero_rows(dtype):
    h, e, _ = inputs(20, 1, 5, dtype)
    with torch.no_grad():
        h[3] = 0
        e[4] = 0
        h[5] = e[5] = 0
    ids = torch.tensor([3, 4, 5, 6])
    for tau in (0.5, 0.01):
        loss, h_grad, e_grad = value_and_grads(infonce, h, e, ids, tau, True)
        truth = reference.infonce(*wide(h, e), ids, tau, True)
        torch.testing.assert_close(loss.double(), truth, rtol=1e-5, atol=0)
        assert h_grad.isfinite().all() and e_grad.isfinite().all()
        assert (h_grad[[3, 5]] == 0).all() and (e_grad[[4, 5]] == 0).all()
        assert (h_grad[6] != 0).any() and (e_grad[6] != 0).any()


def test_infonce_features_of_extreme_size():
    h, e, ids = inputs(41, 9, 16, torch.float32)
    big, small = (1e20 * h).detach().requires_grad_(), (1e-20 * e).detach().requires_grad_()
    loss, big_grad, small_grad = value_and_grads(infonce, big, small, ids, 0.2)
    truth = value_and_grads(reference.infonce, *wide(h, e), ids, 0.2)
    torch.testing.assert_close(loss.double(), truth[0], rtol=1e-5, atol=0)
    torch.testing.assert_close(big_grad.double() * 1e20, truth[1], rtol=1e-4, atol=1e-7)
    torch.testing.assert_close(small_grad.double() * 1e-20, truth[2], rtol=1e-4, atol=1e-7)


def test_infonce_repeated_ids_count_every_time():
    h, e, _ = inputs(30, 1, 4)
    ids = torch.tensor([7, 7, 2, 7])
    parts = value_and_grads(infonce, h, e, ids, 0.3)
    seven, two = (value_and_grads(infonce, h, e, torch.tensor([i]), 0.3) for i in (7, 2))
    for whole, a, b in zip(parts, seven, two, strict=True):
        torch.testing.assert_close(whole, (3 * a + b) / 4)


def test_infonce_sums_many_repeats_in_double():
    """Below ONE_PASS_MIN_TAU the terms' gradients come one by one; float32 sums of a million are off by a hundredth."""
    h, e, _ = inputs(8, 1, 4, torch.float32)
    many, once = (value_and_grads(infonce, h, e, torch.zeros(n, dtype=torch.int64), 0.01) for n in (300_000, 1))
    for a, b in zip(many, once, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-5, atol=1e-5)


def test_infonce_without_anchors():
    h, e, _ = inputs(5, 1, 3)
    loss = infonce(h, e, torch.empty(0, dtype=torch.int64), 0.2)
    assert loss.isnan() and loss.shape == ()


def test_infonce_passes_nan_on():
    for row in (0, 300):
        h, e, ids = inputs(301, 4, 3, torch.float32)
        with torch.no_grad():
            h[row] = torch.nan
        assert infonce(h, e, ids, 0.2).isnan()


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("case", ["plain", "zero", "expanded"])
def test_infonce_gradcheck(case, exclude_self):
    h, e, ids = inputs(6, 5, 3)
    if case == "zero":  # the value jumps at a zero row, whose gradient is 0 by definition: check the others
        keep = torch.tensor([1.0, 1, 0, 1, 1, 1], dtype=torch.float64)[:, None]
        assert torch.autograd.gradcheck(lambda h, e: infonce(h * keep, e * keep, ids, 0.3, exclude_self), (h, e))
    elif case == "expanded":
        h, e = h.detach()[:1].requires_grad_(), e.detach()[:, :1].requires_grad_()
        assert torch.autograd.gradcheck(
            lambda h, e: infonce(h.expand(6, 3), e.expand(6, 3), ids, 0.3, exclude_self), (h, e)
        )
    else:
        assert torch.autograd.gradcheck(lambda h, e: infonce(h, e, ids, 0.3, exclude_self), (h, e))


def test_infonce_opcheck():
    h, e, ids = inputs(6, 5, 3)
    for exclude_self in (False, True):
        arguments = (h, e, ids, 0.4, exclude_self)
        torch.library.opcheck(torch.ops.mmssl_fast.infonce, arguments)
        term, lse = (x.detach() for x in torch.ops.mmssl_fast.infonce(*arguments))
        detached = (term, lse, h.detach(), e.detach(), ids, lse, 0.4, exclude_self)
        torch.library.opcheck(torch.ops.mmssl_fast.infonce_bwd, detached)
        torch.library.opcheck(torch.ops.mmssl_fast.infonce_with_grad, arguments)


def test_infonce_both_outputs_of_the_op_have_gradients():
    h, e, _ = inputs(300, 12, 3)
    ids = torch.tensor([4, 1, 4])  # the two terms of 4 with a weight each
    assert torch.autograd.gradcheck(
        lambda h, e: torch.ops.mmssl_fast.infonce(h, e, ids, 0.4, True),
        (h.detach()[:6].requires_grad_(), e.detach()[:6].requires_grad_()),
    )


def test_infonce_refuses_a_second_derivative():
    h, e, ids = inputs(6, 5, 3)
    grads = torch.autograd.grad(infonce(h, e, ids, 0.4), (h, e), create_graph=True)
    for a, b in zip(grads, torch.autograd.grad(infonce(h, e, ids, 0.4), (h, e)), strict=True):
        torch.testing.assert_close(a, b)
    with pytest.raises(NotImplementedError, match="infonce has no second derivative"):
        torch.autograd.grad(grads[0].square().sum(), h)


def test_infonce_compiles_fullgraph():
    h, e, ids = inputs(300, 41, 8)
    compiled = torch.compile(infonce, fullgraph=True, backend="aot_eager")
    actual = value_and_grads(compiled, h, e, ids, 0.2, True)
    for a, b in zip(actual, value_and_grads(infonce, h, e, ids, 0.2, True), strict=True):
        torch.testing.assert_close(a, b)


@pytest.mark.parametrize("users, anchors", [(5000, 300), (200, 60)])
def test_infonce_same_bits_for_any_thread_count(users, anchors, threads):
    h, e, ids = inputs(users, anchors, 64, torch.float32)
    h, e = F.normalize(h.detach()), F.normalize(e.detach())
    results = []
    for count in (1, 2, 3):
        threads(count)
        results.append(torch.ops.mmssl_fast.infonce(h, e, ids, 0.2, True))
        term, lse = results[-1]
        results[-1] += torch.ops.mmssl_fast.infonce_bwd(term, lse, h, e, ids, lse, 0.2, True)
        results[-1] += torch.ops.mmssl_fast.infonce_with_grad(h, e, ids, 0.2, True)
    for other in results[1:]:
        assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


@pytest.mark.parametrize("exclude_self", [False, True])
@pytest.mark.parametrize("users, anchors, tau", [(9308, 300, 0.5), (700, 600, 0.025), (16000, 140, 0.085)])
def test_infonce_in_one_pass_equals_two(users, anchors, tau, exclude_self, monkeypatch):
    h, e, ids = inputs(users, anchors, 16)  # float64: with AMX, float32 is computed in one way only
    one = value_and_grads(infonce, h, e, ids, tau, exclude_self)
    monkeypatch.setattr(module, "MOST_USERS", 0)
    two = value_and_grads(infonce, h, e, ids, tau, exclude_self)
    truth = value_and_grads(reference.infonce, *wide(h, e), ids, tau, exclude_self)
    assert not torch.equal(one[1], two[1]), "both ran the same way"
    for parts in zip(one, two, truth, strict=True):
        assert_as_accurate(*parts)


def test_infonce_in_one_pass_refuses_what_it_cannot_sum():
    h, e, ids = (x.detach() for x in inputs(6, 5, 3))
    with pytest.raises(ValueError, match=r"infonce_with_grad: tau must be at least 0\.025, got 0\.02"):
        torch.ops.mmssl_fast.infonce_with_grad(h, e, ids, 0.02, False)
    with pytest.raises(ValueError, match="infonce_with_grad: ids must not be empty"):
        torch.ops.mmssl_fast.infonce_with_grad(h, e, ids[:0], 0.2, False)


def test_infonce_never_holds_anchors_by_users():
    h, e, ids = inputs(3000, 2900, 4, torch.float32)

    def largest(op):
        with torch.profiler.profile(profile_memory=True) as profile:
            value_and_grads(op, h, e, ids, 0.2)
        return max(event.self_cpu_memory_usage for event in profile.key_averages())

    matrix = 3000 * 2900 * 4
    assert largest(reference.infonce) >= matrix
    assert largest(infonce) < matrix / 4


@pytest.mark.parametrize(("dtype", "tau"), [(torch.float32, 1e-37), (torch.float64, 1e-300)])
def test_the_least_temperature_is_finite(dtype, tau):
    h, e = torch.randn(6, 5, dtype=dtype).requires_grad_(), torch.randn(6, 5, dtype=dtype)
    loss = infonce(h, e, torch.tensor([0, 3]), tau)
    loss.backward()
    assert loss.isfinite() and loss > 0.01 / tau and h.grad.isfinite().all() and h.grad.any()
    with pytest.raises(ValueError, match=f"tau must be at least {tau} for {dtype}"):
        infonce(h, e, torch.tensor([0, 3]), tau / 2)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tau": 0.0}, "tau must be positive, got 0"),
        ({"tau": math.nan}, "tau must be positive, got nan"),
        ({"tau": 9e-38}, "tau must be at least 1e-37 for torch.float32, got 9e-38"),
        ({"ids": torch.tensor([1, 4])}, r"ids\[1\] = 4 is outside \[0, 4\)"),
        ({"ids": torch.tensor([-1])}, r"ids\[0\] = -1 is outside"),
        ({"ids": torch.tensor([1.0])}, r"ids must be int64 or int32 \[B\], got float32"),
        ({"ids": torch.tensor(1)}, r"ids must be int64 \[B\]"),
        ({"e": torch.zeros(5, 3)}, r"h and e must both be \[U, d\], got \[4, 3\] and \[5, 3\]"),
        (
            {"e": torch.zeros(4, 3, dtype=torch.float64)},
            "same dtype, got torch.float32 and torch.float64",
        ),
        ({"h": torch.zeros(4, 3).half(), "e": torch.zeros(4, 3).half()}, "must be float32 or float64, got Half"),
    ],
)
def test_infonce_refuses(change, message):
    arguments = {"h": torch.zeros(4, 3), "e": torch.zeros(4, 3), "ids": torch.tensor([0, 3]), "tau": 0.2}
    with pytest.raises(ValueError, match="^infonce: .*" + message):
        infonce(**(arguments | change))


@pytest.mark.parametrize(
    "users, batch, pieces, expected",
    [
        (1000, 1024, False, (True, 256, 8 * 256, 2 * 1000 * 256)),
        (1000, 100, False, (True, 100, 8 * 100, 2 * 1000 * 100)),
        (1000, 100, True, (True, 100, 8 * 100, 0)),
        (1000, 31, True, (True, 31, 8 * 31, 2 * 1000 * 31)),
        (1 << 15, 1024, False, (True, 64, 64 * 64, 1 << 22)),  # as many anchors as 2**22 exponentials allow
        ((1 << 15) + 1, 2048, False, (False, 1024, 2 * 26 * 1024, 0)),  # 26 tasks of 5 tiles of 256 keys
    ],
)
def test_workspace_of_the_cpu(users, batch, pieces, expected):
    assert module.cpu_workspace(users, batch, pieces) == expected


@pytest.mark.parametrize(
    "users, batch, expected",
    [
        (9308, 1024, (True, 384, 2 * 19 * 384, 9308 * 384)),  # 19 tasks of 2 tiles of 256 keys
        (9308, 31, (True, 31, 2 * 19 * 31, 2 * 9308 * 31)),
        (1 << 17, 1024, (True, 256, 64 * 256, (1 << 17) * 256)),
        ((1 << 17) + 1, 1024, (False, 1024, 2 * 31 * 1024, 0)),  # 31 tasks of 17 tiles
    ],
)
def test_workspace_with_exponentials_in_bfloat16(users, batch, expected, monkeypatch):
    monkeypatch.setattr(module, "infonce_sizes", lambda: sizes | {"pieces": 0, "kept": 1 << 23})
    assert module.cpu_workspace(users, batch, bfloat16=True) == expected


@pytest.mark.parametrize("gemm", [None, torch.bfloat16])
def test_workspace_is_what_a_call_allocates(gemm):
    """The exponentials or, with AMX, the partial sums are the largest block that a differentiated call asks for."""
    users, batch, dim = 5120, 512, 32  # whole tiles
    h, e = (torch.randn(users, dim, requires_grad=True) for _ in range(2))
    with torch.profiler.profile(profile_memory=True) as profile:
        infonce(h, e, torch.arange(batch), 0.2, gemm=gemm)
    largest = max(event.cpu_memory_usage for event in profile.events() if event.name == "aten::empty")
    workspace = module.cpu_workspace(users, batch, bfloat16=gemm is not None)
    assert largest == 4 * max(workspace.exps, workspace.shares * dim) > 4 * users * dim
