"""The record of the critic: what it says of known rows, and that it changes nothing."""

import json

import numpy as np
import pytest
import torch
from mmssl_trainer import systems
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.training.critic import auc, measure_critic
from plain_systems import configured
from torch import nn

from mmssl_fast import InteractionGraph


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=3, n_users=80, n_items=60, modalities={"image": 8, "text": 6}, mean_degree=12)


def built(data, **values):
    torch.manual_seed(0)
    system, graph = systems.create("mmssl"), InteractionGraph.from_scipy(data.train)
    system.build(data, graph, configured("mmssl", **values))
    system.start_epoch(1)
    return system, graph


def test_auc_counts_pairs():
    rng = np.random.default_rng(0)
    above, below = rng.integers(0, 6, 30).astype(float), rng.integers(0, 5, 20).astype(float)
    pairs = (above[:, None] > below).mean() + 0.5 * (above[:, None] == below).mean()
    assert auc(above, below) == pytest.approx(pairs)


def test_values_are_those_of_dense_rows_and_nothing_changes(data):
    system, graph = built(data, loss__zeta=0.5)
    users, step = torch.arange(40), 3
    before = {name: tensor.clone() for name, tensor in system.state().items()}
    drawn = torch.get_rng_state()
    found = measure_critic(system, users, step, graph.device)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in system.state().items())
    assert system.discriminator.training and all(module.training for module in system.discriminator.modules())
    assert list(found) == ["image", "text"]

    system.model.eval()
    encoded = system.model(views=False).detach()
    real = system.objective.real_rows(encoded, users, step).dense()
    fakes = [rows.dense() for rows in system.objective.fake_rows(encoded, users)]
    critic = system.discriminator
    for module in critic.modules():
        if isinstance(module, nn.Dropout):
            module.eval()
    for name, fake in zip(found, fakes, strict=True):
        values, scores = found[name], []
        for rows, key in ((real, "slope_real"), (fake, "slope_generated")):
            rows = rows.detach().requires_grad_(True)
            out = critic(rows)
            (gradient,) = torch.autograd.grad(out.sum(), rows)
            assert values[key] == pytest.approx(gradient.norm(dim=1).mean().item(), rel=1e-3)
            scores.append(out.detach().double())
        assert values["wasserstein"] == pytest.approx((scores[0].mean() - scores[1].mean()).item(), abs=1e-4)
        assert values["auc"] == pytest.approx((scores[0][:, None] > scores[1]).double().mean().item(), abs=0.01)
        assert 0 < values["gumbel_share"] < 1
    share = measure_critic(built(data, loss__zeta=0.0)[0], users, step, graph.device)["image"]["gumbel_share"]
    assert share == 1.0


def test_a_critic_that_separates_is_seen(data):
    """A first layer that reads the length of the row's largest entries, which only generated rows have small."""
    system, graph = built(data)
    found = []
    for sign in (1.0, -1.0):
        system.discriminator.head_layers[-2].weight.data.mul_(sign)
        found.append(measure_critic(system, torch.arange(60), 0, graph.device)["image"])
    assert found[0]["auc"] == pytest.approx(1 - found[1]["auc"], abs=1e-6)
    assert found[0]["wasserstein"] * found[1]["wasserstein"] <= 0


def test_no_critic_no_record(data):
    system, graph = built(data, loss__adversarial=False)
    assert measure_critic(system, torch.arange(9), 0, graph.device) == {}


def test_metrics_and_report_have_it(data, tmp_path):
    run, catalogue = str(tmp_path / "run"), str(write_plain(data, tmp_path / "data"))
    small = ["--epochs", "2", "--threads", "1", "--set", "model.dim=8", "--set", "model.hidden=[16, 8]", "--no-compare"]
    assert main(["train", "--data", catalogue, "--out", run, "--set", "train.balance=true", *small]) == 0
    assert main(["report", run, "--out", str(tmp_path / "page.html")]) == 0
    epochs = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    value = epochs[0]["critic"]["image"]
    row = f"| image | 1 | {value['auc']:.3g} | {value['auc_running']:.3g} | {value['wasserstein']:.3g} |"
    assert row in (tmp_path / "page.md").read_text()
    assert "Separation of real and generated rows" in (tmp_path / "page.html").read_text()
