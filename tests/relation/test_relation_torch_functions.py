"""What torch's functions make of RelationRows: each answer equals the dense one, and nothing forms [B, I] unasked."""

import copy

import numpy as np
import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from relation_cases import catalogue, factors, relative, weights

from mmssl_fast import reference, tiles
from mmssl_fast.relation import RelationGradient, RelationRows

N_ROWS, N_ITEMS, D, H = 13, 41, 5, 17


@pytest.fixture
def rows():
    return RelationRows.generated(*factors(N_ROWS, N_ITEMS, D), "dot", catalogue().rows(torch.arange(N_ROWS)))


@pytest.fixture
def other():
    return RelationRows.generated(*factors(N_ROWS, N_ITEMS, D, seed=7))


@pytest.fixture
def block():
    return torch.randn(N_ROWS, N_ITEMS, dtype=torch.float64, generator=torch.Generator().manual_seed(9))


COLUMN = torch.linspace(-1, 2, N_ROWS, dtype=torch.float64)[:, None]

EXPRESSIONS = {
    "r + o": lambda r, o, x: r + o,
    "r - o": lambda r, o, x: r - o,
    "-r": lambda r, o, x: -r,
    "r * number": lambda r, o, x: 3 * r * 0.5,
    "NumPy number": lambda r, o, x: np.float32(0.5) * r * np.int64(3),
    "r / number": lambda r, o, x: r / 4,
    "r * column": lambda r, o, x: r * COLUMN,
    "column * r": lambda r, o, x: COLUMN * r,
    "r / column": lambda r, o, x: r / (COLUMN + 5),
    "r * 0-dim": lambda r, o, x: r * torch.tensor(2.0, dtype=torch.float64),
    "expanded * r": lambda r, o, x: COLUMN.expand(N_ROWS, N_ITEMS) * r,
    "expand_as": lambda r, o, x: COLUMN.expand_as(r) * r + (1 - COLUMN.expand_as(r)) * o,
    "lerp": lambda r, o, x: torch.lerp(r, o, COLUMN),
    "x + r": lambda r, o, x: x + r,
    "r + x": lambda r, o, x: r + x,
    "x - r": lambda r, o, x: x - r,
    "r - x": lambda r, o, x: r - x,
    "torch.add": lambda r, o, x: torch.add(r, o, alpha=2),
    "torch.add to x": lambda r, o, x: torch.add(x, r, alpha=2),
    "torch.sub": lambda r, o, x: torch.sub(x, r, alpha=2),
    "torch.mul": lambda r, o, x: torch.mul(COLUMN, torch.mul(r, 2)),
    "torch.div": lambda r, o, x: torch.div(r, 2),
    "torch.neg": lambda r, o, x: torch.neg(r),
    "sum": lambda r, o, x: sum([r, o, x]),
    "cat": lambda r, o, x: torch.cat((r, x, o)),
    "concat one": lambda r, o, x: torch.concat([r], dim=0),
    "cat of x first": lambda r, o, x: torch.cat([x, r], 0),
    "normalize": lambda r, o, x: F.normalize(r + x, dim=1),
    "normalize p": lambda r, o, x: F.normalize(r, p=2, dim=-1),
    "detach": lambda r, o, x: torch.detach(r).detach(),
    "clone": lambda r, o, x: torch.clone(r).clone(),
    "float and back": lambda r, o, x: r.double().to(torch.float64).to("cpu").cpu(),
    "slice": lambda r, o, x: r[3:9],
}


@pytest.mark.parametrize("name", EXPRESSIONS)
def test_expressions_equal_the_dense_ones_and_stay_lazy(name, rows, other, block, monkeypatch):
    expression = EXPRESSIONS[name]
    truth = expression(unit_zero(rows), unit_zero(other), block.clone())
    formed = []
    monkeypatch.setattr(RelationRows, "dense", lambda self: formed.append(self))
    lazy = expression(rows, other, block.clone())
    assert isinstance(lazy, RelationRows) and not formed
    monkeypatch.undo()
    assert lazy.requires_grad == truth.requires_grad and lazy.shape == truth.shape and lazy.dtype == truth.dtype
    assert relative(lazy.dense(), truth) < 1e-10
    assert relative(lazy.linear(weights(H, N_ITEMS)), F.linear(truth, weights(H, N_ITEMS))) < 1e-10


def unit_zero(rows):
    """The block as a tensor of which zero rows normalise to zero, as F.normalize's do."""
    return rows.dense()


def test_in_place_addition_changes_every_name_of_the_rows(rows, other, block):
    truth = (rows.dense() + other.dense() * 100 + block) / 2 * COLUMN - other.dense()
    same = rows
    rows += other * 100
    rows += block
    rows /= 2
    rows *= COLUMN
    rows -= other
    assert same is rows and relative(same.dense(), truth) < 1e-10
    rows = rows.detach().requires_grad_()
    with pytest.raises(RuntimeError, match="in place"):
        rows += other.detach()


