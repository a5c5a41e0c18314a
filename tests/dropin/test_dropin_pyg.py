"""mmssl_fast.dropin.pyg: convolutions of PyTorch Geometric that sum over neighbours, equal and replaced."""

import copy
import pickle
from types import SimpleNamespace

import pytest
import torch
from torch import nn

from mmssl_fast.dropin import pyg

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore:Converting sparse tensor to CSR")


def test_a_model_without_pytorch_geometric_is_left_alone():
    model = nn.Sequential(nn.Linear(3, 3), nn.ReLU())
    assert pyg.accelerate(model) == {}
    pyg.restore(model)
    assert model(torch.ones(1, 3)).shape == (1, 3)


geometric = pytest.importorskip("torch_geometric", reason="torch_geometric is not installed")
from torch_geometric.nn import GCNConv, GINConv, LGConv, LightGCN, MessagePassing, SAGEConv  # noqa: E402

N = 30


@pytest.fixture(autouse=True)
def fresh(monkeypatch):
    monkeypatch.setattr(pyg, "_graphs", pyg._Graphs())


@pytest.fixture
def products(monkeypatch):
    calls, real = [], pyg.Adjacency.mm
    monkeypatch.setattr(pyg.Adjacency, "mm", lambda self, x: calls.append(x.shape) or real(self, x))
    return calls


class WeightedSum(MessagePassing):
    """A convolution over weights that are normalised beforehand, as RecBole-GNN's LightGCN has it."""

    def __init__(self):
        super().__init__(aggr="add")

    def forward(self, x, edge_index, edge_weight):
        return self.propagate(edge_index, x=x, edge_weight=edge_weight)

    def message(self, x_j, edge_weight):
        return edge_weight.view(-1, 1) * x_j


class Interaction(WeightedSum):
    """The same inside a layer with weights, as RecBole-GNN's NGCF has it."""

    def __init__(self):
        super().__init__()
        self.first, self.second = nn.Linear(4, 3), nn.Linear(4, 3)

    def forward(self, x, edge_index, edge_weight):
        around = self.propagate(edge_index, x=x, edge_weight=edge_weight)
        return self.first(around + x) + self.second(around * x)


def edges(seed=0, n=N):
    random = torch.Generator().manual_seed(seed)
    found = torch.randint(n - 2, (2, 200), generator=random)
    return torch.cat((found, found[:, :3]), 1), torch.rand(203, generator=random) + 0.1


def values_and_gradients(conv, x, edge_index, edge_weight):
    x = x.clone().requires_grad_()
    y = conv(x, edge_index, edge_weight)
    return y.detach(), torch.autograd.grad(y, [x, *conv.parameters()], torch.ones_like(y))


