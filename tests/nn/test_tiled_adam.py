"""TiledAdam and the pending gradient it takes, against torch.optim.Adam on weight.grad."""

import copy
import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from csr_blocks import normal
from relation_cases import catalogue

from mmssl_fast.nn import Discriminator
from mmssl_fast.nn.losses import discriminator_loss, generator_loss
from mmssl_fast.nn.tiled_adam import TiledAdam, _stochastically_rounded
from mmssl_fast.relation import RelationRows
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm
from mmssl_fast.relation.algebra.pending_gradient import PendingGradient, pending_gradient

N_USERS, N_ITEMS, ROWS, D = 60, 401, 41, 8
GRAPH = catalogue(N_USERS, N_ITEMS, 0.05)
USERS = torch.arange(ROWS)


def make_weight(hidden, item_major, dtype=torch.float64):
    weight = normal(N_ITEMS, hidden, dtype=dtype, seed=1).mT / N_ITEMS**0.5
    return (weight if item_major else weight.contiguous()).requires_grad_()


def generated(seed, seen=None, row_l2=True):
    return RelationRows.generated(normal(ROWS, D, seed=seed), normal(N_ITEMS, D, seed=seed + 1), "cosine", seen, row_l2)


def seen_rows_that_carry():
    """Users whose unseen items are all but orthogonal to them."""
    seen = GRAPH.rows(USERS)
    u, v = normal(ROWS, D, seed=5), normal(N_ITEMS, D, seed=6)
    u[3], v[:, 0] = 0, 1e-9
    u[3, 0] = 1
    v[seen.col[seen.crow[3] : seen.crow[4]].long(), 0] = 1
    return RelationRows.generated(u, v, "dot", seen, row_l2=True)


ROWS_OF = {
    "generated": lambda: generated(2),
    "seen": lambda: generated(2, GRAPH.rows(USERS)),
    "carried": seen_rows_that_carry,
    "order statistics": lambda: RelationRows.gumbel(GRAPH, USERS, 0.15, 3).to(torch.float64),
    "dense noise": lambda: RelationRows.gumbel(GRAPH, USERS, 0.9, 3).to(torch.float64),
    "dense": lambda: RelationRows.from_dense(normal(ROWS, N_ITEMS, seed=4)),
    "several": lambda: torch.cat([generated(2) + 0.5 * generated(4), generated(2, GRAPH.rows(USERS))]),
}


def both(weight, backward):
    """(the pending gradient in one matrix, weight.grad)"""
    backward()
    expected, weight.grad = weight.grad, None
    with pending_gradient(weight) as pending:
        backward()
    assert weight.grad is None and len(pending)
    return pending, expected


