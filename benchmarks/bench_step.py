"""An adversarial step (discriminator and generator, with a penalty) against the dense formulation in PyTorch.

The step has B = 1024 users, two modalities, hidden widths 1024 and 512, dropout 0.31 and 0.5, a penalty at the 2048
interpolated rows, and no optimizer. The dense formulation forms all rows. Its weight has the layout of nn.Linear, and
its noise, -log(-log(rand)), and layers are those of PyTorch. For I = 6710 and H = 1024, the matrix products of the
dense formulation take 340 GFLOP, and those of the exact algebra 70. With bfloat16, the operands of the discriminator's
products are rounded (docs/precision.md), while the dense formulation stays in float32.
"""

from contextlib import ExitStack
from unittest import mock

import pytest
import torch
import torch.nn as nn
import torch.nn.functional as F
from registry import DEVICE, compare, normal, shapes

from mmssl_fast import reference
from mmssl_fast.nn import losses
from mmssl_fast.nn.discriminator import Discriminator
from mmssl_fast.relation import RelationRows
from mmssl_fast.relation.algebra.pending_gradient import pending_gradient

ROWS, D, HIDDEN, MODALITIES, ZETA = 1024, 64, 1024, 2, 100.0
EXACT = ("real", "fake", "penalty", "generator")


