"""One adversarial step on RelationRows against the same code on dense rows: every loss term and gradient on its own."""

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from relation_cases import catalogue

from mmssl_fast import reference
from mmssl_fast.relation import RelationRows

N_USERS, N_ITEMS, N_ROWS, D, H = 60, 401, 41, 8, 32
TERMS = ("real", "fake", "penalty", "generator")


class Lazy:
    """Rows as they are made of parts."""

    @staticmethod
    def gumbel(graph, users, tau, dtype):
        return RelationRows.gumbel(graph, users, tau, 3, 4).to(dtype)

    @staticmethod
    def generated(u, v, kind, seen, row_l2):
        return RelationRows.generated(u, v, kind, seen, row_l2)


class Dense:
    """The same rows as matrices."""

    @staticmethod
    def gumbel(graph, users, tau, dtype):
        return RelationRows.gumbel(graph, users, tau, 3, 4).dense().to(dtype)

    @staticmethod
    def generated(u, v, kind, seen, row_l2):
        return reference.cosine_block(u, v, seen, kind, row_l2)


class DenseWithoutGumbel(Dense):
    @staticmethod
    def gumbel(graph, users, tau, dtype):
        return torch.zeros(users.numel(), graph.n_items, dtype=dtype)


def discriminator(dtype, slope, item_major):
    torch.manual_seed(0)
    first = nn.Linear(N_ITEMS, H)
    if item_major:
        first.weight = nn.Parameter(first.weight.detach().t().contiguous().t())
    return nn.Sequential(
        *(first, nn.LeakyReLU(slope, inplace=True), nn.BatchNorm1d(H), nn.Dropout(0.0)),
        *(nn.Linear(H, H // 2), nn.LeakyReLU(slope), nn.BatchNorm1d(H // 2), nn.Dropout(0.0)),
        *(nn.Linear(H // 2, 1), nn.Sigmoid()),
    ).to(dtype)


def step(rows, dtype, *, tau=0.15, modalities=2, kind="cosine", slope=0.2, item_major=True):
    """{term: (value, gradients of the discriminator and the embeddings)} of one step; `rows`: Lazy or Dense."""
    graph, random = catalogue(N_USERS, N_ITEMS, 0.05), torch.Generator().manual_seed(1)
    users = torch.randperm(N_USERS, generator=random)[:N_ROWS]
    users[:2] = torch.tensor([1, 2])  # one who has seen everything, one who has seen nothing
    seen, d = graph.rows(users), discriminator(dtype, slope, item_major)
    embeddings = [
        torch.randn(n, D, generator=random).to(dtype).requires_grad_() for n in (N_ROWS, N_ITEMS) * (modalities + 1)
    ]
    pairs = list(zip(embeddings[0::2], embeddings[1::2], strict=True))
    alpha = torch.rand(modalities * N_ROWS, 1, generator=random).to(dtype)

    real = rows.gumbel(graph, users, tau, dtype) + 3.0 * rows.generated(*pairs[0], "cosine", None, False)
    real = F.normalize(real, dim=1)
    real = torch.cat([real] * modalities)
    fake = torch.cat([rows.generated(u, v, kind, seen, True) for u, v in pairs[1:]])
    losses = {"real": -d(real).mean(), "fake": d(fake).mean()}
    x_real, x_fake = real.detach(), fake.detach()
    weight = alpha.expand_as(x_real)
    x = weight * x_real + ((1 - weight) * x_fake)
    x.requires_grad_()
    out = d(x)
    (g,) = torch.autograd.grad(
        outputs=out, inputs=x, grad_outputs=torch.ones_like(out), create_graph=True, retain_graph=True, only_inputs=True
    )
    losses["penalty"] = ((g.view(g.size(0), -1).norm(2, dim=1) - 1) ** 2).mean()
    found = {}
    for name, loss in losses.items():
        grads = torch.autograd.grad(loss, [*d.parameters(), *embeddings], retain_graph=True, allow_unused=True)
        found[name] = (loss.detach(), *grads)
    d.requires_grad_(False)
    generator = -d(fake).mean()
    grads = torch.autograd.grad(generator, embeddings[2:])
    found["generator"] = (generator.detach(), *grads)
    return found


def errors(actual, truth):
    """{term: largest error over its value and gradients}, each relative to its own largest entry.

    Biases and BatchNorm's vectors, some of whose gradients are zero but for rounding, count relative to the largest
    gradient of the term.
    """
    worst = {}
    for name in TERMS:
        largest = max(t.abs().max().item() for t in truth[name][1:] if t is not None)
        worst[name] = abs(actual[name][0].item() / truth[name][0].item() - 1)
        for a, t in zip(actual[name][1:], truth[name][1:], strict=True):
            assert (a is None) == (t is None)
            if t is not None:
                error = (a.double() - t).abs().max().item()
                worst[name] = max(worst[name], error / (t.abs().max().item() if t.ndim == 2 else largest))
    return worst


@pytest.mark.parametrize("dtype, limit", [(torch.float64, 1e-10), (torch.float32, 1e-5)])
@pytest.mark.parametrize(
    "case",
    [
        {},
        {"tau": 0.5},
        {"modalities": 1},
        {"modalities": 3, "kind": "dot"},
        {"slope": 1.0, "kind": "dot"},
        {"item_major": False},
    ],
    ids=str,
)
def test_a_step_equals_the_dense_one_term_by_term(case, dtype, limit):
    worst = errors(step(Lazy, dtype, **case), step(Dense, torch.float64, **case))
    assert max(worst.values()) < limit, worst


@pytest.mark.parametrize("tau", [0.15, 0.5])
def test_the_comparison_notices_the_gumbel_part_missing(tau):
    worst = errors(step(Lazy, torch.float32, tau=tau), step(DenseWithoutGumbel, torch.float64, tau=tau))
    assert worst["real"] > 1e-3 and worst["penalty"] > 1e-3, worst
    assert worst["fake"] < 1e-5 and worst["generator"] < 1e-5, worst


def test_the_comparison_notices_a_wrong_penalty(monkeypatch):
    from mmssl_fast.relation import gradient

    real = gradient.gradient_norm
    monkeypatch.setattr(gradient, "gradient_norm", lambda g, weight: real(g, weight.detach()))
    worst = errors(step(Lazy, torch.float64), step(Dense, torch.float64))
    assert worst["penalty"] > 1e-3 and worst["real"] < 1e-10, worst
