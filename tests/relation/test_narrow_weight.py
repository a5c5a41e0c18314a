"""A first weight stored in bfloat16 and multiplied in float32: values, gradients, and no float32 copy of it."""

import pytest
import torch
import torch.nn.functional as F
from csr_blocks import normal
from relation_cases import catalogue
from torch.utils._python_dispatch import TorchDispatchMode

from mmssl_fast.nn import Discriminator
from mmssl_fast.nn.losses import discriminator_loss
from mmssl_fast.relation import RelationRows
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm
from mmssl_fast.relation.algebra.pending_gradient import pending_gradient
from mmssl_fast.tiles import tiles_of

N_USERS, N_ITEMS, ROWS, D, H = 60, 401, 41, 8, 24
GRAPH = catalogue(N_USERS, N_ITEMS, 0.05)
USERS = torch.arange(ROWS)


def leaf(*shape, seed):
    return normal(*shape, dtype=torch.float32, seed=seed).requires_grad_()


def cancelling():
    """Users whose unseen items are nearly orthogonal to them."""
    seen, u, v = GRAPH.rows(USERS), normal(ROWS, D, seed=5), normal(N_ITEMS, D, seed=6)
    u[3], v[:, 0] = 0, 1e-6
    u[3, 0] = 1
    v[seen.col[seen.crow[3] : seen.crow[4]].long(), 0] = 1
    u, v = u.float().requires_grad_(), v.float().requires_grad_()
    return RelationRows.generated(u, v, "dot", seen, row_l2=True), [u, v]


def generated(seen):
    u, v = leaf(ROWS, D, seed=1), leaf(N_ITEMS, D, seed=2)
    return RelationRows.generated(u, v, "cosine", seen, row_l2=True), [u, v]


def dense():
    x = leaf(ROWS, N_ITEMS, seed=3)
    return RelationRows.from_dense(x), [x]


def real():
    u, v = leaf(ROWS, D, seed=1), leaf(N_ITEMS, D, seed=2)
    return (RelationRows.gumbel(GRAPH, USERS, 0.15, 3) + 9.0 * RelationRows.generated(u, v)).normalize(), [u, v]


def stacked():
    (first, leaves), (second, more) = generated(None), generated(GRAPH.rows(USERS))
    return torch.cat([first, second, RelationRows.gumbel(GRAPH, USERS, 0.9, 3)]), [*leaves, *more]


MADE = {
    "generated": lambda: generated(None),
    "seen": lambda: generated(GRAPH.rows(USERS)),
    "cancelling": cancelling,
    "order statistics": real,
    "dense": dense,
    "stacked": stacked,
}


def stored(item_major=True):
    weight = normal(N_ITEMS, H, dtype=torch.float32, seed=1).bfloat16().mT
    return (weight if item_major else weight.contiguous()).requires_grad_()


@pytest.mark.parametrize("item_major", [True, False])
@pytest.mark.parametrize("made", MADE)
def test_values_and_gradients_are_those_of_the_float32_copy(made, item_major):
    weight = stored(item_major)
    wide = weight.detach().float().requires_grad_()
    results = []
    for w in (weight, wide):
        rows, leaves = MADE[made]()
        with tiles_of(64 * H):
            z = rows.linear(w)
            z.backward(normal(*z.shape, dtype=torch.float32, seed=9))
        results.append((z, *(x.grad for x in leaves)))
    assert results[0][0].dtype == torch.float32 and weight.grad.dtype == torch.bfloat16
    for mine, expected in zip(*results, strict=True):
        torch.testing.assert_close(mine, expected, atol=2e-5 * expected.abs().max().item(), rtol=2e-5)
    torch.testing.assert_close(weight.grad, wide.grad.bfloat16(), atol=1e-4 * wide.grad.abs().max().item(), rtol=2**-7)
    rows, _ = MADE[made]()
    with pending_gradient(weight) as pending:
        z = rows.linear(weight)
        z.backward(normal(*z.shape, dtype=torch.float32, seed=9))
    assert pending.dense().dtype == torch.float32
    torch.testing.assert_close(pending.dense(), wide.grad, atol=2e-5 * wide.grad.abs().max().item(), rtol=2e-5)


