"""mmssl_fast.dropin.hkuds against a client with the released code's names and signatures: the same numbers, lazily."""

import random
import re
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dropin_clients import released
from relation_cases import relative
from released_inputs import USERS, embeddings, seed, weighted
from tolerances import assert_close

from mmssl_fast import RelationRows
from mmssl_fast.dropin import hkuds, sparse


def losses(steps=4, matrix=None):
    """Terms of every step and the parameters after the last."""
    seed(7)
    trainer = released.Trainer(matrix)
    seed(8)
    terms = [trainer.step() for _ in range(steps)]
    return terms, trainer, random.random(), np.random.rand(), torch.rand(3)


def worst(found, truth):
    return {k: max(abs(f[k] / t[k] - 1) for f, t in zip(found[0], truth[0], strict=True)) for k in truth[0][0]}


@pytest.mark.parametrize("dtype", [np.float32, np.float64])
@pytest.mark.parametrize("parts", [(), ("u_sim_calculation",), *((part,) for part in hkuds.PARTS[1:])], ids=str)
def test_steps_have_the_same_losses_term_by_term(parts, dtype, accelerated, monkeypatch):
    matrix = released.data_generator.matrix(dtype)
    truth = losses(matrix=matrix)
    accelerated(*parts)
    formed, dense = [], RelationRows.dense
    monkeypatch.setattr(RelationRows, "dense", lambda self: formed.append(1) or dense(self))
    found = losses(matrix=matrix)
    assert max(worst(found, truth).values()) < 1e-4, worst(found, truth)
    same = np.mean(np.array(found[1].neighbours) == np.array(truth[1].neighbours))  # items of one audience tie
    assert same > 0.97 and not formed
    assert found[2:4] == truth[2:4] and torch.equal(found[4], truth[4]), "the generators end elsewhere"
    for mine, own in zip(found[1].D.parameters(), truth[1].D.parameters(), strict=True):
        if own.ndim == 2:  # a bias before BatchNorm has a gradient of rounding errors, which Adam makes a step of
            assert (mine - own).norm() < 1e-3 * own.norm()


@pytest.mark.parametrize("part", ["noise", "rows"])
def test_the_comparison_notices_a_part_of_the_real_rows_missing(part, accelerated, monkeypatch):
    truth = losses()
    accelerated()
    add = torch.Tensor.__iadd__

    def without(self, other):
        if not isinstance(other, RelationRows):
            return add(self, other)
        return add(self.zero_(), other) if part == "noise" else RelationRows.from_dense(self)

    monkeypatch.setattr(torch.Tensor, "__iadd__", without)
    found = worst(losses(), truth)
    assert found["lossr"] > 1e-3 and found["gp"] > 1e-3, found


def test_the_comparison_notices_each_wrong_piece(accelerated, monkeypatch):
    truth = losses()
    accelerated()
    monkeypatch.setattr(released.args, "tau", 0.6)
    assert worst(losses(1), (truth[0][:1],))["contrast"] > 1e-3
    monkeypatch.undo()
    from mmssl_fast.dropin.hkuds import rows

    monkeypatch.setattr(rows, "PENALTY", 0.31)
    assert worst(losses(1), (truth[0][:1],))["gp"] > 1e-2


def test_gradients_nobody_reads_can_be_skipped(accelerated):
    truth = losses()
    for skipped in (False, True):
        accelerated(skip_unread=skipped)
        found = losses()
        assert max(worst(found, truth).values()) < 1e-4
        trainer = found[1]
        trainer.optim_D.zero_grad()
        users, items = (x.weight for x in (trainer.model.user, trainer.model.item))
        trainer.D(trainer.u_sim_calculation(USERS, users, items)).sum().backward()
        assert users.grad.any() and all((p.grad is None) == skipped for p in trainer.D.parameters())
        assert all(p.requires_grad for p in trainer.D.parameters())