def assert_equal_convs(original, replaced, x, edge_index, edge_weight):
    (y, dx), (truth, true_dx) = (values_and_gradients(c, x, edge_index, edge_weight) for c in (replaced, original))
    torch.testing.assert_close(y, truth, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(dx, true_dx, rtol=1e-5, atol=1e-5)


CONVS = {
    "LGConv": (LGConv, "forward is a normalised"),
    "LGConv without normalisation": (lambda: LGConv(normalize=False), "forward is a weighted"),
    "LGConv against the flow": (lambda: LGConv(flow="target_to_source"), "forward is a normalised"),
    "weights normalised beforehand": (WeightedSum, "forward is a weighted"),
    "a layer with weights": (Interaction, "propagate is a weighted"),
    "GCNConv": (lambda: GCNConv(4, 3), "propagate is a weighted"),
}


@pytest.mark.parametrize("weighted", [True, False])
@pytest.mark.parametrize("name", CONVS)
def test_values_and_gradients_are_the_originals(name, weighted, products):
    make, what = CONVS[name]
    original = make()
    replaced = copy.deepcopy(original)
    (said,) = pyg.accelerate(replaced).values()
    assert said.startswith(f"replaced: {what}")
    products.clear()
    if not weighted and name in ("weights normalised beforehand", "a layer with weights"):
        with pytest.raises(AttributeError):
            replaced(torch.randn(N, 4), edges()[0], None)
        return
    edge_index, weight = edges()
    for _ in range(2):
        assert_equal_convs(original, replaced, torch.randn(N, 4), edge_index, weight if weighted else None)
    assert (
        products == [(N, replaced.first.in_features if name == "a layer with weights" else c) for c in []] or products
    )


@pytest.mark.parametrize(
    "conv", [lambda: SAGEConv(4, 4), lambda: LGConv(aggr="mean"), lambda: GINConv(nn.Linear(4, 4))]
)
def test_what_computes_something_else_is_left(conv):
    model = nn.ModuleList([conv()])
    (said,) = [text for name, text in pyg.accelerate(model).items() if name == "0"]
    assert said.startswith("left: it does not compute a sum")
    assert "forward" not in model[0].__dict__ and "propagate" not in model[0].__dict__


def test_a_sum_that_only_looks_like_one_is_left():
    class Halved(LGConv):
        def message(self, x_j, edge_weight):
            return x_j * edge_weight.view(-1, 1) * (0.5 if self.training else 1)

    assert pyg.accelerate(Halved())[""].startswith("left")

    class Gated(Interaction):
        def __init__(self):
            super().__init__()
            self.gate = nn.Parameter(torch.ones(()))  # a plain sum before the first step

        def message(self, x_j, edge_weight):
            return self.gate * super().message(x_j, edge_weight)

    assert pyg.accelerate(Gated())[""].startswith("left")


def test_a_convolution_without_the_explain_mode_of_newer_releases():
    assert pyg._can_be_product(SimpleNamespace(), torch.randn(N, 4), edges()[0], None)
    assert not pyg._can_be_product(SimpleNamespace(explain=True), torch.randn(N, 4), edges()[0], None)


def train(model, edge_index, steps=5):
    optimiser = torch.optim.Adam(model.parameters(), lr=0.01)
    losses = []
    for _ in range(steps):
        optimiser.zero_grad()
        rank = model(edge_index, torch.cat((edge_index, edge_index.flip(1)), 1))
        loss = model.recommendation_loss(*rank.chunk(2), lambda_reg=1e-4)
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    return losses


def test_pygs_lightgcn_trains_to_the_same_parameters(products):
    edge_index = edges()[0]
    edge_index = torch.cat((edge_index, edge_index.flip(0)), 1)
    # In float64: Adam's first steps divide gradients by their own size, so that the rounding of a gradient near zero
    # becomes a step of any length.
    original = LightGCN(N, 8, num_layers=3).double()
    replaced = copy.deepcopy(original)
    assert list(pyg.accelerate(replaced)) == ["convs.0", "convs.1", "convs.2"]
    products.clear()
    assert train(replaced, edge_index) == pytest.approx(train(original, edge_index), rel=1e-12)
    assert len(products) == 3 * 5
    torch.testing.assert_close(replaced.embedding.weight, original.embedding.weight, rtol=1e-9, atol=1e-9)
    assert torch.equal(replaced.recommend(edge_index, k=5), original.recommend(edge_index, k=5))


def test_edges_are_normalised_once_and_again_when_they_change(monkeypatch):
    conv, original = LGConv(), LGConv()
    pyg.accelerate(conv)
    made, real = [], pyg._prepare
    monkeypatch.setattr(pyg, "_prepare", lambda *args: made.append(1) or real(*args))
    edge_index, weight = edges()
    x = torch.randn(N, 4)
    for _ in range(3):
        assert_equal_convs(original, conv, x, edge_index, weight)
    assert len(made) == 1
    weight.numpy()[3] = 5  # no version tells of it
    assert_equal_convs(original, conv, x, edge_index, weight)
    edge_index.data[0, 5] = 1
    assert_equal_convs(original, conv, x, edge_index, weight)
    assert len(made) == 3
    assert_equal_convs(original, conv, x, edge_index, None)
    assert_equal_convs(original, conv, x.double(), edge_index, None)
    assert_equal_convs(original, conv, torch.randn(N + 5, 4), edge_index, None)


@pytest.mark.parametrize("layout", ["coo", "csr"])
def test_a_sparse_adjacency_is_taken_transposed_as_pyg_has_it(layout, products):
    edge_index, weight = edges()
    adjacency = torch.sparse_coo_tensor(edge_index.flip(0), weight, (N, N)).coalesce()
    adjacency = adjacency if layout == "coo" else adjacency.to_sparse_csr()
    for make in (LGConv, lambda: LGConv(normalize=False)):
        conv = make()
        pyg.accelerate(conv)
        products.clear()
        assert_equal_convs(make(), conv, torch.randn(N, 4), adjacency, None)
        assert len(products) == 1
    own = pyg.Adjacency.from_torch(adjacency)
    assert_equal_convs(make(), lambda_module(lambda x, *rest: conv(x, own)), torch.randn(N, 4), adjacency, None)


def lambda_module(function):
    module = nn.Module()
    module.forward = function
    return module


def test_the_original_runs_where_a_product_would_not_do(products):
    conv, original = LGConv(), LGConv()
    pyg.accelerate(conv)
    products.clear()
    edge_index, weight = edges()
    x = torch.randn(N, 4)
    learned = weight.clone().requires_grad_()
    (grad,) = torch.autograd.grad(conv(x, edge_index, learned).square().sum(), learned)
    (truth,) = torch.autograd.grad(original(x, edge_index, learned).square().sum(), learned)
    torch.testing.assert_close(grad, truth)
    seen = []
    handle = conv.register_message_forward_hook(lambda *args: seen.append(1))
    conv(x, edge_index)
    handle.remove()
    assert seen and not products
    for c in (conv, original):
        with pytest.raises((IndexError, RuntimeError)):
            c(x, edge_index + N)
    assert torch.equal(conv(torch.randn(2, N, 4), edge_index).isnan(), torch.zeros(2, N, 4, dtype=torch.bool))
    assert not products
    pyg._graphs._lifetimes.clear()
    conv(x, edge_index)
    assert len(products) == 1


def test_copies_pickles_states_and_restoring():
    model = LightGCN(N, 8, num_layers=2)
    state = list(model.state_dict())
    edge_index = edges()[0]
    truth = model.get_embedding(edge_index)
    pyg.accelerate(model)
    assert list(model.state_dict()) == state
    for other in (copy.deepcopy(model), pickle.loads(pickle.dumps(model))):
        assert other.convs[0].forward.args[0] is other.convs[0], "the copy's own"
        torch.testing.assert_close(other.get_embedding(edge_index), truth)
    assert pyg.accelerate(model)["convs.0"].startswith("left: its forward or propagate is replaced")
    pyg.restore(model)
    assert "forward" not in model.convs[0].__dict__ and torch.equal(model.get_embedding(edge_index), truth)


def test_few_edges_that_are_new_at_every_call_are_left_to_pyg(products):
    conv = LGConv()
    pyg.accelerate(conv)
    products.clear()
    for step in range(10):
        conv(torch.randn(N, 4), edges(step)[0])
    assert len(products) == 1, "the first, of which nothing was known"
    kept = edges()[0]
    for _ in range(40):
        conv(torch.randn(N, 4), kept)
    assert len(products) > 20
    wide = torch.randint(N, (2, 20000))
    products.clear()
    for _ in range(4):
        conv(torch.randn(N, 32), wide.clone())
    assert len(products) == 4, "many edges pay at once"


def test_random_generators_are_left_as_they_were():
    conv = LGConv()
    torch.manual_seed(3)
    truth = torch.rand(2)
    torch.manual_seed(3)
    pyg.accelerate(conv)
    assert torch.equal(torch.rand(2), truth)
