"""TiledAdam and the pending gradient it takes, against torch.optim.Adam on weight.grad."""

import gc
import weakref

import pytest
import torch
import torch.nn.functional as F
from csr_blocks import normal
from relation_cases import catalogue

from mmssl_fast.nn import Discriminator
from mmssl_fast.nn.losses import discriminator_loss, generator_loss
from mmssl_fast.nn.tiled_adam import TiledAdam
from mmssl_fast.relation import RelationRows
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm
from mmssl_fast.relation.algebra.pending_gradient import pending_gradient

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
    with pytest.raises(RuntimeError, match="pending already"), pending_gradient(weight), pending_gradient(weight):
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