@pytest.mark.parametrize("rows", [5, 41])  # g W is saved, and through K
@pytest.mark.parametrize("saved", [1 << 22, 0])  # 0: it is streamed
def test_norms_are_those_of_the_float32_copy(rows, saved, monkeypatch):
    monkeypatch.setattr("mmssl_fast.relation.algebra.gradient_norm.SAVED_ELEMENTS", saved)
    weight = stored()
    wide = weight.detach().float().requires_grad_()
    found = []
    for w in (weight, wide):
        g = leaf(rows, H, seed=3)
        with tiles_of(64 * H):
            norm = gradient_norm(g, w)
            (norm - 1).square().mean().backward()
        found.append((norm, g.grad))
    for mine, expected in zip(*found, strict=True):
        torch.testing.assert_close(mine, expected, atol=2e-5 * expected.abs().max().item(), rtol=2e-5)
    torch.testing.assert_close(weight.grad, wide.grad.bfloat16(), atol=1e-5, rtol=2**-7)
    with pending_gradient(weight) as pending, tiles_of(64 * H):
        (gradient_norm(leaf(rows, H, seed=3), weight) - 1).square().mean().backward()
    torch.testing.assert_close(pending.dense(), wide.grad, atol=2e-5 * wide.grad.abs().max().item(), rtol=2e-5)


def test_other_pairs_of_dtypes_are_still_refused():
    rows, _ = generated(None)
    with pytest.raises(ValueError, match=r"weight must have the dtype of the rows, torch\.float32, got torch\.float16"):
        rows.linear(stored().half())
    with pytest.raises(ValueError, match="must have the same floating dtype"):
        gradient_norm(torch.ones(2, H, dtype=torch.float64), stored())


class Largest(TorchDispatchMode):
    """The largest float32 tensor that an op returns."""

    elements = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        result = func(*args, **(kwargs or {}))
        for x in result if isinstance(result, (tuple, list)) else [result]:
            if isinstance(x, torch.Tensor) and x.dtype == torch.float32:
                self.elements = max(self.elements, x.numel())
        return result


def loss_of(discriminator):
    real, _ = MADE["order statistics"]()
    fakes = [generated(None)[0].detach() for _ in range(2)]
    return sum(discriminator_loss(discriminator, real.detach(), fakes, torch.full((2 * ROWS,), 0.4)).values())


def test_a_step_forms_no_float32_copy():
    torch.manual_seed(0)
    discriminator = Discriminator(N_ITEMS, hidden=(256, 4), weight_dtype=torch.bfloat16)
    weight = discriminator.linear.weight
    assert weight.dtype == torch.bfloat16 and weight.mT.is_contiguous()
    rows, _ = generated(None)
    with Largest() as largest, tiles_of(64 * 256), pending_gradient(weight) as pending:
        loss_of(discriminator).backward()
        discriminator(rows).sum().backward()
        pending.tile(0, 64)
    assert len(pending) and 64 * 256 <= largest.elements < weight.numel()


def test_discriminator_with_a_narrow_weight_is_the_discriminator():
    torch.manual_seed(0)
    narrow = Discriminator(N_ITEMS, hidden=(H, 4), weight_dtype=torch.bfloat16).eval()
    wide = Discriminator(N_ITEMS, hidden=(H, 4)).eval()
    wide.load_state_dict(narrow.state_dict())
    rows, _ = generated(None)
    expected = wide(rows)
    for given in (rows, rows.dense()):
        torch.testing.assert_close(narrow(given), expected, atol=1e-5, rtol=1e-5)
        torch.testing.assert_close(
            narrow.first(given), F.linear(rows.dense(), wide.linear.weight), atol=1e-5, rtol=1e-4
        )
    with pytest.raises(ValueError, match=r"weight_dtype must be None or torch\.bfloat16, got torch\.float16"):
        Discriminator(N_ITEMS, weight_dtype=torch.float16)
