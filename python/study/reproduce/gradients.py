"""Figure 5: the gradient of a negative by its similarity to the anchor, from Eq. 17 and from a trained model."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmssl_fast import infonce
from mmssl_fast.ops.unit_rows import unit_rows

from ...console.markdown import markdown
from ...data import Dataset
from ...runs import saved_model
from ...systems.mmssl import MMSSLSystem
from .paper import TEMPERATURES
from .runs import FinishedRun


@dataclass(frozen=True)
class Measured:
    """The gradient weights of all (anchor, negative) pairs at one temperature.

    x: similarity, float64 [n]; weight: measured gradient weight, float64 [n]; hardest: the fractions of an anchor's
    total gradient that its most similar 1% and 10% of negatives receive, mean over anchors.
    """

    tau: float
    x: Tensor
    weight: Tensor
    hardest: tuple[float, float]


def phi(x: Tensor, tau: float) -> Tensor:
    """Eq. 17 and 21: sqrt(1 − x²) exp(x/τ), without the constant factor."""
    return (1 - x.square()).clamp(min=0).sqrt() * (x / tau).exp()


def views_of(finished: FinishedRun, dataset: Dataset) -> tuple[Tensor, list[Tensor]]:
    """The user embeddings h [U, d] and modality views e^m [U, d] of a finished MMSSL run, float64."""
    system = saved_model.rebuild(saved_model.load(finished.run.folder), dataset, finished.run.config)
    assert isinstance(system, MMSSLSystem)
    system.model.eval()
    with torch.no_grad():
        encoded = system.model()
    return encoded.users.double(), [view.double() for view in encoded.view_users]


def measure(h: Tensor, e: Tensor, anchors: Tensor, tau: float) -> Measured:
    """Measure the gradient of `infonce` (Eq. 11) from its backward pass, one anchor at a time.

    The gradient norm of a negative's row, times the norm of the row, is p sqrt(1 − x²)/τ, where p = exp(x/τ)/Z is its
    softmax probability and Z the denominator. The weight is this value times τ Z, so that theory predicts φ(x). The
    negatives are the other users in both sums of Eq. 11. Zero rows and the rows of the anchor are excluded.
    """
    unit_h, unit_e = unit_rows(h), unit_rows(e)
    xs, weights, hardest = [], [], []
    for anchor in anchors.tolist():
        leaves = h.clone().requires_grad_(), e.clone().requires_grad_()
        gradients = torch.autograd.grad(infonce(*leaves, torch.tensor([anchor]), tau), leaves)
        x = torch.cat([unit_h @ unit_e[anchor], unit_e @ unit_e[anchor]])
        total = (x / tau).exp().sum()
        gradient = torch.cat([g.norm(dim=1) * rows.norm(dim=1) for g, rows in zip(gradients, (h, e), strict=True)])
        is_negative = torch.cat([h.norm(dim=1) > 0, e.norm(dim=1) > 0])
        is_negative[[anchor, h.shape[0] + anchor]] = False
        x, gradient = x[is_negative], gradient[is_negative]
        cumulative = gradient[x.argsort(descending=True)].cumsum(0) / gradient.sum()
        hardest.append([float(cumulative[max(0, int(top * len(cumulative)) - 1)]) for top in (0.01, 0.1)])
        xs.append(x)
        weights.append(gradient * tau * total)
    top1, top10 = torch.tensor(hardest).mean(0).tolist()
    return Measured(tau, torch.cat(xs), torch.cat(weights), (top1, top10))


def measure_run(finished: FinishedRun, dataset: Dataset, count: int) -> list[Measured]:
    """Measure the temperatures of the paper and of the run, on `count` random anchors with a view in modality 1."""
    h, views = views_of(finished, dataset)
    users = torch.nonzero(views[0].norm(dim=1) > 0).flatten()
    generator = torch.Generator().manual_seed(0)
    anchors = users[torch.randperm(len(users), generator=generator)[:count]]
    taus = [*TEMPERATURES, finished.run.config.loss.contrastive_tau]
    return [measure(h, views[0], anchors, tau) for tau in dict.fromkeys(taus)]


def report(measured: list[Measured], modality: str) -> str:
    """Markdown with the figure and, for each temperature, the deviation between measurement and theory."""
    rows = []
    for m in measured:
        theory = phi(m.x, m.tau)
        deviation = float((m.weight - theory).norm() / theory.norm())
        rows.append([f"{m.tau:g}", f"{deviation:.1e}", f"{m.hardest[0]:.1%}", f"{m.hardest[1]:.1%}"])
    columns = ["τ'", "relative deviation from φ(x)", "gradient on the hardest 1%", "on the hardest 10%"]
    return "\n".join(
        [
            "![φ(x) of Eq. 17 and the measured gradient weights of negatives](figure5.png)",
            "",
            markdown(columns, rows),
            "",
            "Measured: the gradient of each negative of an anchor in the backward pass of `infonce`, divided by the "
            f"constant of Eq. 20, for h and e of the modality {modality} in a trained model. Last two columns: the "
            "fraction of the gradient of all negatives that the most similar negatives of an anchor receive.",
        ]
    )
