"""Runs of MMSSL with train.recompute and the first weight in bfloat16, and what these do not go with."""

import weakref

import pytest
import torch
from configurations import short
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.systems.base import Batch
from mmssl_trainer.systems.mmssl import MMSSLSystem
from mmssl_trainer.training.loop import fit

from mmssl_fast import InteractionGraph, distributed


def configured(**values):
    return short(defaults={"model.hidden": [6, 4]}, **values)


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=40, n_items=30, modalities={"image": 8, "text": 6})


def test_run_with_everything_that_saves_memory(data):
    whole = fit(data, configured())
    system = MMSSLSystem()
    config = configured(
        train__recompute="on", optimiser__first_layer_weight="bfloat16", optimiser__first_layer_moments="bfloat16"
    )
    fitted = fit(data, config, system=system)
    assert system.model.recompute and system.discriminator.linear.weight.dtype == torch.bfloat16
    assert fitted.epochs[0]["losses"] == pytest.approx(whole.epochs[0]["losses"], rel=2e-2)
    assert fitted.epochs[0]["losses"] != whole.epochs[0]["losses"]


def test_what_does_not_go_with_a_narrow_weight_is_refused(data, monkeypatch):
    for key, value in (("train__recompute", "on"), ("optimiser__first_layer_weight", "bfloat16")):
        graph = InteractionGraph.from_scipy(data.train)
        monkeypatch.setattr(InteractionGraph, "device", torch.device("cuda"))
        with pytest.raises(InputError, match=r"train\.cuda_graph = true: does not work with .*change one of them"):
            MMSSLSystem().build(data, graph, configured(train__cuda_graph=True, **{key: value}))
        monkeypatch.undo()
    monkeypatch.setattr(distributed, "current", lambda: distributed.Ranks(0, 2))
    with pytest.raises(InputError, match='= "bfloat16": needs one process'):
        MMSSLSystem().build(data, graph, configured(optimiser__first_layer_weight="bfloat16"))


def test_a_step_keeps_neither_the_encoding_nor_the_graphs_of_its_terms(data, monkeypatch):
    """The encoding is gone when the generator's backward pass begins, which frees what it has used."""
    system, made, alive = MMSSLSystem(), [], []
    system.build(data, InteractionGraph.from_scipy(data.train), configured())
    encode, descend = system._encoded, system._descend

    def encoded():
        result = encode()
        made.append(weakref.ref(result))
        return result

    def watched(name, loss):
        alive.append((name, made[0]() is not None))
        descend(name, loss)

    monkeypatch.setattr(system, "_encoded", encoded)
    monkeypatch.setattr(system, "_descend", watched)
    system.start_epoch(1)
    users = torch.arange(20)
    terms = system.step(Batch(users, users, users + 9, 0))
    assert alive == [("adam", True), ("adamw", False)] and len(made) == 1
    assert {"D total", "total"} <= terms.keys() and not any(value.requires_grad for value in terms.values())