def test_bfloat16_products_are_opted_in_and_near(accelerated):
    truth = losses(1)
    accelerated(gemm=torch.bfloat16)
    found = worst(losses(1), truth)
    assert 1e-6 < found["lossr"] < 0.05 and found["gp"] < 0.2, found


# --- accelerate -------------------------------------------------------------------------------------------------------
def test_accelerate_says_what_it_did_and_undoes_it():
    before = {name: getattr(released.Trainer, name) for name in hkuds.PARTS[:6]}, released.test_torch
    before += released.Discriminator.forward, released.Data.sample
    done = hkuds.accelerate(released.Trainer)
    assert done.patched == list(hkuds.PARTS) and not done.missing and "missing=[]" in repr(done)
    assert released.test_torch is not before[1] and released.Data.sample is not before[3]
    again = hkuds.accelerate(released, ["bpr_loss"])
    again.restore()
    done.restore()
    now = {name: getattr(released.Trainer, name) for name in hkuds.PARTS[:6]}, released.test_torch
    assert (*now, released.Discriminator.forward, released.Data.sample) == before
    with pytest.raises(ValueError, match=r"parts must be among u_sim_calculation.*got nonsense"):
        hkuds.accelerate(released, ["nonsense"])


def test_parts_that_a_fork_lacks_are_missing():
    class Fork:
        bpr_loss = released.Trainer.bpr_loss

    done = hkuds.accelerate(Fork, ["bpr_loss", "gradient_penalty"])
    assert done.patched == ["bpr_loss"] and done.missing == ["gradient_penalty"]

    class Other:
        def train(self):
            return 0

    with pytest.raises(ValueError, match="Other has none of bpr_loss"):
        hkuds.accelerate(Other, ["bpr_loss"])
    with pytest.raises(ValueError, match="Empty defines no methods"):
        hkuds.accelerate(type("Empty", (), {}), ["bpr_loss"])


def test_the_page_names_what_is_there():
    docs = Path(__file__).parents[2] / "docs"
    page = (docs / "dropin.md").read_text(encoding="utf-8")
    both = page + (docs / "dropin_measurements.md").read_text(encoding="utf-8")
    for module in (hkuds, sparse):
        own = module.__name__.rsplit(".")[-1]
        named = set(re.findall(rf"(?<!torch\.)\b{own}\.(\w+)", both))
        assert named and all(hasattr(module, name) for name in named), named
    for name in hkuds.PARTS:
        assert name.split(".")[-1] in page, name


# --- rows -------------------------------------------------------------------------------------------------------------
def both_rows(accelerated, matrix=None):
    trainer, (u, v) = released.Trainer(matrix), embeddings()
    truth = trainer.u_sim_calculation(USERS, u, v)
    accelerated("u_sim_calculation")
    return trainer.u_sim_calculation(USERS, u, v), truth, (u, v)


def test_u_sim_calculation_returns_lazy_rows_with_gradients(accelerated):
    rows, truth, leaves = both_rows(accelerated)
    assert isinstance(rows, RelationRows) and rows.shape == truth.shape and rows.requires_grad
    weight = torch.randn(9, 150)
    assert_close(rows.dense(), truth)
    for actual, own in zip(
        *(torch.autograd.grad(F.linear(x, weight).sin().sum(), leaves) for x in (rows, truth)), strict=True
    ):
        assert relative(actual, own) < 1e-5


def test_edge_values_are_factors_and_said_once(accelerated):
    matrix = weighted(released.data_generator.matrix())
    with pytest.warns(UserWarning, match="edge values other than 1"):
        rows, truth, leaves = both_rows(accelerated, matrix)
    assert isinstance(rows, RelationRows)
    assert_close(rows.dense(), truth)
    for actual, own in zip(
        *(torch.autograd.grad(x.square().sum() + x[:, 3].sum(), leaves) for x in (rows.dense(), truth)), strict=True
    ):
        assert relative(actual, own) < 1e-4


