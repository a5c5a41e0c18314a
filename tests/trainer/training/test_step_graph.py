"""StepGraph with a stand-in for CUDA's recorder: recording runs nothing, a replay repeats what was recorded."""

import pytest
import torch
from mmssl_trainer.cli.main import main
from mmssl_trainer.systems.step_graph import WARM_UP, StepGraph
from one_step import NoWaiting, learner, parts

from mmssl_fast import static_shapes
from mmssl_fast.nn import MMSSLObjective
from mmssl_fast.ops.sample_bpr import sample_bpr


def record(body):
    """As a CUDA graph: runs once while recording, though without effect (undone below), then again at every replay."""

    def replay():
        with static_shapes.forced(), NoWaiting():
            body()

    return replay


def trained(steps, recorded):
    """The parameters after some steps and every step's losses."""
    graph, model, discriminator = parts()
    objective = MMSSLObjective(model, discriminator, seed=3, zeta=2.0)
    optimiser = torch.optim.SGD([*model.parameters(), *discriminator.parameters()], lr=1e-2)
    learn = learner(model, objective, optimiser, optimiser)
    run = StepGraph(learn, record) if recorded else learn
    losses = []
    for step in range(steps):
        with static_shapes.forced():
            triples = sample_bpr(graph, 40, 5, step, "users")
            losses.append(float(run(*triples, torch.tensor(step))["bpr"].detach()))
        if recorded and step == WARM_UP + 1:
            run.reset()
    return losses, [p.detach().clone() for m in (model, discriminator) for p in m.parameters()]


def test_recorded_steps_are_the_steps():
    """Each replay reads that step's triples and draws that step's noise: the losses and parameters are the same."""
    plain_losses, plain = trained(WARM_UP + 4, recorded=False)
    losses, parameters = trained(WARM_UP + 4, recorded=True)
    assert losses == plain_losses and len(set(losses)) == len(losses)
    assert all(torch.equal(a, b) for a, b in zip(parameters, plain, strict=True))


def test_step_graph_records_again_for_other_shapes():
    recordings = []

    def counting(body):
        recordings.append(1)
        return body

    run = StepGraph(lambda x: {"sum": x.sum()}, counting)
    for n in [3, 3, 3, 3, 3, 5, 5]:
        assert run(torch.ones(n))["sum"] == n
    assert len(recordings) == 2


@pytest.mark.parametrize("setting", ["cpu", "mask_seen"])
def test_cuda_graph_is_refused_where_it_cannot_be(setting, tmp_path, capsys):
    arguments = ["train", "--epochs", "1", "--out", str(tmp_path / "run"), "--set", "train.cuda_graph=true"]
    if setting == "mask_seen":
        arguments += ["--set", "loss.mask_seen=true"]
    assert main(arguments) == 2
    assert "train.cuda_graph = true: needs a CUDA device and loss.mask_seen = false" in capsys.readouterr().err