@pytest.mark.parametrize("item_major", [True, False])
@pytest.mark.parametrize("rows", ROWS_OF)
def test_pending_gradient_of_relation_linear(rows, item_major):
    weight, made = make_weight(16, item_major), ROWS_OF[rows]
    y_grad = normal(len(made()), 16, seed=9)
    pending, expected = both(weight, lambda: F.linear(made(), weight).backward(y_grad))
    torch.testing.assert_close(pending.dense(), expected, atol=1e-12, rtol=1e-10)
    tiles = [pending.tile(begin, min(begin + 37, N_ITEMS)) for begin in range(0, N_ITEMS, 37)]
    torch.testing.assert_close(torch.cat(tiles).mT, expected, atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("rows, hidden", [(41, 16), (5, 16), (41, 300)])  # through K, and streamed
def test_pending_gradient_of_the_penalty(rows, hidden):
    weight, g = make_weight(hidden, True), normal(rows, hidden, seed=3)
    pending, expected = both(weight, lambda: (gradient_norm(g, weight) - 1).square().mean().backward())
    torch.testing.assert_close(pending.dense(), expected, atol=1e-12, rtol=1e-10)


def test_pending_gradient_goes_without_the_collector():
    weight = make_weight(4, True)
    gc.disable()
    try:
        with pending_gradient(weight) as pending:
            (gradient_norm(normal(ROWS, 4), weight) - 1).square().mean().backward()
        gone = weakref.ref(pending)
        assert len(pending)
        del pending
        assert gone() is None
    finally:
        gc.enable()


def test_pending_gradient_ends_with_its_block():
    weight = make_weight(4, True)
    with (
        pytest.raises(RuntimeError, match="already active"),
        pending_gradient(weight),
        pending_gradient(weight),
    ):
        pass
    F.linear(generated(2), weight).sum().backward()
    assert weight.grad is not None


def trained(steps, make, dtype):
    """The discriminator's parameters after some steps of Eq. 7."""
    torch.manual_seed(0)
    discriminator = Discriminator(N_ITEMS, hidden=(32, 16), dropout=(0.0, 0.0)).to(dtype)
    weight = discriminator.linear.weight
    rest = torch.optim.Adam([p for p in discriminator.parameters() if p is not weight], lr=1e-2, betas=(0.5, 0.9))
    first, optimiser = make(weight)
    for step in range(steps):
        gumbel = RelationRows.gumbel(GRAPH, USERS, 0.15, 3, step).to(dtype)
        real = (gumbel + 2.0 * generated(2, row_l2=False).to(dtype)).normalize()
        fakes = [generated(seed).to(dtype) for seed in (4, 6)]
        loss = sum(discriminator_loss(discriminator, real, fakes, torch.full((2 * ROWS,), 0.4, dtype=dtype)).values())
        discriminator.zero_grad()
        first(weight, loss, optimiser)
        rest.step()
        generator_loss(discriminator, fakes)  # reads W of this version
    return weight.detach(), optimiser


def plainly(weight, loss, optimiser):
    loss.backward()
    optimiser.step()


def in_tiles(weight, loss, optimiser):
    with pending_gradient(weight) as pending:
        loss.backward()
    assert weight.grad is None
    optimiser.step(pending)


RATES = {"lr": 1e-2, "betas": (0.5, 0.9)}


@pytest.mark.parametrize("dtype, rtol", [(torch.float64, 1e-9), (torch.float32, 2e-3)])
def test_tiled_adam_is_adam(dtype, rtol):
    expected, adam = trained(5, lambda w: (plainly, torch.optim.Adam([w], **RATES)), dtype)
    actual, tiled = trained(5, lambda w: (in_tiles, TiledAdam(w, **RATES, tile=32 * 100)), dtype)
    torch.testing.assert_close(actual, expected, atol=rtol * 1e-2, rtol=rtol)
    (state,), (found,) = adam.state.values(), tiled.state.values()
    assert found["step"] == state["step"] == 5
    for name in ("exp_avg", "exp_avg_sq"):
        torch.testing.assert_close(found[name], state[name], atol=rtol * state[name].abs().max().item(), rtol=rtol)
    moved, _ = trained(4, lambda w: (in_tiles, TiledAdam(w, **RATES)), dtype)
    assert (moved - expected).abs().max() > 1e-4


def test_tiled_adam_with_half_width_moments():
    """Moments of 8 bits: the weight stays within a few percent of the way it has come."""
    start = trained(0, lambda w: (in_tiles, TiledAdam(w, **RATES)), torch.float32)[0]
    expected, _ = trained(5, lambda w: (in_tiles, TiledAdam(w, **RATES)), torch.float32)
    actual, optimiser = trained(5, lambda w: (in_tiles, TiledAdam(w, **RATES, moments=torch.bfloat16)), torch.float32)
    (state,) = optimiser.state.values()
    assert state["exp_avg"].dtype == torch.bfloat16
    assert (actual - expected).norm() < 0.05 * (expected - start).norm()
    again = TiledAdam(optimiser.param_groups[0]["params"][0], **RATES, moments=torch.bfloat16)
    again.load_state_dict(optimiser.state_dict())
    (loaded,) = again.state.values()
    assert loaded["exp_avg_sq"].dtype == torch.bfloat16 and torch.equal(loaded["exp_avg_sq"], state["exp_avg_sq"])


def test_tiled_adam_refuses_another_weights_gradient():
    weight = make_weight(4, True)
    with pending_gradient(make_weight(4, True)) as pending:
        pass
    with pytest.raises(ValueError, match="of another weight"):
        TiledAdam(weight).step(pending)


# --- bfloat16 moments over a long run ---------------------------------------------------------------------------------
def long_run(moments, betas, gradient, steps, tile=None, halt=None, items=slice(0, 64)):
    """(first moment, second moment, weight) [4, 64]; halt: a step at which the state is saved and loaded."""
    weight = torch.nn.Parameter(torch.zeros(64, 4)[items].mT)
    optimiser = TiledAdam(weight, lr=1e-3, betas=betas, moments=moments, tile=tile, first_item=items.start)
    for step in range(steps):
        if step == halt:
            state = optimiser.state_dict()
            optimiser = TiledAdam(weight, lr=1e-3, betas=betas, moments=moments, tile=tile)
            optimiser.load_state_dict(state)
        pending, dense = PendingGradient(weight), gradient(step)[items]
        pending._pieces.append(lambda begin, end, out, dense=dense: out.add_(dense[begin:end]))
        optimiser.step(pending)
    state = optimiser.state[weight]
    return state["exp_avg"].float(), state["exp_avg_sq"].float(), weight.detach()


def one_large_gradient(step):
    return torch.full((64, 4), 10.0 if step == 0 else 0.01)


def noisy(step):
    generator = torch.Generator().manual_seed(step)
    return 0.1 + torch.randn(64, 4, generator=generator)


@pytest.mark.parametrize("betas, steps", [((0.9, 0.999), 5000), ((0.5, 0.9), 500)])
@pytest.mark.parametrize("gradient", [one_large_gradient, noisy])
def test_bfloat16_moments_follow_float32_over_many_steps(gradient, betas, steps):
    """Rounded to the nearest, the second moment stays at 0.1001 for ever at beta2 = 0.999 (float32: 0.00077)."""
    expected, found = (long_run(moments, betas, gradient, steps) for moments in (torch.float32, torch.bfloat16))
    for a, b in zip(found, expected, strict=True):
        assert a.abs().mean().item() == pytest.approx(b.abs().mean().item(), rel=0.02)


def test_random_rounding_is_of_the_entry_and_step_alone():
    """Neither tiles nor a restart change a bit, another step does."""
    betas = (0.9, 0.999)
    whole = long_run(torch.bfloat16, betas, noisy, 30)
    for options in ({"tile": 40}, {"halt": 11}):
        other = long_run(torch.bfloat16, betas, noisy, 30, **options)
        assert all(torch.equal(a, b) for a, b in zip(whole, other, strict=True))
    part = long_run(torch.bfloat16, betas, noisy, 30, items=slice(20, 50))
    assert all(torch.equal(a[:, 20:50], b) for a, b in zip(whole, part, strict=True))
    value = torch.full((4096,), 1 + 2.0**-10)  # an eighth of the way from 1 to the next bfloat16
    bits = torch.arange(4096) * 16
    rounded = _stochastically_rounded(value, bits)
    assert rounded.unique().tolist() == [1.0, 1 + 2.0**-7]
    assert rounded.double().mean().item() == pytest.approx(value[0].item(), rel=1e-5)


def test_random_rounding_leaves_what_is_not_finite():
    odd = torch.tensor([torch.inf, -torch.inf, torch.nan, 0.0, -0.0])
    all_ones = torch.tensor([0x7FFFFFFF], dtype=torch.int32).view(torch.float32)
    for bits in (torch.zeros(5, dtype=torch.int64), torch.full((5,), 0xFFFF)):
        found = _stochastically_rounded(odd, bits)
        assert found[:2].tolist() == [torch.inf, -torch.inf] and found[2].isnan() and found[3:].abs().max() < 1e-38
    assert _stochastically_rounded(all_ones, torch.tensor([0xFFFF])).isnan().all()


# --- a weight in bfloat16 ---------------------------------------------------------------------------------------------
def narrow_run(moments, gradient, steps, start=0.5, lr=1e-4, **options):
    """The state [4, 64] of a weight in bfloat16 after some steps; halt, tile, items as in long_run."""
    items, halt = options.pop("items", slice(0, 64)), options.pop("halt", None)
    weight = torch.nn.Parameter(torch.full((64, 4), start, dtype=torch.bfloat16)[items].mT)
    made = {"lr": lr, "betas": (0.9, 0.999), "moments": moments, "first_item": items.start}
    optimiser = TiledAdam(weight, **made, **options)
    for step in range(steps):
        if step == halt:
            state = copy.deepcopy(optimiser.state_dict())
            optimiser = TiledAdam(weight, **made)
            optimiser.load_state_dict(state)
        pending, dense = PendingGradient(weight), gradient(step)[items]
        pending._pieces.append(lambda begin, end, out, dense=dense: out.add_(dense[begin:end]))
        optimiser.step(pending)
    state = optimiser.state[weight]
    assert weight.dtype == torch.bfloat16 and {state[name].dtype for name in ("exp_avg", "exp_avg_sq")} == {moments}
    return state["exp_avg"].float(), state["exp_avg_sq"].float(), weight.detach().float()


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_updates_far_below_a_unit_in_the_last_place_are_not_lost(moments):
    """At 0.5 the distance to the next bfloat16 is 0.002 or 0.004, and a step is 1e-4: rounded to the nearest, the
    weight would stay for ever."""
    found = narrow_run(moments, lambda step: torch.ones(64, 4), 500)[2]
    assert found.mean().item() == pytest.approx(0.5 - 500e-4, abs=0.003)
    assert 0 < found.std().item() < 0.5 * 500**0.5 * 2**-9


@pytest.mark.parametrize("moments", [torch.float32, torch.bfloat16])
def test_rounding_of_a_weight_is_of_the_entry_and_step_alone(moments):
    """Neither tiles nor a restart change a bit. float32 moments are not rounded on loading."""
    whole = narrow_run(moments, noisy, 30)
    for options in ({"tile": 40}, {"halt": 11}):
        assert all(torch.equal(a, b) for a, b in zip(whole, narrow_run(moments, noisy, 30, **options), strict=True))
    part = narrow_run(moments, noisy, 30, items=slice(20, 50))
    assert all(torch.equal(a[:, 20:50], b) for a, b in zip(whole, part, strict=True))


def test_weight_and_moments_are_rounded_by_different_bits():
    """After a step with the gradient 1.49, a moment and the weight have one value in all entries, and about half of
    them are rounded up."""
    gradient = torch.full((64, 4), 1.49)
    first, second, weight = narrow_run(torch.bfloat16, lambda step: gradient, 1, start=1.0, lr=0.002)
    up = [(x == x.max()).flatten().double() for x in (first, second, weight)]
    correlation = torch.corrcoef(torch.stack(up))
    assert all(0.3 < x.mean() < 0.7 for x in up) and (correlation - torch.eye(3)).abs().max() < 0.3


def test_moments_of_float16_are_refused():
    with pytest.raises(ValueError, match=r"moments must be bfloat16, float32 or float64, got torch\.float16"):
        TiledAdam(make_weight(4, True), moments=torch.float16)
