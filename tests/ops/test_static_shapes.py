"""A training step whose every shape follows from its arguments' shapes: what CUDA needs to run ahead of the host."""

import pytest
import torch
from one_step import NoWaiting, parts

from mmssl_fast import static_shapes
from mmssl_fast.nn import MMSSLObjective
from mmssl_fast.ops.row_sums import row_sums
from mmssl_fast.ops.sample_bpr import sample_bpr
from mmssl_fast.relation import RelationRows
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm


def step(graph, model, discriminator, gumbel_tau=0.2):
    """{term: value} and the gradients of one step, seeds as tensors."""
    objective = MMSSLObjective(model, discriminator, zeta=2.0, gumbel_tau=gumbel_tau, seed=torch.tensor(3))
    offset = torch.tensor(7)
    users, pos, neg = sample_bpr(graph, 40, torch.tensor(5), offset, "users")
    encoded = model()
    terms = objective.discriminator_terms(encoded, users, offset)
    terms["total"].backward()
    rest = objective.generator_terms(encoded, users, pos, neg)
    rest["total"].backward()
    named = {f"D {name}": value.detach() for name, value in terms.items()} | {
        name: value.detach() for name, value in rest.items()
    }
    return named | {f"grad {name}": p.grad for m in (model, discriminator) for name, p in m.named_parameters()}


@pytest.mark.parametrize("gumbel_tau", [0.2, 0.9])
def test_step_never_waits_for_the_device(gumbel_tau):
    expected = step(*parts(), gumbel_tau)
    prepared = parts()
    with static_shapes.forced(), NoWaiting():
        actual = step(*prepared, gumbel_tau)
    assert actual.keys() == expected.keys()
    for name, value in expected.items():
        # of the whole tensor: its small entries are what is left of large ones, rounded otherwise on every processor
        assert (actual[name] - value).norm() <= 1e-5 * value.norm(), name


def test_step_on_a_cpu_does_wait():
    """The watcher sees what it is there for."""
    prepared = parts()
    with pytest.raises(AssertionError, match="waits for the device"), NoWaiting():
        step(*prepared)


def test_rows_that_cancel_are_rescued_where_shapes_are_static():
    weight = torch.randn(8, 1) @ torch.randn(1, 500) + 1e-4 * torch.randn(8, 500)
    g = torch.randn(40, 8)
    left = torch.linalg.svd(weight.double(), full_matrices=False).U
    g[5] = (left[:, 3] * 3).float()  # orthogonal to what is large in the weight
    truth = (g.double() @ weight.double()).norm(dim=1)
    with static_shapes.forced():
        norm = gradient_norm(g, weight)
    torch.testing.assert_close(norm.double(), truth, atol=0, rtol=1e-4)


def test_real_rows_that_cancel_are_rescued_where_shapes_are_static():
    u, v = torch.randn(60, 16), torch.randn(400, 16)
    rows = RelationRows.generated(u, v, "dot")
    rows = rows - RelationRows.generated(u * (1 + 1e-3 * torch.rand(60, 1)), v, "dot")
    with static_shapes.forced():
        ids = torch.arange(static_shapes.STATIC_DENSE_ROWS)
        norm = rows[ids].row_norm()
    torch.testing.assert_close(norm.double(), rows[ids].dense().double().norm(dim=1), atol=0, rtol=1e-3)


def test_row_sums_padding_and_gradient():
    crow = torch.tensor([0, 2, 2, 5])
    value = torch.tensor([1.0, 2.0, 3.0, 4.0, 5.0, float("nan"), float("nan")], dtype=torch.float64).requires_grad_()
    sums = row_sums(crow, value)
    assert sums.tolist() == [3, 0, 12]
    (grad,) = torch.autograd.grad((sums * torch.tensor([10.0, 20.0, 30.0])).sum(), value)
    assert grad.tolist() == [10, 10, 30, 30, 30, 0, 0]
    inner = torch.randn(5, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradgradcheck(lambda x: row_sums(crow, x).square(), inner)
