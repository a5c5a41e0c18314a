"""mmssl_fast.nn.losses against the dense formulation in float64: values and every gradient."""

import math

import pytest
import torch

from mmssl_fast import InteractionGraph, reference
from mmssl_fast.nn import Discriminator, losses

N_ITEMS, BATCH = 23, 6


def discriminator(**options) -> Discriminator:
    torch.manual_seed(3)
    return Discriminator(N_ITEMS, hidden=(9, 4), dropout=(0.0, 0.0), **options).double()


def random_rows(count: int, requires_grad: bool = False) -> list[torch.Tensor]:
    return [torch.randn(BATCH, N_ITEMS, dtype=torch.float64).requires_grad_(requires_grad) for _ in range(count)]


def dense_discriminator_loss(d: Discriminator, real, fakes, alpha, weight) -> dict[str, torch.Tensor]:
    """Eq. 7 as it is usually written: interpolated rows, gradient with respect to them."""
    fake, repeated = torch.cat(fakes), torch.cat([real] * len(fakes))
    mixed = (alpha[:, None] * repeated + (1 - alpha[:, None]) * fake).requires_grad_()
    (gradient,) = torch.autograd.grad(d(mixed).sum(), mixed, create_graph=True)
    penalty = weight * ((gradient.norm(dim=1) - 1) ** 2).mean()
    return {"real": -d(real).mean(), "fake": d(fake).mean(), "penalty": penalty}


def gradients(loss: torch.Tensor, d: Discriminator) -> list[torch.Tensor]:
    return torch.autograd.grad(loss, list(d.parameters()), retain_graph=True, materialize_grads=True)


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize(
    "options", [{}, {"norm": "layer"}, {"norm": "none"}, {"norm": "none", "sigmoid": False}], ids=str
)
def test_discriminator_loss_equals_the_dense_formulation(modalities, training, options):
    d = discriminator(**options).train(training)
    (real,), fakes = random_rows(1), random_rows(modalities)
    alpha = torch.rand(modalities * BATCH, dtype=torch.float64)
    got = losses.discriminator_loss(d, real, fakes, alpha, 2.5)
    truth = dense_discriminator_loss(d, real, fakes, alpha, 2.5)
    assert got.keys() == truth.keys()
    for name, value in truth.items():
        torch.testing.assert_close(got[name], value, atol=1e-12, rtol=1e-10, msg=name)
        for a, b in zip(gradients(got[name], d), gradients(value, d), strict=True):
            torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_discriminator_loss_refuses_what_does_not_fit():
    (real,), fakes = random_rows(1), random_rows(2)
    with pytest.raises(ValueError, match="at least one modality"):
        losses.discriminator_loss(discriminator(), real, [], torch.rand(0))
    with pytest.raises(ValueError, match=r"alpha must be \[2 modalities x 6 rows\]"):
        losses.discriminator_loss(discriminator(), real, fakes, torch.rand(BATCH))
    with pytest.raises(ValueError, match="at least 2 real rows in training, got 1"):
        losses.discriminator_loss(discriminator(), real[:1], [fakes[0][:1]], torch.rand(1))
    losses.discriminator_loss(discriminator().eval(), real[:1], [fakes[0][:1]], torch.rand(1))
    losses.discriminator_loss(discriminator(norm="layer"), real[:1], [fakes[0][:1]], torch.rand(1))


@pytest.mark.parametrize("norm", ["layer", "none"])
def test_without_batch_normalisation_rows_do_not_depend_on_each_other(norm):
    """The gradient of the summed scores by a row, whose norm Eq. 7 penalises, is then that of the row alone."""
    (rows,) = random_rows(1, requires_grad=True)

    def first(kind, others):
        (gradient,) = torch.autograd.grad(discriminator(norm=kind)(torch.cat([rows[:1], others])).sum(), rows)
        return gradient[0]

    torch.testing.assert_close(first(norm, 3 * torch.randn_like(rows)), first(norm, rows[:0]), atol=1e-14, rtol=1e-12)
    assert (first("batch", 3 * torch.randn_like(rows)) - first("batch", torch.randn_like(rows))).norm() > 0.001


@pytest.mark.parametrize("options", [{"norm": "layer"}, {"norm": "none", "sigmoid": False}], ids=str)
def test_second_derivatives_of_the_discriminator(options):
    d = discriminator(**options)
    (rows,) = random_rows(1, requires_grad=True)
    assert torch.autograd.gradgradcheck(d, [rows])