def test_the_graph_is_read_once_and_again_when_it_is_another(accelerated, monkeypatch):
    from mmssl_fast.dropin.hkuds import patch

    built, real = [], patch.interaction_graph
    accelerated("u_sim_calculation")
    monkeypatch.setattr(patch, "interaction_graph", lambda matrix: built.append(1) or real(matrix))
    trainer, (u, v) = released.Trainer(), embeddings()
    for _ in range(3):
        trainer.u_sim_calculation(USERS, u, v)
    trainer.ui_graph_raw = trainer.ui_graph_raw[::-1].tocsr()
    changed = trainer.u_sim_calculation(USERS, u, v)
    assert built == [1, 1] and (changed.dense()[1] == 0).sum() != 1


OPERATORS = {
    "detach": lambda r, x: r.detach(),
    "float": lambda r, x: r.float(),
    "normalize": lambda r, x: F.normalize(r, dim=1),
    "scaled sum": lambda r, x: x.detach().clone().__iadd__(r.detach() * 100),
    "sum, normalised, stacked": lambda r, x: torch.cat((s := F.normalize(x + r * 100, dim=1), s)),
    "cat": lambda r, x: torch.cat((r, r), dim=0),
    "cat with dense": lambda r, x: torch.cat((r, x)),
    "expand_as": lambda r, x: torch.linspace(0, 1, len(x))[:, None].expand_as(r) * r,
    "mixed": lambda r, x: (a := torch.linspace(0, 1, len(x))[:, None].expand_as(r)) * r + ((1 - a) * (x + r)),
    "minus": lambda r, x: x - r,
}


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", OPERATORS)
def test_operators_of_the_loop_on_rows_and_dense_sums(name, dtype, accelerated):
    rows, truth, _ = both_rows(accelerated)
    x = torch.randn(truth.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))
    lazy, dense = OPERATORS[name](rows, x), OPERATORS[name](truth, x)
    assert isinstance(lazy, RelationRows) and lazy.dtype == dense.dtype and lazy.requires_grad == dense.requires_grad
    assert relative(lazy.dense(), dense) < 1e-5
    weight = torch.randn(9, 150)
    assert relative(F.linear(lazy.float(), weight), F.linear(dense.float(), weight)) < 1e-5


@pytest.mark.parametrize("k", [0, 1, 20, 128, 129, 150])
@pytest.mark.parametrize("sum_with_dense", [False, True])
def test_topk_for_any_k(k, sum_with_dense, accelerated):
    rows, truth, _ = both_rows(accelerated)
    if sum_with_dense:
        x = torch.randn(truth.shape, generator=torch.Generator().manual_seed(1))
        rows, truth = x + rows, x + truth
    values, items = torch.topk(rows.detach(), k, dim=-1)
    own = torch.topk(truth.detach(), k, dim=-1)
    assert items.shape == (len(USERS), k) and relative(values, own.values) < 1e-5
    assert relative(truth.detach().gather(1, items), own.values) < 1e-5


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gradients_with_respect_to_mixed_rows(dtype, accelerated):
    rows, truth, _ = both_rows(accelerated)
    d = released.Trainer().D
    x = torch.rand(truth.shape, dtype=dtype, generator=torch.Generator().manual_seed(1))

    def penalty(rows):
        real = F.normalize(x + rows.detach() * 2, dim=1)
        alpha = torch.linspace(0, 1, len(x))[:, None].expand_as(real)
        mixed = alpha * real + ((1 - alpha) * rows.detach())
        mixed.requires_grad_()
        score = d(mixed)
        (g,) = torch.autograd.grad(
            outputs=score, inputs=mixed, grad_outputs=torch.ones_like(score), create_graph=True, only_inputs=True
        )
        loss = ((g.norm(2, dim=1) - 1) ** 2).mean()
        return loss, *torch.autograd.grad(loss, [d.net[0].weight, d.net[4].weight, d.net[8].weight])

    for actual, own in zip(penalty(rows), penalty(truth), strict=True):
        assert (actual - own).abs().max() < 2e-4 * own.abs().max()
