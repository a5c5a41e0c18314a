"""Optimisers without torch's compiler: the results of torch's own, and a run that does not import torch._dynamo."""

import pytest
import torch
from child_processes import python
from mmssl_trainer.optimisers import without_compiler

KINDS = {
    torch.optim.AdamW: {"lr": 0.1, "weight_decay": 0.3},
    torch.optim.Adam: {"lr": 0.1},
    torch.optim.SGD: {"lr": 0.1, "momentum": 0.9},
}


@pytest.mark.parametrize("kind", KINDS)
def test_the_results_are_those_of_torch(kind):
    found = []
    for made in (kind, without_compiler(kind)):
        weights = [torch.nn.Parameter(torch.linspace(-1, 2, 7, dtype=torch.float64)) for _ in range(2)]
        optimiser = made(weights[:1], **KINDS[kind])
        optimiser.add_param_group({"params": weights[1:], "lr": 0.02})
        for _ in range(3):
            optimiser.zero_grad()
            assert weights[0].grad is None
            sum((weight**3).sum() for weight in weights).backward()
            optimiser.step()
        assert isinstance(optimiser, kind)
        found.append((weights, optimiser.state_dict()))
    (weights, state), (own_weights, own_state) = found
    assert all(a.equal(b) for a, b in zip(weights, own_weights, strict=True))
    assert state["param_groups"] == own_state["param_groups"]
    assert state["state"].keys() == own_state["state"].keys() != set()
    for number, tensors in state["state"].items():
        assert all(value.equal(own_state["state"][number][name]) for name, value in tensors.items())
    own = without_compiler(kind)(weights[:1], **KINDS[kind])
    own.load_state_dict(kind(weights[:1], **KINDS[kind]).state_dict())


def test_gradients_are_disabled_in_a_step_and_hooks_are_called():
    weight = torch.nn.Parameter(torch.ones(2))
    optimiser = without_compiler(torch.optim.SGD)([weight], lr=0.5)
    called = []
    optimiser.register_step_post_hook(lambda *_: called.append(torch.is_grad_enabled()))
    weight.sum().backward()
    optimiser.step()
    assert weight.tolist() == [0.5, 0.5] and weight.is_leaf and len(called) == 1


RUN = """
import sys
from mmssl_trainer import configure, fit, load_data
for system in ("lightgcn", "mmssl"):
    fit(load_data(), configure({"model.system": system, "model.dim": 8, "train.epochs": 1, "train.threads": 1}))
print([name for name in ("torch._dynamo", "sympy") if name in sys.modules])
"""


@pytest.mark.processes
def test_a_run_does_not_import_the_compiler():
    assert python(RUN).stdout.splitlines()[-1] == "[]"