class Step:
    """The inputs of a step, and its two formulations, which return {name: loss or gradient}."""

    def __init__(self, shape, tau: float, hidden: int = HIDDEN, dense: bool = True, gemm=None) -> None:
        self.tau, self.graph, self.gemm = tau, shape.graph(), gemm
        n_items = self.graph.n_items
        torch.manual_seed(0)
        self.users = torch.randperm(self.graph.n_users)[:ROWS]
        self.seen = self.graph.rows(self.users)
        self.mask = reference.seen_mask(*self.seen, n_items) if dense else None
        self.final = normal(ROWS, D), normal(n_items, D, seed=1)
        self.modal = [
            (normal(ROWS, D, seed=2 + m).requires_grad_(), normal(n_items, D, seed=9 + m).requires_grad_())
            for m in range(MODALITIES)
        ]
        self.embeddings = [x for pair in self.modal for x in pair]
        self.alpha = torch.rand(MODALITIES * ROWS)
        self.discriminator = Discriminator(n_items, hidden=(hidden, hidden // 2), gemm=gemm)
        if dense:
            self.first = nn.Linear(n_items, hidden)
            self.first.load_state_dict(self.discriminator.linear.state_dict())
        self.head = list(self.discriminator.head_layers.parameters())

    def lazy(self):
        def fakes(detach):
            pairs = [(u.detach(), v.detach()) for u, v in self.modal] if detach else self.modal
            return [RelationRows.generated(u, v, "cosine", self.seen, row_l2=True) for u, v in pairs]

        gumbel = RelationRows.gumbel(self.graph, self.users, self.tau, 1)
        real = (gumbel + ZETA * RelationRows.generated(*self.final)).normalize()
        terms = losses.discriminator_loss(self.discriminator, real, fakes(True), self.alpha)
        weight = self.discriminator.linear.weight
        with pending_gradient(weight) as pending:  # as the trainer's step: dW's pieces meet in one block
            torch.autograd.grad(sum(terms.values()), [weight, *self.head], allow_unused=True)
        d_weight = pending.dense()
        generator = losses.generator_loss(self.discriminator, fakes(False))
        return {**terms, "dW": d_weight, "generator": generator, **self._embeddings(generator)}

    def dense(self, noisy_rows=None):
        """noisy_rows: the softmax rows of Eq. 5, if they must equal those of `lazy`."""

        def unit(rows):
            return F.normalize(rows, dim=1)

        def fakes(detach):
            pairs = [(u.detach(), v.detach()) for u, v in self.modal] if detach else self.modal
            return unit(torch.cat([(unit(u) @ unit(v).T).masked_fill(self.mask, 0) for u, v in pairs]))

        def d(rows):  # by the modules themselves, so in float32 whatever `gemm` is
            return self.discriminator.head_layers(self.first(rows)).squeeze(1)

        if noisy_rows is None:
            uniform = torch.rand(self.mask.shape).clamp_(1e-7, 1 - 1e-7)
            noisy_rows = ((self.mask.float() - torch.log(-torch.log(uniform))) / self.tau).softmax(1)
        real = unit(noisy_rows + ZETA * (unit(self.final[0]) @ unit(self.final[1]).T))
        fake = fakes(True)
        x = (self.alpha[:, None] * torch.cat([real] * MODALITIES) + (1 - self.alpha[:, None]) * fake).requires_grad_()
        out = d(x)
        (g,) = torch.autograd.grad(out, x, torch.ones_like(out), create_graph=True)
        terms = {"real": -d(real).mean(), "fake": d(fake).mean(), "penalty": (g.norm(dim=1) - 1).square().mean()}
        found = torch.autograd.grad(sum(terms.values()), [self.first.weight, *self.head])
        self.first.requires_grad_(False)
        self.discriminator.requires_grad_(False)
        generator = -d(fakes(False)).mean()
        gradients = self._embeddings(generator)
        self.first.requires_grad_(True)
        self.discriminator.requires_grad_(True)
        return {**terms, "dW": found[0], "generator": generator, **gradients}

    def _embeddings(self, loss):
        found = torch.autograd.grad(loss, self.embeddings)
        return {f"d{'uv'[k % 2]}{k // 2}": g for k, g in enumerate(found)}

    def verify(self):
        """Checks that both formulations agree with the same noise and without dropout.

        If z is so close to 0 that rounding changes its sign, the slope of LeakyReLU changes. This changes dU and dV by
        2e-3, and dW by 1e-3, in float32, and depends on the processor. So float32 gradients are compared twice: with a
        slope of 1, where this cannot happen, and with the real one.
        """
        noisy_rows = RelationRows.gumbel(self.graph, self.users, self.tau, 1).dense()
        layers = list(self.discriminator.modules())
        with ExitStack() as changed:
            for layer in layers:
                if isinstance(layer, nn.Dropout):
                    changed.enter_context(mock.patch.object(layer, "p", 0.0))
            if self.gemm is None:
                with ExitStack() as linear:
                    for layer in layers:
                        if isinstance(layer, nn.LeakyReLU):
                            linear.enter_context(mock.patch.object(layer, "negative_slope", 1.0))
                    self._compare(noisy_rows, 1e-4, 1e-4)
            self._compare(noisy_rows, *((1e-4, 5e-3) if self.gemm is None else (5e-3, 0.1)))  # docs/precision.md

    def _compare(self, noisy_rows, exact, gradients):
        actual, expected = self.lazy(), self.dense(noisy_rows)
        for name, e in expected.items():
            limit = exact if name in EXACT else gradients
            assert (actual[name] - e).norm() <= limit * e.norm(), name


@pytest.mark.parametrize(
    "tau, gemm",
    [(0.2, None), (0.5, None), (0.2, torch.bfloat16)],
    ids=["order_statistics", "dense_noise", "order_statistics_bfloat16"],
)
@pytest.mark.parametrize("shape", shapes("50k", quick="tiktok"), ids=str)
def test_adversarial_step(benchmark, shape, tau, gemm):
    if gemm is not None and DEVICE.type == "cpu" and not torch.ops.mkldnn._is_mkldnn_bf16_supported():
        pytest.skip("torch has no fast bfloat16 product on this processor: it would take a hundred times as long")
    step = Step(shape, tau, gemm=gemm)
    compare(
        benchmark,
        step.lazy,
        step.dense,
        lambda *_: step.verify(),
        shape=shape,
        peer_name="dense rows, PyTorch eager, float32",
        rounds=3,
        rows=ROWS,
        hidden=HIDDEN,
        modalities=MODALITIES,
        tau=tau,
        gemm=str(gemm or torch.float32),
    )
