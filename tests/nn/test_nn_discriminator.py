"""mmssl_fast.nn.discriminator: Eq. 4 literally, and the weight's place in memory."""

import copy
import pickle

import pytest
import torch
from torch import nn

from mmssl_fast.graph import SeenRows
from mmssl_fast.nn import Discriminator
from mmssl_fast.nn.discriminator import hidden_widths
from mmssl_fast.reference import cosine_block
from mmssl_fast.relation import RelationRows


def build(**settings) -> Discriminator:
    torch.manual_seed(2)
    return Discriminator(41, **({"hidden": (12, 5), "dropout": (0.0, 0.0)} | settings)).double()


def literal(discriminator: Discriminator, rows: torch.Tensor) -> torch.Tensor:
    """Eq. 4 written out, batch statistics in training and running ones otherwise."""
    parameters = dict(discriminator.named_parameters())
    buffers = dict(discriminator.named_buffers())

    def gamma(a, linear, norm):
        a = a @ parameters[f"{linear}.weight"].mT + parameters[f"{linear}.bias"]
        a = torch.where(a > 0, a, 0.2 * a)
        if discriminator.norm == "none":
            return a
        if discriminator.norm == "layer":
            mean, variance = a.mean(1, keepdim=True), a.var(1, unbiased=False, keepdim=True)
        elif discriminator.training:
            mean, variance = a.mean(0), a.var(0, unbiased=False)
        else:
            mean, variance = buffers[f"{norm}.running_mean"], buffers[f"{norm}.running_var"]
        return (a - mean) / (variance + 1e-5).sqrt() * parameters[f"{norm}.weight"] + parameters[f"{norm}.bias"]

    a = gamma(gamma(rows, "linear", "head_layers.1"), "head_layers.3", "head_layers.5")
    scores = (a @ parameters["head_layers.7.weight"].mT + parameters["head_layers.7.bias"])[:, 0]
    return torch.sigmoid(scores) if discriminator.sigmoid else scores


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("norm", ["batch", "layer", "none"])
@pytest.mark.parametrize("sigmoid", [True, False])
def test_forward_equals_the_equation(training, norm, sigmoid):
    discriminator = build(norm=norm, sigmoid=sigmoid)
    with torch.no_grad():
        for name, tensor in [*discriminator.named_parameters(), *discriminator.named_buffers()]:
            if tensor.is_floating_point() and "weight" not in name:
                tensor.add_(torch.rand_like(tensor))
    discriminator.train(training)
    rows = torch.randn(7, 41, dtype=torch.float64)
    torch.testing.assert_close(discriminator(rows), literal(discriminator, rows), atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("row_l2", [True, False])
@pytest.mark.parametrize("masked", [True, False])
def test_relation_rows_equal_dense_rows(training, kind, row_l2, masked):
    """Values and the gradients of weights and embeddings; one user is all zero, one has seen every item, one none."""
    discriminator = build().train(training)
    u = torch.randn(6, 3, dtype=torch.float64)
    u[2] = 0
    u.requires_grad_()
    v = torch.randn(41, 3, dtype=torch.float64, requires_grad=True)
    seen = torch.rand(6, 41) < 0.3
    seen[4], seen[5] = True, False
    block = SeenRows(torch.nn.functional.pad(seen.sum(1).cumsum(0), (1, 0)), seen.nonzero()[:, 1]) if masked else None
    leaves = [*discriminator.parameters(), u, v]
    got = discriminator(RelationRows.generated(u, v, kind, block, row_l2))
    truth = discriminator(cosine_block(u, v, block, kind, row_l2))
    torch.testing.assert_close(got, truth, atol=1e-12, rtol=1e-10)
    cotangent = torch.randn(6, dtype=torch.float64)
    for a, b in zip(
        torch.autograd.grad(got, leaves, cotangent), torch.autograd.grad(truth, leaves, cotangent), strict=True
    ):
        torch.testing.assert_close(a, b, atol=1e-12, rtol=1e-9)


def test_relation_rows_in_float32():
    torch.manual_seed(5)
    discriminator = Discriminator(401).eval()
    u, v = torch.randn(20, 16), torch.randn(401, 16)
    got = discriminator(RelationRows.generated(u, v, "cosine", None, True))
    torch.testing.assert_close(got, discriminator(cosine_block(u, v, None, "cosine", True)), atol=1e-6, rtol=1e-5)


def test_scale_and_slope():
    rows = torch.randn(7, 41, dtype=torch.float64)
    plain, scaled, identity = build().eval(), build(scale=100.0).eval(), build(negative_slope=1.0).eval()
    torch.testing.assert_close(scaled(rows), 100 * plain(rows))
    z = identity.linear(rows)
    torch.testing.assert_close(identity.head_layers[0](z), z)


def test_dropout_is_where_the_equation_has_it():
    rates = [layer.p for layer in Discriminator(41).modules() if isinstance(layer, nn.Dropout)]
    assert rates == [0.31, 0.5]
    discriminator = build(dropout=(0.5, 0.5))
    rows = torch.randn(7, 41, dtype=torch.float64)
    assert not torch.equal(discriminator(rows), discriminator(rows))


def test_running_statistics_are_batch_norms():
    """Of the head in training and of the same layers one after another."""
    fused = build()
    plain = copy.deepcopy(fused)
    for seed in range(3):
        z = torch.randn(7, 12, dtype=torch.float64, generator=torch.Generator().manual_seed(seed)) + 1
        torch.testing.assert_close(fused.head(z), plain.head_layers(z)[:, 0], atol=1e-12, rtol=1e-10)
    for (name, ours), theirs in zip(fused.named_buffers(), plain.buffers(), strict=True):
        torch.testing.assert_close(ours, theirs, msg=lambda text, name=name: f"{name}: {text}")


def test_dropout_follows_torchs_seed():
    """What a checkpoint keeps, torch's generator, is all that a mask depends on."""
    discriminator, z = build(dropout=(0.5, 0.5)), torch.randn(7, 12, dtype=torch.float64)
    torch.manual_seed(3)
    first, second = discriminator.head(z), discriminator.head(z)
    torch.manual_seed(3)
    assert torch.equal(first, discriminator.head(z)) and not torch.equal(first, second)


def test_one_row_has_no_statistics():
    with pytest.raises(ValueError, match="at least 2 rows"):
        build().head(torch.randn(1, 12, dtype=torch.float64))


@pytest.mark.parametrize(("n_items", "widths"), [(6710, (512, 256)), (1271, (317, 158)), (41, (10, 5)), (1, (1, 1))])
def test_default_widths(n_items, widths):
    assert hidden_widths(n_items) == widths
    assert Discriminator(n_items).hidden == widths


def is_item_major(discriminator: Discriminator) -> bool:
    weight = discriminator.linear.weight
    return tuple(weight.shape) == (12, 41) and weight.stride() == (1, 12)


def step(discriminator: Discriminator, optimiser: torch.optim.Optimizer) -> None:
    dtype = discriminator.linear.weight.dtype
    discriminator(torch.randn(7, 41, dtype=dtype)).sum().backward()
    optimiser.step()


def test_first_weight_stays_item_major():
    discriminator = build()
    assert is_item_major(discriminator)
    assert is_item_major(copy.deepcopy(discriminator))
    assert is_item_major(copy.deepcopy(discriminator).float().to("cpu"))
    assert is_item_major(pickle.loads(pickle.dumps(discriminator)))
    state = {name: tensor.contiguous() for name, tensor in discriminator.state_dict().items()}
    for assign in (False, True):
        other = build()
        other.load_state_dict(state, assign=assign)
        assert is_item_major(other) and torch.equal(other.linear.weight, discriminator.linear.weight)
    optimiser = torch.optim.Adam(discriminator.parameters())
    step(discriminator, optimiser)
    assert is_item_major(discriminator)
    assert optimiser.state[discriminator.linear.weight]["exp_avg"].stride() == (1, 12)
    assert discriminator.linear.weight.grad.stride() == (1, 12)


def test_state_dict_has_an_ordinary_weight():
    state = build().state_dict()
    assert state["linear.weight"].shape == (12, 41)
    plain = nn.Linear(41, 12).double()
    plain.load_state_dict({"weight": state["linear.weight"], "bias": state["linear.bias"]})
    assert torch.equal(plain.weight, state["linear.weight"])


def test_frozen_restores_what_was_asked_for():
    discriminator = build()
    discriminator.linear.bias.requires_grad_(False)
    rows = torch.randn(7, 41, dtype=torch.float64, requires_grad=True)
    with pytest.raises(KeyError), discriminator.frozen():
        discriminator(rows).sum().backward()
        raise KeyError
    assert rows.grad is not None and all(parameter.grad is None for parameter in discriminator.parameters())
    assert discriminator.linear.weight.requires_grad and not discriminator.linear.bias.requires_grad


@pytest.mark.parametrize(
    "settings", [{"hidden": (0, 5)}, {"hidden": (5, 0)}, {"dropout": (0.1, 1.0)}, {"norm": "instance"}]
)
def test_settings_out_of_range_are_refused(settings):
    with pytest.raises(ValueError, match="Discriminator"):
        Discriminator(41, **settings)
    with pytest.raises(ValueError, match="n_items"):
        Discriminator(0)
