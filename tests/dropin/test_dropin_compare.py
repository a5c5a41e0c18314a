"""What a comparison notices besides results: attributes that are set, and random numbers that are drawn."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn

from mmssl_fast.dropin.attributes import Attributes
from mmssl_fast.dropin.compare import difference, in_both_modes, perturbed, with_hits


class Model(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(3)
        self.part = nn.Linear(2, 2)
        self.seen, self.names, self.options = [], {"a"}, {"rate": 0.5}
        self.table = torch.ones(2)
        self.epoch = 1


def set_in_part(model):
    model.part.calls = 1


CHANGES = {
    "a new attribute": (lambda m: setattr(m, "loss", 0.5), {"model.loss"}),
    "another object": (lambda m: setattr(m, "epoch", 2), {"model.epoch"}),
    "an element of a list": (lambda m: m.seen.append(3), {"model.seen"}),
    "an element of a set": (lambda m: m.names.add("b"), {"model.names"}),
    "a value of a dict": (lambda m: m.options.update(rate=0.7), {"model.options"}),
    "a key of a dict": (lambda m: m.options.update(size=1), {"model.options"}),
    "an attribute of a part": (set_in_part, {"model.part.calls"}),
    "a buffer": (lambda m: m.norm(torch.randn(4, 3)), {"model.buffers"}),
    "the mode": (lambda m: m.eval(), {"model.training", "model.norm.training", "model.part.training"}),
    "nothing": (lambda m: m.part(torch.ones(1, 2)), set()),
}


def contents(model):
    own = {name: x for name, x in vars(model).items() if not name.startswith("_")} | {"calls": vars(model.part).keys()}
    return {name: repr(x) for name, x in own.items()} | {name: x.tolist() for name, x in model.named_buffers()}


@pytest.mark.parametrize("name", CHANGES)
def test_what_is_set_is_named_and_restored(name):
    change, names = CHANGES[name]
    model = Model()
    expected, before = contents(model), Attributes("model", model)
    change(model)
    assert before.changed() == names
    before.restore()
    assert contents(model) == expected


def test_a_tensor_that_is_written_to_has_changed():
    owner = SimpleNamespace(table=torch.zeros(3), other=torch.zeros(3))
    before = Attributes("trainer", owner)
    owner.table[1] = 5
    assert before.changed() == {"trainer.table"}


def test_a_buffer_of_nan_has_not_changed():
    model = nn.BatchNorm1d(2)
    model.running_mean.fill_(float("nan"))
    before = Attributes("model", model)
    assert before.changed() == set()
    model.running_mean[1] = 0
    assert before.changed() == {"model.buffers"}


def observation(function):
    return [("the result", function())]


@pytest.mark.parametrize("draw", [random.random, lambda: np.random.rand(), lambda: torch.rand(1)])  # noqa: NPY002
def test_code_that_draws_more_random_numbers_differs(draw):
    def drawing():
        draw()
        return 1

    assert difference(drawing, drawing, [observation]) is None
    assert difference(drawing, lambda: 1, [observation]) == "draws other random numbers"


def test_attributes_that_only_the_original_sets_are_a_difference():
    owner = SimpleNamespace(count=0)

    def counting():
        owner.count += 1
        return 1

    found = difference(counting, lambda: 1, [observation], {"trainer": owner})
    assert found == "sets trainer.count, which the replacement does not set" and owner.count == 0
    assert difference(lambda: 1, counting, [observation], {"trainer": owner}) is None


def test_both_modes_in_turn():
    model = nn.Dropout()
    assert in_both_modes(model, lambda: [("training", model.training)]) == [("training", True), ("training", False)]


def test_every_parameter_is_perturbed_and_restored():
    """Those that are constant, as a bias of zeros, by a share of the size of the others."""
    torch.manual_seed(0)
    parameters = [nn.Parameter(x) for x in (torch.randn(50, 4), torch.zeros(40), torch.ones(40), torch.zeros(0))]
    before = [p.detach().clone() for p in parameters]
    with perturbed(parameters):
        moved = [(p.detach() - old).abs() for p, old in zip(parameters, before, strict=True)]
        assert all((change > 0).all() for change in moved)
        assert 0.02 < moved[0].mean() < 0.2 and moved[1].mean() > 0.1 and moved[2].mean() > 0.1
    assert all(map(torch.equal, parameters, before))
    alone = nn.Parameter(torch.zeros(3))
    with perturbed([alone]):
        assert alone.all()


def test_metrics_without_a_hit_cannot_be_compared():
    assert with_hits({"recall": np.array([0.0, 0.1]), "ndcg": 0.0})[1][0] == "recall"
    with pytest.raises(RuntimeError, match="no list has a hit"):
        with_hits({"recall": np.zeros(2), "ndcg": 0.0})
