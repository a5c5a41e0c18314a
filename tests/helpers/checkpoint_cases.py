"""Runs that write states, end after a chosen step, and are resumed."""

import signal

import pytest
import torch
from configurations import short
from mmssl_trainer.errors import Interrupted
from mmssl_trainer.training.checkpoints import Checkpoints
from mmssl_trainer.training.loop import fit
from mmssl_trainer.training.progress import NullObserver


def configured(system="mmssl", **values):
    often = {"train.epochs": 4, "train.batch": 128, "train.checkpoint_minutes": 0.0}
    return short(system, often, **values)


class EachStep(Checkpoints):
    """Writes a state after every step, whatever it costs."""

    def _due(self, position, epoch_ended):
        return True


class StopAt(NullObserver):
    """Asks for the end after a step, as a signal would."""

    def __init__(self, stop, epoch, step):
        self.stop, self.at = stop, (epoch, step)

    def stepped(self, epoch, step, losses):
        if (epoch, step) == self.at:
            self.stop.received = signal.SIGTERM


def interrupted(run, data, config, epoch, step):
    """Train until after that step; the states are in `run`."""
    run.mkdir(exist_ok=True)
    checkpoints = Checkpoints(run, data, config)
    checkpoints.open()
    with pytest.raises(Interrupted, match=rf"--resume {run}") as caught:
        fit(data, config, StopAt(checkpoints.stop, epoch, step), checkpoints=checkpoints)
    assert caught.value.signal == signal.SIGTERM


def resumed(run, data, config):
    checkpoints = Checkpoints(run, data, config)
    assert checkpoints.open()
    return fit(data, config, checkpoints=checkpoints)


def assert_same(fitted, whole):
    assert torch.equal(fitted.users, whole.users) and torch.equal(fitted.items, whole.items)
    assert fitted.parameters.keys() == whole.parameters.keys()
    for name, tensor in whole.parameters.items():
        assert torch.equal(fitted.parameters[name], tensor), name
    assert [(one["epoch"], one["losses"], one.get("val")) for one in fitted.epochs] == [
        (one["epoch"], one["losses"], one.get("val")) for one in whole.epochs
    ]
    for name in ("step", "stale", "best", "best_epoch", "val"):
        assert getattr(fitted, name) == getattr(whole, name), name


def interrupted_at(monkeypatch, step):
    """As by SIGINT, after that step."""
    stopped = Checkpoints.visit

    def visit(self, system, fitted, position, epoch_ended=False):
        if fitted.step == step:
            self.stop.received = signal.SIGINT
        stopped(self, system, fitted, position, epoch_ended)

    monkeypatch.setattr(Checkpoints, "visit", visit)