def test_dense_block_takes_rows_in_place_and_goes_on_as_rows(rows, other, block, monkeypatch):
    monkeypatch.setattr(tiles, "TILE_ELEMENTS", 1)
    monkeypatch.setattr(tiles, "MIN_WIDTH", 7)
    start, truth, alias = block.clone(), block + 2 * torch.cat((rows, other)).dense()[:N_ROWS].detach(), block
    block += rows.detach() * 2
    assert isinstance(block, RelationRows) and torch.allclose(alias, truth) and relative(block.dense(), truth) < 1e-12
    block -= rows.detach() * 2
    assert relative(block.dense(), start) < 1e-12
    doubled = torch.cat((start, start))
    doubled.add_(torch.cat((rows, other)).detach(), alpha=-3)
    assert relative(doubled, torch.cat((start, start)) - 3 * torch.cat((rows, other)).dense()) < 1e-12
    kept = start.clone()
    differentiable = kept.add_(rows)
    assert relative(differentiable.dense(), start + rows.dense()) < 1e-12 and differentiable.requires_grad
    with pytest.raises(TypeError, match=r"add_: .*same shape, got \(4, 41\) and \(13, 41\); use \.dense"):
        torch.zeros(4, N_ITEMS).add_(rows)


def test_modules_take_rows(rows):
    linear = nn.Linear(N_ITEMS, H).double()
    assert relative(linear(rows), linear(rows.dense())) < 1e-10
    assert relative(F.linear(rows, linear.weight), F.linear(rows.dense(), linear.weight)) < 1e-10
    for product in (rows @ linear.weight.T, torch.mm(rows, linear.weight.T), torch.matmul(rows, linear.weight.T)):
        assert relative(product, rows.dense() @ linear.weight.T) < 1e-10
    network = nn.Sequential(nn.Linear(N_ITEMS, H), nn.LeakyReLU(0.2, inplace=True), nn.Linear(H, 1)).double()
    assert relative(network(rows), network(rows.dense())) < 1e-10


def test_norms_and_topk(rows):
    for norm in (torch.norm(rows, 2, dim=1), torch.linalg.norm(rows, dim=1), torch.linalg.vector_norm(rows, dim=1)):
        assert relative(norm, rows.dense().norm(dim=1)) < 1e-10
    assert torch.norm(rows, dim=1, keepdim=True).shape == (N_ROWS, 1)
    for k in (0, 5):
        found, truth = torch.topk(rows, k, dim=-1), torch.topk(rows.dense(), k)
        assert relative(found.values, truth.values) < 1e-12 and found[1].shape == truth[1].shape == (N_ROWS, k)
    _, items = torch.topk(rows, 5)
    assert torch.equal(items, rows.topk(5).indices)


REFUSED = {
    "relu": lambda r: torch.relu(r),
    "leaky_relu": lambda r: nn.LeakyReLU()(r),
    "dropout": lambda r: F.dropout(r),
    "matmul of a vector": lambda r: torch.matmul(r, torch.zeros(N_ITEMS)),
    "power": lambda r: r**2,
    "comparison": lambda r: r > 0,
    "tensor over rows": lambda r: torch.ones(N_ROWS, 1) / r,
    "tensor times rows": lambda r: torch.zeros(N_ROWS, N_ITEMS) * r,
    "mm": lambda r: torch.mm(torch.zeros(3, N_ROWS), r),
    "rmatmul": lambda r: torch.zeros(3, N_ROWS) @ r,
    "stack": lambda r: torch.stack((r, r)),
    "cat of columns": lambda r: torch.cat((r, r), dim=1),
    "sum": lambda r: torch.sum(r, 1),
    "ones_like": lambda r: torch.ones_like(r),
    "bool": lambda r: torch.allclose(r, r),
    "normalize columns": lambda r: F.normalize(r, dim=0),
    "l1 norm": lambda r: torch.norm(r, 1, dim=1),
    "whole norm": lambda r: torch.norm(r),
    "rows times rows": lambda r: r * r,
    "rows times matrix": lambda r: r * torch.zeros(N_ROWS, N_ITEMS),
    "rows plus column": lambda r: r + torch.zeros(N_ROWS, 1),
    "rows plus number": lambda r: r + 1.0,
    "number over rows": lambda r: torch.div(torch.ones(N_ROWS, 1), r),
    "square": lambda r: torch.square(r),
    "flatten": lambda r: torch.flatten(r),
    "linear with rows as weight": lambda r: F.linear(torch.zeros(3, N_ITEMS), r),
    "add out": lambda r: torch.add(r, r, out=torch.zeros(1)),
    "backward": lambda r: torch.autograd.backward(r),
    "grad of rows": lambda r: torch.autograd.grad(r, r),
    "item": lambda r: r[0],
}


