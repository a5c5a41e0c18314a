"""The state of MMSSL's critic (discriminator): how far it separates real rows from generated ones. Written with
train.balance."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import scipy
import torch
from torch import Tensor, nn

from mmssl_fast import RelationRows, gradient_norm

from ..memory.retry import StepSnapshot
from ..systems.base import System
from ..systems.mmssl import MMSSLSystem

if TYPE_CHECKING:
    from mmssl_fast.nn import Discriminator

Critic = dict[str, dict[str, float]]


def measure_critic(system: System, users: Tensor, step: int, device: torch.device) -> Critic:
    """{modality: values} of the critic for the rows of these users at a step that it has not been trained on, without
    dropout; {} without a critic. Does not change the system or torch's random generators.

    users: int64 [B], at least 2. step: number of the step, the offset of the Gumbel noise. The values:

    - auc: share of the pairs (real row, generated row) in which the critic's output is higher for the real row, with
      the BatchNorm statistics of each kind of rows, as in training. 0.5: no separation. auc_running: with the running
      statistics, as in evaluation.
    - wasserstein: mean output for real rows minus that for generated rows, the estimate that Eq. 7 maximises. It is
      that distance only if the critic's slope is at most 1.
    - slope_real, slope_generated: mean norm of the gradient of the output by the row, which the penalty draws to 1.
    - gumbel_share: mean norm of the Gumbel part of a real row (Eq. 5), divided by the sum of its norm and that of the
      ζ-weighted cosines. Near 0, the noise and the interactions are not visible in the row.
    """
    if not isinstance(system, MMSSLSystem) or system.discriminator is None:
        return {}
    critic = system.discriminator
    snapshot = StepSnapshot(system, device)  # BatchNorm updates its running statistics
    training = critic.training, system.model.training
    system.model.eval()
    try:
        with torch.no_grad():
            encoded = system.model(views=False).detach()
            real = system.objective.real_rows(encoded, users, step)
            fakes = system.objective.fake_rows(encoded, users)
            share = _gumbel_share(system, users, step)
        outputs: dict[bool, list[np.ndarray]] = {}
        slopes: list[float] = []
        for running in (False, True):
            critic.train(not running)
            for module in critic.modules():
                if isinstance(module, nn.Dropout):
                    module.eval()
            found = [_outputs(critic, rows) for rows in (real, *fakes)]
            outputs[running] = [scores for scores, _ in found]
            slopes = slopes or [slope for _, slope in found]
    finally:
        critic.train(training[0])
        system.model.train(training[1])
    if not snapshot.restore():
        raise RuntimeError("measure_critic wrote to a large tensor, which is not allowed")
    return {
        name: {
            "auc": auc(outputs[False][0], outputs[False][1 + m]),
            "auc_running": auc(outputs[True][0], outputs[True][1 + m]),
            "wasserstein": float(outputs[False][0].mean() - outputs[False][1 + m].mean()),
            "slope_real": slopes[0],
            "slope_generated": slopes[1 + m],
            "gumbel_share": share,
        }
        for m, name in enumerate(system.model.modalities)
    }


def auc(above: np.ndarray, below: np.ndarray) -> float:
    """The share of pairs (a of `above`, b of `below`) with a > b; equal ones count half (Mann and Whitney, 1947).

    >>> auc(np.array([3.0, 1.0]), np.array([2.0, 1.0]))
    0.625
    """
    # Not imported above: scipy.stats takes a fifth as long as torch, and few runs have this record.
    ranks = scipy.stats.rankdata(np.concatenate([above, below]))[: len(above)]
    return float((ranks.sum() - len(above) * (len(above) + 1) / 2) / (len(above) * len(below)))


def _outputs(critic: Discriminator, rows: RelationRows) -> tuple[np.ndarray, float]:
    """The outputs for the rows, float64 [B], and the mean norm of their gradients by the row."""
    with torch.no_grad():
        z = critic.first(rows)
    z.requires_grad_(True)
    with torch.enable_grad(), critic.frozen():
        scores = critic.head(z)
        (gradient,) = torch.autograd.grad(scores.sum(), z)
    with torch.no_grad():
        slope = gradient_norm(gradient, critic.linear.weight).mean()
    return scores.detach().double().cpu().numpy(), float(slope)


def _gumbel_share(system: MMSSLSystem, users: Tensor, step: int) -> float:
    objective, encoded = system.objective, system.model(views=False)
    options, graph = objective.options, system.model.interactions()
    noise = RelationRows.gumbel(graph, users, options.gumbel_tau, objective.seed, step, objective.noise_scale)
    cosines = RelationRows.generated(encoded.users[users], encoded.items, "cosine")
    lengths = noise.row_norm().double(), options.zeta * cosines.row_norm().double()
    return float((lengths[0] / (lengths[0] + lengths[1])).mean())