@pytest.mark.parametrize("training", [True, False])
def test_generator_loss_reaches_rows_and_no_weight(training):
    d = discriminator().train(training)
    fakes = random_rows(2, requires_grad=True)
    loss = losses.generator_loss(d, fakes)
    loss.backward()
    truth = -d(torch.cat(fakes)).mean()
    torch.testing.assert_close(loss, truth)
    expected = torch.autograd.grad(truth, fakes)
    for rows, gradient in zip(fakes, expected, strict=True):
        torch.testing.assert_close(rows.grad, gradient, atol=1e-12, rtol=1e-10)
    assert all(parameter.grad is None and parameter.requires_grad for parameter in d.parameters())


def literal_contrastive(h, views, ids, tau, exclude_self):
    """Eq. 11, user by user."""
    total = 0.0
    for e in views:
        for u in ids.tolist():

            def s(a, b):
                return (a @ b) / (tau * a.norm() * b.norm())

            denominator = sum(s(h[v], e[u]).exp() for v in range(len(h)))
            denominator += sum(s(e[v], e[u]).exp() for v in range(len(h)) if not (exclude_self and v == u))
            total -= (s(h[u], e[u]).exp() / denominator).log() / len(ids)
    return total


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("exclude_self", [True, False])
def test_contrastive_loss_equals_the_equation(modalities, exclude_self):
    h, *views = (torch.randn(8, 5, dtype=torch.float64, requires_grad=True) for _ in range(modalities + 1))
    ids = torch.tensor([3, 0, 3, 7])
    got = losses.contrastive_loss(h, views, ids, 0.4, exclude_self=exclude_self)
    truth = literal_contrastive(h, views, ids, 0.4, exclude_self)
    torch.testing.assert_close(got, truth, atol=1e-12, rtol=1e-10)
    for a, b in zip(torch.autograd.grad(got, [h, *views]), torch.autograd.grad(truth, [h, *views]), strict=True):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-10)


def test_structural_loss_contrasts_both_sides_with_two_hops_of_the_graph():
    a = (torch.rand(7, 9, generator=torch.Generator().manual_seed(2)) < 0.4).double()
    a[3] = 0  # a user without interactions
    scale = [a.sum(dim).clamp(min=1).rsqrt() for dim in (1, 0)]
    adjacency = scale[0][:, None] * a * scale[1]
    users, items = (torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for n in a.shape)
    u, i = torch.tensor([0, 6, 3, 0]), torch.tensor([8, 1, 1, 2])
    graph = InteractionGraph.from_pairs(*a.nonzero(as_tuple=True), *a.shape)
    got = losses.structural_loss(graph, users, items, u, i, 0.3)
    truth = reference.infonce(users, adjacency @ (adjacency.T @ users), u, 0.3, exclude_self=True)
    truth = truth + reference.infonce(items, adjacency.T @ (adjacency @ items), i, 0.3, exclude_self=True)
    torch.testing.assert_close(got, truth, atol=1e-12, rtol=1e-10)
    expected = torch.autograd.grad(truth, [users, items])
    for x, y in zip(torch.autograd.grad(got, [users, items]), expected, strict=True):
        torch.testing.assert_close(x, y, atol=1e-12, rtol=1e-10)


def test_autoencoder_loss_equals_binary_cross_entropy_of_the_cosines():
    users, items = ([torch.randn(n, 5, dtype=torch.float64, requires_grad=True) for _ in range(2)] for n in (4, 6))
    u, pos, neg = torch.tensor([0, 3, 3]), torch.tensor([5, 1, 0]), torch.tensor([2, 2, 4])
    truth = 0.0
    for f_u, f_i in zip(users, items, strict=True):
        rows = torch.nn.functional.cosine_similarity(f_u[:, None], f_i[None], dim=2) / 0.3
        logits = torch.cat((rows[u, pos], rows[u, neg]))
        label = torch.tensor([1.0] * 3 + [0.0] * 3, dtype=torch.float64)
        truth = truth + torch.nn.functional.binary_cross_entropy_with_logits(logits, label)
    got = losses.autoencoder_loss(users, items, u, pos, neg, 0.3)
    torch.testing.assert_close(got, truth, atol=1e-12, rtol=1e-10)


def test_autoencoder_loss_of_zero_features_is_finite():
    zero = [torch.zeros(4, 5, dtype=torch.float64, requires_grad=True)]
    loss = losses.autoencoder_loss(zero, zero, torch.tensor([0]), torch.tensor([1]), torch.tensor([2]), 0.3)
    loss.backward()
    torch.testing.assert_close(loss.item(), math.log(2))
    assert torch.equal(zero[0].grad, torch.zeros(4, 5, dtype=torch.float64))


def test_embedding_l2_is_half_the_mean_square_length():
    a, b = torch.tensor([[3.0, 4.0], [0.0, 0.0]]), torch.tensor([[1.0, 1.0], [1.0, 1.0]])
    assert losses.embedding_l2(a, b).item() == pytest.approx(0.5 * (25 / 2 + 4 / 2))