@pytest.mark.parametrize("name", REFUSED)
def test_everything_else_names_dense(name, rows):
    with pytest.raises(TypeError, match=r"\.dense\(\)"):
        REFUSED[name](rows)


def test_attributes_a_tensor_would_have(rows):
    assert rows.shape == torch.Size((N_ROWS, N_ITEMS)) == rows.size() and rows.size(1) == rows.size(-1) == N_ITEMS
    assert rows.ndim == rows.dim() == 2 and len(rows) == N_ROWS and rows.numel() == N_ROWS * N_ITEMS
    assert rows.dtype == torch.float64 and rows.device.type == "cpu" and not rows.is_cuda
    assert rows.requires_grad and not rows.is_leaf and rows.detach().is_leaf and not rows.detach().requires_grad
    assert rows.float().dtype == torch.float32 and rows.float().float() is not None and rows.to(rows.dtype) is rows
    assert "RelationRows(13 x 41" in repr(rows)
    for kind in (AttributeError, TypeError):
        with pytest.raises(kind, match=r"RelationRows has no 'sum'; use \.dense\(\)"):
            rows.sum()
    assert not hasattr(rows, "view")
    with pytest.raises(RuntimeError, match="detach"):
        rows.requires_grad_(False)
    assert copy.copy(rows.detach()).shape == rows.shape


# --- torch.autograd.grad ------------------------------------------------------------------------------------------
def network(inplace=False):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(N_ITEMS, H), nn.LeakyReLU(0.2, inplace=inplace), nn.BatchNorm1d(H), nn.Linear(H, 1), nn.Sigmoid()
    ).double()


PENALTIES = {
    "norm": lambda g: g.norm(2, dim=1),
    "view": lambda g: g.view(g.size(0), -1).norm(2, dim=1),
    "reshape": lambda g: g.reshape((g.shape[0], -1)).norm(p=2, dim=-1),
    "flatten": lambda g: torch.flatten(g, 1).norm(2, 1),
    "torch.norm": lambda g: torch.norm(g, 2, dim=1),
    "linalg": lambda g: torch.linalg.vector_norm(g, ord=2, dim=(1,)),
    "keepdim": lambda g: torch.linalg.norm(g, dim=1, keepdim=True).squeeze(1),
    "square": lambda g: torch.sqrt(torch.sum(g**2, dim=1) + 1e-12),
    "torch.square": lambda g: (torch.square(g).sum(dim=1) + 1e-12).sqrt(),
    "pow": lambda g: torch.pow(g, 2).sum(1).add(1e-12).sqrt(),
    "dense": lambda g: (g.dense() if isinstance(g, RelationGradient) else g).norm(2, dim=1),
}


@pytest.mark.parametrize("inplace", [False, True])
@pytest.mark.parametrize("name", PENALTIES)
def test_gradient_penalty_equals_dense_double_backward(name, inplace, rows, other):
    d = network(inplace)

    def penalty(x):
        x = x.detach().requires_grad_()
        out = d(x)
        (g,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True, retain_graph=True, only_inputs=True)
        assert g.shape == (N_ROWS, N_ITEMS) and g.size(0) == N_ROWS
        loss = ((PENALTIES[name](g) - 1) ** 2).mean()
        return loss, *torch.autograd.grad(loss, list(d.parameters()), allow_unused=True)

    x = 0.3 * rows + 0.7 * other
    for a, t in zip(penalty(x), penalty(x.dense()), strict=True):
        assert (a is None) == (t is None) or not (a if t is None else t).any()
        if a is not None and t is not None:
            assert relative(a, t) < 1e-10


@pytest.mark.parametrize("inplace", [False, True])
def test_gradient_when_neither_weight_nor_parts_require_it(inplace, rows):
    d = network(inplace).requires_grad_(False)
    found = []
    for x in (rows.detach(), rows.dense().detach()):
        (g,) = torch.autograd.grad(d(x.requires_grad_()).sum(), x)
        found.append(g)
    assert relative(found[0].dense(), found[1]) < 1e-10 and relative(found[0].norm(2, 1), found[1].norm(2, 1)) < 1e-10


