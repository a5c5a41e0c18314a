"""What RelationRows keep of a weight: once a version, separate backwards, changes in place, no_grad and inference."""

import pytest
import torch
import torch.nn.functional as F
from relation_blocks import N_ITEMS, TAUS, D, H, setting
from relation_cases import factors, relative, weights

from mmssl_fast.relation import RelationRows


def test_values_are_computed_once_a_weight_version(monkeypatch):
    """Real, fake and interpolated rows of one step meet W once; a changed W is met again; backwards stay separate."""
    from mmssl_fast.relation.algebra import parts as algebra

    passes = []
    project = algebra._project
    monkeypatch.setattr(algebra, "_project", lambda w, vs, gemm: passes.append(len(vs)) or project(w, vs, gemm))
    graph, users, seen, (u, v, a, b) = setting()
    weight = weights(H, N_ITEMS)
    real = (RelationRows.gumbel(graph, users, TAUS[0], 3) + 3.0 * RelationRows.generated(u, v)).normalize().detach()
    fake = RelationRows.generated(a, b, "dot", seen, True)
    losses = [
        real.linear(weight).square().sum(),
        fake.detach().linear(weight).square().sum(),
        (real * 0.3 + fake.detach() * 0.7).linear(weight).square().sum(),
        fake.linear(weight).square().sum(),
    ]
    assert passes == [1, 1, 0]
    for loss in losses:  # each frees its own graph above z
        loss.backward()
    p = real.dense(), fake.dense().detach()
    w = weight.detach().requires_grad_()
    truth = sum(F.linear(x, w).square().sum() for x in (p[0], p[1], p[0] * 0.3 + p[1] * 0.7, p[1]))
    assert relative(weight.grad, torch.autograd.grad(truth, w)[0]) < 1e-10
    with torch.no_grad():
        weight.mul_(2)
    assert relative(fake.linear(weight), F.linear(p[1], weight)) < 1e-10
    assert passes[3:] == [1]
    with torch.no_grad():
        a.mul_(3)
    changed = RelationRows.generated(a, b, "dot", seen)
    assert relative(changed.linear(weight), F.linear(changed.dense(), weight)) < 1e-10


def test_gradients_of_one_backward_meet_before_the_weight(monkeypatch):
    """What reaches the same constant rows by several calls is summed at their z: one product for dW, not one a call."""
    from mmssl_fast.relation.algebra import parts as algebra

    products = []
    gradient = algebra._weight_gradient
    monkeypatch.setattr(algebra, "_weight_gradient", lambda *a: products.append(1) or gradient(*a))
    x, (u, v) = torch.randn(13, N_ITEMS, dtype=torch.float64), factors(13, N_ITEMS, D)
    real, fake, weight = RelationRows.from_dense(x), RelationRows.generated(u.detach(), v.detach()), weights(H, N_ITEMS)

    def loss(real, fake):
        mixed = F.linear(0.3 * real + 0.7 * fake, weight)
        return sum(F.linear(rows, weight).square().sum() for rows in (real, fake)) + mixed.pow(3).sum()

    (actual,), (truth,) = (torch.autograd.grad(loss(*rows), weight) for rows in ((real, fake), (x, fake.dense())))
    assert relative(actual, truth) < 1e-10 and products == [1]


@pytest.mark.parametrize("change", ["weight", "rows"])
def test_a_change_in_place_before_backward_is_an_error(change):
    x, weight = torch.randn(13, N_ITEMS, dtype=torch.float64), weights(H, N_ITEMS)
    loss = RelationRows.from_dense(x).linear(weight).sum()
    with torch.no_grad():
        (weight if change == "weight" else x).mul_(2)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


def test_rows_first_used_under_no_grad_or_a_frozen_weight_train_afterwards():
    x, weight = torch.randn(13, N_ITEMS, dtype=torch.float64), weights(H, N_ITEMS)
    rows = RelationRows.from_dense(x)
    with torch.no_grad():
        rows.linear(weight)
    weight.requires_grad_(False)
    assert not rows.linear(weight).requires_grad
    weight.requires_grad_(True)
    for _ in range(2):
        rows.linear(weight).sum().backward()
    assert relative(weight.grad, 2 * x.sum(0).expand(H, -1)) < 1e-10
    assert not rows.detach().linear(weight.detach()).requires_grad


def test_values_kept_are_not_the_ones_handed_out():
    u, v = factors(13, N_ITEMS, D)
    rows, weight = RelationRows.generated(u.detach(), v.detach()), weights(H, N_ITEMS).detach()
    first = rows.linear(weight).clone()
    rows.linear(weight).zero_()
    assert torch.equal(rows.linear(weight), first)


def test_inference_mode_values_do_not_reach_training():
    u, v = factors(13, N_ITEMS, D)
    rows, weight = RelationRows.generated(u.detach(), v.detach()), weights(H, N_ITEMS)
    with torch.inference_mode():
        rows.linear(weight)
    rows.linear(weight).sum().backward()
    assert weight.grad.any()


def test_rows_work_in_inference_mode():
    graph, users, seen, leaves = setting()
    weight = weights(H, N_ITEMS)
    with torch.inference_mode():
        u, v = (x * 1 for x in leaves[:2])
        rows = (
            RelationRows.gumbel(graph, users, TAUS[0], 3) + RelationRows.generated(u, v, "cosine", seen)
        ).normalize()
        for w in (weight, weight * 1):
            assert relative(rows.linear(w), F.linear(rows.dense(), w)) < 1e-10
        assert rows.topk(3).indices.shape == (13, 3)


def test_a_leaf_changed_before_backward_is_an_error():
    u, v = factors(13, N_ITEMS, D)
    weight = weights(H, N_ITEMS)
    z = RelationRows.generated(u, v, "dot").linear(weight)
    with torch.no_grad():
        weight.add_(1)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        z.sum().backward()
