"""train.microbatches and loss.anchors: the parts of a batch against the whole of it, in float64."""

import pytest
import torch
from mmssl_trainer import configure, systems
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.systems import microbatches, sgl
from mmssl_trainer.systems.microbatches import parts_of
from mmssl_trainer.training import loop

SMALL = {
    "train.threads": 1,
    "train.batch": 60,
    "train.sample_over": "interactions",
    "model.dim": 8,
    "model.heads": 2,
    "model.hidden": [12, 6],
    "optimiser.lr": 0.05,
}
NO_CRITIC = {"loss.adversarial": False, "loss.structural": True, "loss.lambda_features": 0.1}
STEPS = 3


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=50, n_items=40, modalities={"image": 8, "text": 5}, mean_degree=8)


@pytest.fixture(autouse=True)
def float64():
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(torch.float32)


def trained(data, dropout=0.0, **settings):
    """The losses of some steps, and the state after them."""
    config = configure(SMALL | {key.replace("__", "."): value for key, value in settings.items()})
    run = loop.Run(data, config, loop.NullObserver())
    if run.system.discriminator is not None:
        for module in run.system.discriminator.modules():
            if isinstance(module, torch.nn.Dropout):
                module.p = dropout
    run.system.start_epoch(1)
    losses = []
    for run.fit.step in range(STEPS):
        terms = run.system.step(run.next_batch())
        losses.append({name: float(value.detach()) for name, value in terms.items()})
    return losses, run.system.state()


def assert_equal(found, truth):
    for ours, theirs in zip(found[0], truth[0], strict=True):
        assert ours == pytest.approx(theirs, rel=1e-11)
    for name, tensor in truth[1].items():
        torch.testing.assert_close(found[1][name], tensor, rtol=1e-9, atol=1e-11, msg=name)


@pytest.mark.parametrize("parts", [2, 7, 60])
@pytest.mark.parametrize("anchors", [0, 1, 13, 60])
def test_parts_equal_the_whole_batch(data, parts, anchors):
    """Every loss of the model, and what it learns, with the same anchors in all cases; 7 parts differ in size."""
    settings = {**NO_CRITIC, "loss__anchors": anchors}
    whole = trained(data, **settings)
    assert {"bpr", "l2", "features", "contrastive", "structural", "total"} == set(whole[0][0])
    assert_equal(trained(data, **settings, train__microbatches=parts), whole)


@pytest.mark.parametrize("norm", ["none", "layer"])
def test_parts_of_the_discriminator_equal_the_whole_batch(data, norm):
    """Without its dropout, whose masks are drawn for every part."""
    settings = {"model__critic_norm": norm, "train__discriminator_steps": 2}
    whole = trained(data, **settings)
    assert {"D real", "D fake", "D penalty", "D total", "generator"} < set(whole[0][0])
    assert_equal(trained(data, **settings, train__microbatches=4), whole)


def test_batch_normalisation_is_that_of_a_part(data):
    """What the documentation calls an approximation differs; the ranking loss of the first step does not."""
    whole, parts = trained(data), trained(data, train__microbatches=4)
    assert parts[0][0]["bpr"] == pytest.approx(whole[0][0]["bpr"], rel=1e-11)
    assert parts[0][0]["D real"] != pytest.approx(whole[0][0]["D real"], rel=1e-4)


def test_fewer_anchors_estimate_the_loss(data):
    """The mean over all sets of anchors is the loss of all of them."""
    config = configure(SMALL | NO_CRITIC)
    run = loop.Run(data, config, loop.NullObserver())
    batch, objective = run.next_batch(), run.system.objective
    encoded, triples = run.system.model(), (batch.users, batch.positives, batch.negatives)
    every = objective.generator_terms(encoded, *triples)
    sets = [objective.generator_terms(encoded, *triples, torch.arange(first, 60, 5)) for first in range(5)]
    for name in ("contrastive", "structural"):
        values = torch.stack([one[name] for one in sets])
        torch.testing.assert_close(values.mean(), every[name])
        assert float(values.detach().std()) > 0


@pytest.mark.parametrize("batch, parts, anchors", [(60, 7, 13), (10, 10, 4), (9, 2, 0), (5, 5, 1), (6, 3, 100)])
def test_parts_cover_the_batch_and_its_anchors(batch, parts, anchors):
    found = parts_of(batch, parts, anchors, torch.device("cpu"))
    rows = torch.cat([torch.arange(batch)[part.rows] for part in found])
    chosen = [torch.arange(batch)[part.rows] for part in found]
    chosen = torch.cat(
        [ids if part.anchors is None else ids[part.anchors] for ids, part in zip(chosen, found, strict=True)]
    )
    assert rows.tolist() == list(range(batch))
    assert chosen.tolist() == microbatches.anchor_positions(batch, anchors).tolist()
    assert sum(part.share for part in found) == pytest.approx(1)
    assert sum(part.anchor_share for part in found) == pytest.approx(1)
    sizes = [part.rows.stop - part.rows.start for part in found]
    assert max(sizes) - min(sizes) <= 1


@pytest.mark.parametrize("system", ["sgl", "ncl"])
def test_anchors_of_other_systems(data, monkeypatch, system):
    given = []
    infonce = sgl.distributed.infonce

    def recorded(h, e, ids, *rest, **options):
        given.append(len(ids))
        return infonce(h, e, ids, *rest, **options)

    monkeypatch.setattr("mmssl_fast.distributed.infonce", recorded)
    for anchors, expected in ((0, 60), (7, 7)):
        given.clear()
        run = loop.Run(data, configure(SMALL | {"model.system": system, "loss.anchors": anchors}), loop.NullObserver())
        run.system.start_epoch(1)
        run.system.step(run.next_batch())
        assert given == [expected, expected]


def test_what_is_refused(data, capsys):
    assert main(["train", "--system", "lightgcn", "--set", "train.microbatches=2"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "train.microbatches = 2 with model.system" in said and "only MMSSL" in said
    for key, value in (("train.microbatches", 0), ("loss.anchors", -1)):
        with pytest.raises(InputError, match=f"{key} = {value}"):
            configure({key: value})
    with pytest.raises(
        InputError, match=r"train\.batch = 60 .* at least 80 with these losses and train.microbatches = 40"
    ):
        loop.Run(data, configure(SMALL | {"train.microbatches": 40}), loop.NullObserver())


def test_a_graph_cannot_be_captured(data):
    config = configure({"train.microbatches": 2, "train.cuda_graph": True, "train.device": "cuda"})
    with pytest.raises(InputError, match=r"train.cuda_graph = true: does not work with train.microbatches = 2"):
        systems.mmssl._refuse_with_graph(config, torch.device("cuda"))