def test_gradients_of_rows_and_tensors_together(rows, other):
    d, lazy = network(), rows.detach().requires_grad_()
    dense = rows.dense().detach().requires_grad_()
    scale = torch.ones((), dtype=torch.float64, requires_grad=True)
    (g, gs), (t, ts) = (torch.autograd.grad((scale * d(x)).sum(), [x, scale]) for x in (lazy, dense))
    assert relative(g.dense(), t) < 1e-10 and relative(gs, ts) < 1e-10
    unused = other.detach().requires_grad_()
    d(unused)
    assert torch.autograd.grad(d(lazy).sum(), [unused, lazy], allow_unused=True)[0] is None
    assert not torch.autograd.grad(d(lazy).sum(), unused, materialize_grads=True)[0].dense().any()
    with pytest.raises(RuntimeError, match="input 0 was not used in the graph"):
        torch.autograd.grad(d(lazy).sum(), unused)
    with pytest.raises(RuntimeError, match="was not the input of a linear layer"):
        torch.autograd.grad(d(lazy).sum(), other.detach().requires_grad_())
    with pytest.raises(RuntimeError, match="was not the input of a linear layer"):  # requires_grad_() came too late
        late = other.detach()
        out = d(late).sum()
        torch.autograd.grad(out, late.requires_grad_())


def test_rows_through_several_linears_have_the_sum_of_gradients(rows):
    a, b = weights(H, N_ITEMS), weights(4, N_ITEMS, item_major=False, seed=12)
    lazy, dense = rows.detach().requires_grad_(), rows.dense().detach().requires_grad_()

    def loss(x):
        return F.linear(x, a).square().sum() + F.linear(x, a).sin().sum() + F.linear(x, b).pow(3).sum()

    (g,), (t,) = (torch.autograd.grad(loss(x), x, create_graph=True) for x in (lazy, dense))
    assert relative(g.dense(), t) < 1e-10 and relative(g.detach().dense(), t) < 1e-10
    actual, truth = (torch.autograd.grad(x.norm(2, dim=1).sum(), (a, b)) for x in (g, t))
    assert all(relative(x, y) < 1e-10 for x, y in zip(actual, truth, strict=True))


def test_gradients_flow_on_to_what_the_rows_are_made_of(rows):
    """Rows that are no leaf: the gradient is with respect to them, and the graph below still reaches u and v."""
    u, v = factors(N_ROWS, N_ITEMS, D)
    d = network()
    x = RelationRows.generated(u, v, "dot")
    out = d(x)
    (g,) = torch.autograd.grad(out.sum(), x, retain_graph=True)
    dense = reference.cosine_block(u, v, None, "dot")
    (t,) = torch.autograd.grad(d(dense).sum(), dense, retain_graph=True)
    assert relative(g.dense(), t) < 1e-10
    assert relative(torch.autograd.grad(out.sum(), u)[0], torch.autograd.grad(d(dense).sum(), u)[0]) < 1e-9


def test_gradient_passes_through_a_change_of_dtype(rows, other):
    """float64 rows, a float32 discriminator that calls x.float() itself: rows that require grad still get theirs."""
    d = network().float()

    def penalty(x, cast):
        x.requires_grad_()
        out = d(cast(x))
        (g,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
        loss = (g.norm(2, dim=1) - 1).square().mean()
        return loss, *torch.autograd.grad(loss, [d[0].weight, d[3].weight])

    x = (0.3 * rows + 0.7 * other).detach()
    for actual, truth in zip(penalty(x, lambda r: r.float()), penalty(x.dense(), lambda r: r.float()), strict=True):
        assert relative(actual, truth) < 1e-5


def test_conversion_of_constant_rows_is_made_once_and_follows_a_change(block):
    rows = RelationRows.from_dense(block)
    first, again = rows.float(), rows.float()
    assert first._blocks[0].terms[0][1] is again._blocks[0].terms[0][1]
    block.mul_(2)
    assert torch.equal(rows.float().dense(), block.float())
    assert rows.requires_grad_().float().requires_grad


def test_relation_gradient_refuses_what_needs_the_matrix(rows):
    x = rows.detach().requires_grad_()
    (g,) = torch.autograd.grad(network()(x).sum(), x)
    assert (
        g.ndim == 2
        and len(g) == N_ROWS
        and g.dtype == torch.float64
        and g.device.type == "cpu"
        and "13 x 41" in repr(g)
    )
    for call in (
        lambda: g.norm(),
        lambda: g.norm(1, dim=1),
        lambda: g.view(-1),
        lambda: g.flatten(),
        lambda: g**3,
        lambda: torch.relu(g),
        lambda: torch.sum(g),
        lambda: torch.norm(g**2),
    ):
        with pytest.raises(TypeError, match=r"\.dense\(\)"):
            call()
    with pytest.raises(AttributeError, match=r"\.dense\(\)"):
        g.mean()
    with pytest.raises(AttributeError, match=r"\.dense\(\)"):
        (g**2).mean()
    assert torch.equal((g**2).dense(), g.dense().square())
