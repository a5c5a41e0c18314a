"""Figure 5: how much gradient a negative gets by its similarity, as Eq. 17 has it and as a trained model has it."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from mmssl_fast import infonce
from mmssl_fast.ops.unit_rows import unit_rows

from ...console.markdown import markdown
from ...data import Dataset
from ...runs import saved_model
from .paper import TEMPERATURES
from .runs import Found


@dataclass(frozen=True)
class Measured:
    """Every negative of every anchor at one temperature: similarity x and measured weight, float64 [n]. carried: the
    share of the whole gradient that an anchor's most similar 1% and 10% of negatives get, mean over anchors."""

    tau: float
    x: Tensor
    weight: Tensor
    carried: tuple[float, float]


def phi(x: Tensor, tau: float) -> Tensor:
    """Eq. 17 and 21: sqrt(1 − x²) exp(x/τ), without its constant."""
    return (1 - x.square()).clamp(min=0).sqrt() * (x / tau).exp()


def views_of(found: Found, dataset: Dataset) -> tuple[Tensor, list[Tensor]]:
    """h [U, d] and every e^m [U, d] of a finished MMSSL run, float64."""
    system = saved_model.rebuild(saved_model.load(found.run.folder), dataset, found.run.config)
    system.model.eval()
    with torch.no_grad():
        encoded = system.model()
    return encoded.users.double(), [view.double() for view in encoded.view_users]


def measure(h: Tensor, e: Tensor, anchors: Tensor, tau: float) -> Measured:
    """The gradient of `infonce` (Eq. 11) for one anchor at a time, as its backward gives it.

    The gradient that reaches a negative's row, times the row's length, is p sqrt(1 − x²)/τ with p its share of the
    denominator Z; the weight is that times τ Z, so that φ(x) is what theory expects. Negatives are the other users of
    both sums; those with a zero row or the anchor's own row of gradient are left out.
    """
    unit_h, unit_e = unit_rows(h), unit_rows(e)
    xs, weights, carried = [], [], []
    for anchor in anchors.tolist():
        leaves = h.clone().requires_grad_(), e.clone().requires_grad_()
        infonce(*leaves, torch.tensor([anchor]), tau).backward()
        x = torch.cat([unit_h @ unit_e[anchor], unit_e @ unit_e[anchor]])
        total = (x / tau).exp().sum()
        reached = torch.cat([leaf.grad.norm(dim=1) * leaf.detach().norm(dim=1) for leaf in leaves])
        kept = torch.cat([h.norm(dim=1) > 0, e.norm(dim=1) > 0])
        kept[[anchor, h.shape[0] + anchor]] = False
        x, reached = x[kept], reached[kept]
        ordered = reached[x.argsort(descending=True)].cumsum(0) / reached.sum()
        carried.append([float(ordered[max(0, int(share * len(ordered)) - 1)]) for share in (0.01, 0.1)])
        xs.append(x)
        weights.append(reached * tau * total)
    shares = torch.tensor(carried).mean(0).tolist()
    return Measured(tau, torch.cat(xs), torch.cat(weights), (shares[0], shares[1]))


def measure_run(found: Found, dataset: Dataset, count: int) -> list[Measured]:
    """The paper's temperatures and the run's own, each on `count` anchors of the first modality that have a view."""
    h, views = views_of(found, dataset)
    users = torch.nonzero(views[0].norm(dim=1) > 0).flatten()
    generator = torch.Generator().manual_seed(0)
    anchors = users[torch.randperm(len(users), generator=generator)[:count]]
    taus = [*TEMPERATURES, found.run.config.loss.contrastive_tau]
    return [measure(h, views[0], anchors, tau) for tau in dict.fromkeys(taus)]


def report(measured: list[Measured], modality: str) -> str:
    """The picture's Markdown, and by temperature how far measurement and theory are apart."""
    rows = []
    for one in measured:
        theory = phi(one.x, one.tau)
        apart = float((one.weight - theory).norm() / theory.norm())
        rows.append([f"{one.tau:g}", f"{apart:.1e}", f"{one.carried[0]:.1%}", f"{one.carried[1]:.1%}"])
    columns = ["τ'", "measured against φ(x), relative", "gradient of the hardest 1%", "of the hardest 10%"]
    return "\n".join([
        "![φ(x) of Eq. 17 and the measured gradient weights of negatives](figure5.png)", "",
        markdown(columns, rows), "",
        "Measured: the gradient that the backward pass of `infonce` gives each negative of an anchor, on a trained "
        f"model's h and e of the modality {modality}, divided by Eq. 20's constant. The last two columns: the share of "
        "all negatives' gradient that the most similar ones of an anchor get.",
    ])  # fmt: skip
