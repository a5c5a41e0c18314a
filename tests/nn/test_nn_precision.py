"""The discriminator with bfloat16 products: what docs/precision.md says of a step's losses and gradients."""

import pytest
import torch
import torch.nn.functional as F
from csr_blocks import normal
from mmssl_trainer.config.load import load
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.systems.mmssl import MMSSLSystem
from relation_cases import catalogue

from mmssl_fast.graph import InteractionGraph
from mmssl_fast.nn import Discriminator
from mmssl_fast.nn.losses import discriminator_loss, generator_loss
from mmssl_fast.relation import RelationRows
from mmssl_fast.relation.algebra.gradient_norm import gradient_norm
from mmssl_fast.relation.algebra.pending_gradient import pending_gradient

N_USERS, N_ITEMS, ROWS, D, H = 200, 1271, 128, 16, 96
LOSS, GRADIENT = 5e-3, 0.1  # relative to the float64 step: a loss term's error; the length of a gradient's to its own


def step(dtype, gemm, row_count=ROWS, pending=False):
    """{name: loss term or gradient} of a discriminator and a generator step; the same masks and noise each time."""
    torch.manual_seed(0)
    discriminator = Discriminator(N_ITEMS, hidden=(H, H // 2), gemm=gemm).to(dtype)
    graph, users = catalogue(N_USERS, N_ITEMS, 0.02), torch.arange(row_count)
    seen = graph.rows(users)
    leaves = [normal(n, D, dtype=dtype, seed=at).requires_grad_() for at, n in enumerate([row_count, N_ITEMS] * 2)]
    h_u, h_i = normal(row_count, D, dtype=dtype, seed=7), normal(N_ITEMS, D, dtype=dtype, seed=8)
    real = RelationRows.gumbel(graph, users, 0.2, 5).to(dtype) + 3 * RelationRows.generated(h_u, h_i)

    def fakes(detached):
        pairs = [x.detach() for x in leaves] if detached else leaves
        return [RelationRows.generated(*pairs[at : at + 2], "cosine", seen, True) for at in (0, 2)]

    alpha = torch.linspace(0.1, 0.9, 2 * row_count, dtype=dtype)
    terms = discriminator_loss(discriminator, F.normalize(real), fakes(True), alpha)
    weight = discriminator.linear.weight
    if pending:
        with pending_gradient(weight) as held:
            sum(terms.values()).backward()
        weight.grad = held.dense()
    else:
        sum(terms.values()).backward()
    found = terms | {f"d {name}": p.grad.clone() for name, p in discriminator.named_parameters()}
    found["generator"] = generator_loss(discriminator, fakes(False))
    found["generator"].backward()
    return {name: x.detach().double() for name, x in found.items()} | {
        f"d {'uv'[at % 2]}{at // 2}": x.grad.double() for at, x in enumerate(leaves)
    }


def errors(actual, truth):
    return {name: ((actual[name] - x).norm() / x.norm()).item() for name, x in truth.items()}


@pytest.mark.parametrize("pending", [False, True], ids=["dense", "pending"])
@pytest.mark.parametrize("row_count", [128, 20])  # the penalty through K, and through g W
def test_a_step_in_bfloat16_is_as_near_as_promised(row_count, pending):
    truth = step(torch.float64, None, row_count)
    found = errors(step(torch.float32, torch.bfloat16, row_count, pending), truth)
    plain = errors(step(torch.float32, None, row_count), truth)
    for name, error in found.items():
        assert error <= (LOSS if truth[name].ndim == 0 else GRADIENT), (name, error)
    assert max(found.values()) > 30 * max(plain.values()), "nothing was rounded to bfloat16"
    assert found["d linear.weight"] > 1e-3 and found["penalty"] > 1e-5


def test_torch_autocast_does_what_gemm_does():
    z = Discriminator(N_ITEMS, hidden=(H, H // 2), gemm=torch.bfloat16)
    plain = Discriminator(N_ITEMS, hidden=(H, H // 2))
    plain.load_state_dict(z.state_dict())
    rows = RelationRows.generated(normal(ROWS, D, dtype=torch.float32), normal(N_ITEMS, D, dtype=torch.float32))
    torch.manual_seed(1)
    expected = z(rows)
    torch.manual_seed(1)
    with torch.autocast("cpu", torch.bfloat16):
        found = plain(rows)
    assert found.dtype == torch.float32 and torch.equal(found, expected)


@pytest.mark.parametrize("rows", [300, 20])
def test_gradient_norm_obeys_autocast(rows):
    g, weight = (normal(*shape, dtype=torch.float32, seed=at) for at, shape in enumerate([(rows, H), (H, N_ITEMS)]))
    exact = (g.double() @ weight.double()).norm(dim=1)
    with torch.autocast("cpu", torch.bfloat16):
        found = gradient_norm(g.requires_grad_(), weight.requires_grad_())
    gradients = torch.autograd.grad(found.sum(), (g, weight))
    assert found.dtype == torch.float32 and all(x.dtype == torch.float32 for x in gradients)
    error = ((found - exact) / exact).abs().max()
    assert 1e-5 < error < 1e-2


@pytest.mark.parametrize("supported", [True, False])
def test_the_trainer_multiplies_in_bfloat16_or_refuses(supported, monkeypatch):
    monkeypatch.setattr(torch.ops.mkldnn, "_is_mkldnn_bf16_supported", lambda: supported)
    data, system = synthetic(seed=1, n_users=40, n_items=30, modalities={"image": 8}, mean_degree=8), MMSSLSystem()
    config = load(None, {"train.precision": ("bfloat16", "test"), "model.dim": (8, "test")})
    if supported:
        system.build(data, InteractionGraph.from_scipy(data.train), config)
        assert system.discriminator.gemm == torch.bfloat16
    else:
        with pytest.raises(InputError, match=r'train\.precision = "bfloat16": torch has no fast bfloat16 product'):
            system.build(data, InteractionGraph.from_scipy(data.train), config)
