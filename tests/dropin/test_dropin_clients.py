"""accelerate for LightGCN-type code, and its parts; code that computes something else is not replaced."""

import random
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn as nn
import torch.nn.functional as F

from mmssl_fast.dropin import lightgcn_pytorch, mmrec
from mmssl_fast.dropin.layers import lightgcn_layers
from mmssl_fast.dropin.losses import bpr_margins, row_squares
from mmssl_fast.dropin.negatives import UniformTriples, chosen_negatives
from mmssl_fast.dropin.optimizer import fusable
from mmssl_fast.dropin.sparse import Adjacency

USERS, ITEMS, D = 30, 41, 7


def interactions(seed=0, density=0.15):
    rng = np.random.default_rng(seed)
    matrix = (rng.random((USERS, ITEMS)) < density).astype(np.float32)
    matrix[np.arange(USERS), rng.integers(0, ITEMS, USERS)] = 1
    matrix[4] = 0
    return sp.csr_matrix(matrix)


def adjacency(symmetric=True):
    r = interactions()
    a = sp.bmat([[None, r], [r.T * (1 if symmetric else 0.5), None]]).tocoo()
    scale = sp.diags((np.asarray(a.sum(1)).ravel() + 1e-7) ** -0.5)
    a = (scale @ a @ scale).tocoo()
    return torch.sparse_coo_tensor(np.array([a.row, a.col]), a.data, a.shape, check_invariants=True).double().coalesce()


def tables(seed=0):
    torch.manual_seed(seed)
    return [torch.randn(n, D, dtype=torch.float64).requires_grad_() for n in (USERS, ITEMS)]


def stacked(a, x, n):
    layers = [x]
    for _ in range(n):
        layers.append(torch.sparse.mm(a, layers[-1]))
    return torch.stack(layers, 1).mean(1)


@pytest.mark.parametrize("n_layers", [0, 1, 3])
@pytest.mark.parametrize("symmetric", [True, False])
def test_layers_equal_the_loop_with_gradients(n_layers, symmetric):
    a, (u, i) = adjacency(symmetric), tables()
    truth = stacked(a, torch.cat((u, i)), n_layers).split((USERS, ITEMS))
    want = torch.autograd.grad(truth[0].sin().sum() + truth[1].square().sum(), (u, i))
    whole = lightgcn_layers(a, torch.cat((u, i)), n_layers).split((USERS, ITEMS))
    for found in (
        whole,
        lightgcn_layers(a, (u, i), n_layers),
        lightgcn_layers(Adjacency.from_torch(a), (u, i), n_layers),
    ):
        torch.testing.assert_close(found, truth)
        got = torch.autograd.grad(found[0].sin().sum() + found[1].square().sum(), (u, i))
        torch.testing.assert_close(got, want)


def test_layers_follow_a_matrix_that_changes():
    a, pair = adjacency(), tuple(tables())
    before = lightgcn_layers(a, pair, 2)[0]
    a._values().mul_(2)
    torch.testing.assert_close(lightgcn_layers(a, pair, 2)[0], stacked(a, torch.cat(pair), 2)[:USERS])
    assert not torch.allclose(lightgcn_layers(a, pair, 2)[0], before)


def test_a_matrix_first_seen_in_inference_mode_serves_training():
    a, pair = adjacency(), tuple(tables())
    with torch.inference_mode():
        evaluated = lightgcn_layers(a, pair, 2)[0]
    trained = lightgcn_layers(a, pair, 2)[0]
    trained.sum().backward()
    torch.testing.assert_close(evaluated, trained.detach())


def test_layers_refuse_other_shapes():
    a, (u, i) = adjacency(), tables()
    with pytest.raises(ValueError, match="the embeddings have 30 rows"):
        lightgcn_layers(a, u, 2)
    with pytest.raises(ValueError, match="must not be negative"):
        lightgcn_layers(a, (u, i), -1)


def test_losses_of_gathered_rows():
    u, i = tables()
    users, pos, neg = (torch.randint(0, n, (50,)) for n in (USERS, ITEMS, ITEMS))
    assert torch.autograd.gradcheck(lambda u, i: bpr_margins(u, i, users, pos, neg), (u, i))
    assert torch.autograd.gradcheck(lambda i: row_squares(i, pos, neg), (i,))
    torch.testing.assert_close(bpr_margins(u, i, users, pos, neg), (u[users] * (i[pos] - i[neg])).sum(1))
    torch.testing.assert_close(row_squares(i, pos, neg), (i[pos].square().sum(), i[neg].square().sum()))


@pytest.mark.parametrize("n", [3, 21, 64, 1000])
@pytest.mark.parametrize("density", [0.0, 0.6])
def test_negatives_are_the_draws_of_random_sample(n, density):
    population = list(range(100, 100 + n))
    users = [user % 11 for user in range(200)]
    seen = {u: frozenset(x for x in population[1:] if (x * 7 + u) % 10 < 10 * density) for u in range(11)}
    random.seed(5)
    want = []
    for user in users:
        item = random.sample(population, 1)[0]
        while item in seen[user]:
            item = random.sample(population, 1)[0]
        want.append(item)
    after = random.random()
    random.seed(5)
    assert chosen_negatives(population, users, seen) == want
    assert random.random() == after


def test_no_user_draws_nothing():
    random.seed(1)
    before = random.getstate()
    assert chosen_negatives([1, 2], [], {}) == []
    assert random.getstate() == before


def uniform_triples(lists, n_items, n):
    """LightGCN-PyTorch's sampler, a draw at a time."""
    found = []
    for user in np.random.randint(0, len(lists), n):
        if len(lists[user]):
            positive = lists[user][np.random.randint(0, len(lists[user]))]
            while (negative := np.random.randint(0, n_items)) in lists[user]:
                pass
            found.append([user, positive, negative])
    return np.array(found)


def test_triples_are_the_draws_of_the_loop():
    lists = [row.indices for row in interactions()]
    np.random.seed(3)
    want = uniform_triples(lists, ITEMS, 400)
    after = np.random.random()
    np.random.seed(3)
    np.testing.assert_array_equal(UniformTriples(lists, ITEMS).sample(400), want)
    assert np.random.random() == after
    with pytest.raises(ValueError, match="user 1 has interacted with all 2 items"):
        UniformTriples([[0], [0, 1]], 2)


def test_which_optimizers_can_be_fused():
    p = nn.Parameter(torch.ones(3))
    assert fusable(torch.optim.Adam([p])) is None
    assert "SGD" in fusable(torch.optim.SGD([p]))
    stepped = torch.optim.Adam([p])
    p.grad = torch.ones(3)
    stepped.step()
    assert "already made a step" in fusable(stepped)


# --- LightGCN-PyTorch -------------------------------------------------------------------------------------------------
class LightGCN(nn.Module):
    """A client with that code's names."""

    def __init__(self):
        super().__init__()
        self.config, self.n_layers, self.num_users, self.num_items = {"dropout": 0}, 2, USERS, ITEMS
        self.embedding_user, self.embedding_item = nn.Embedding(USERS, D), nn.Embedding(ITEMS, D)
        self.Graph = adjacency().float()

    def computer(self):
        x = torch.cat((self.embedding_user.weight, self.embedding_item.weight))
        return stacked(self.Graph, x, self.n_layers).split((USERS, ITEMS))

    def getUsersRating(self, users):
        u, i = self.computer()
        return (u[users] @ i.T).sigmoid()

    def bpr_loss(self, users, pos, neg):
        u, i = self.computer()
        ego = self.embedding_user(users), self.embedding_item(pos), self.embedding_item(neg)
        squares = sum(x.norm(2).pow(2) for x in ego) / 2 / len(users)
        return F.softplus((u[users] * i[neg]).sum(1) - (u[users] * i[pos]).sum(1)).mean(), squares


def client():
    """(Procedure, model, bpr, dataset) of LightGCN-PyTorch, in our own words."""
    torch.manual_seed(0)
    model, r = LightGCN(), interactions()
    lists = [row.indices for row in r]
    coo = r.tocoo()
    dataset = SimpleNamespace(
        n_users=USERS, m_items=ITEMS, allPos=lists, trainUser=coo.row, trainItem=coo.col, trainDataSize=r.nnz
    )
    dataset.getUserPosItems = lambda users: [lists[user] for user in users]
    dataset.testDict = {user: [(user * 5) % ITEMS, (user * 3 + 1) % ITEMS] for user in range(0, USERS, 2)}
    utils = ModuleType("utils")

    def UniformSample_original(dataset, neg_ratio=1):
        return uniform_triples(dataset.allPos, dataset.m_items, dataset.trainDataSize)

    def shuffle(*arrays, **kwargs):
        order = np.arange(len(arrays[0]))
        np.random.shuffle(order)
        result = arrays[0][order] if len(arrays) == 1 else tuple(x[order] for x in arrays)
        return (result, order) if kwargs.get("indices") else result

    def test(dataset, Recmodel, epoch, w=None, multicore=0):
        users, ks = list(dataset.testDict), [3, 10]
        scores = Recmodel.eval().getUsersRating(torch.tensor(users)).detach()
        for row, items in zip(scores, dataset.getUserPosItems(users), strict=True):
            row[torch.as_tensor(items).long()] = -1024.0
        best = scores.topk(max(ks)).indices.tolist()
        found = {name: np.zeros(len(ks)) for name in ("precision", "recall", "ndcg")}
        for user, row in zip(users, best, strict=True):
            truth = dataset.testDict[user]
            for at, k in enumerate(ks):
                gains = [(item in truth) / np.log2(rank + 2) for rank, item in enumerate(row[:k])]
                hits = sum(item in truth for item in row[:k])
                found["precision"][at] += hits / k / len(users)
                found["recall"][at] += hits / len(truth) / len(users)
                ideal = sum(1 / np.log2(rank + 2) for rank in range(min(k, len(truth))))
                found["ndcg"][at] += sum(gains) / ideal / len(users)
        return found

    utils.UniformSample_original, utils.shuffle = UniformSample_original, shuffle
    world = SimpleNamespace(topks=[3, 10], tensorboard=False)
    procedure = SimpleNamespace(utils=utils, world=world, Test=test)
    return procedure, model, SimpleNamespace(opt=torch.optim.Adam(model.parameters(), lr=0.01)), dataset


def test_lightgcn_pytorch_is_understood_in_every_part():
    procedure, model, bpr, dataset = client()
    state = np.random.get_state()[1].tolist()
    report = lightgcn_pytorch.accelerate(procedure, model, bpr, dataset, strict=True)
    assert report.patched == list(lightgcn_pytorch.PARTS)
    assert np.random.get_state()[1].tolist() == state
    assert bpr.opt.param_groups[0]["fused"]
    assert str(report).splitlines()[0] == "computer: patched"
    report.restore()
    assert "computer" not in vars(model)


def squared_margins(self, users, pos, neg):
    loss, squares = LightGCN.bpr_loss(self, users, pos, neg)
    return loss * 1.01, squares


def last_layer(self):
    x = torch.cat((self.embedding_user.weight, self.embedding_item.weight))
    return torch.sparse.mm(self.Graph, x).split((USERS, ITEMS))


@pytest.mark.parametrize("part, function", [("bpr_loss", squared_margins), ("computer", last_layer)])
def test_a_part_of_a_fork_that_differs_is_not_replaced(part, function):
    procedure, _, _, dataset = client()
    fork = type("Fork", (LightGCN,), {part: function})()
    bpr = SimpleNamespace(opt=torch.optim.SGD(fork.parameters(), lr=0.1))
    with pytest.warns(UserWarning, match=f"not replaced in Fork: .*{part}"):
        report = lightgcn_pytorch.accelerate(procedure, fork, bpr, dataset)
    assert part in report.differs and "optimizer" in report.differs
    with pytest.raises(ValueError, match="not every part of Fork"):
        lightgcn_pytorch.accelerate(procedure, fork, bpr, dataset, strict=True)


def test_another_sampler_and_evaluation_are_not_replaced():
    procedure, model, bpr, dataset = client()
    own = procedure.Test
    procedure.Test = lambda *args: {key: value * 0.99 for key, value in own(*args).items()}
    procedure.utils.UniformSample_original = lambda dataset, neg_ratio=1: np.zeros((dataset.trainDataSize, 3), int)
    with pytest.warns(UserWarning, match="not replaced in"):
        report = lightgcn_pytorch.accelerate(procedure, model, bpr, dataset)
    assert set(report.differs) == {"UniformSample_original", "Test"}


class NoisyInTraining(LightGCN):
    def computer(self):
        u, i = super().computer()
        return (u + 0.1, i) if self.training else (u, i)


class Optional(LightGCN):
    def computer(self, perturbed=False):
        u, i = super().computer()
        return (u + 1, i) if perturbed else (u, i)


class Remembers(LightGCN):
    losses, steps = (), 0

    def bpr_loss(self, users, pos, neg):
        found = super().bpr_loss(users, pos, neg)
        self.last = found[0].detach()
        return found


class Appends(Remembers):
    def __init__(self):
        super().__init__()
        self.losses = []

    def bpr_loss(self, users, pos, neg):
        found = LightGCN.bpr_loss(self, users, pos, neg)
        self.losses.append(float(found[0].detach()))
        return found


class Counts(LightGCN):
    def __init__(self):
        super().__init__()
        self.register_buffer("steps", torch.zeros(()))

    def bpr_loss(self, users, pos, neg):
        self.steps += 1
        return super().bpr_loss(users, pos, neg)


class Untrained(LightGCN):
    """An item bias that is zero before the first step."""

    def __init__(self):
        super().__init__()
        self.bias = nn.Parameter(torch.zeros(ITEMS))

    def getUsersRating(self, users):
        return super().getUsersRating(users) + self.bias


class NoSetting(LightGCN):
    def __init__(self):
        super().__init__()
        self.config = {}


HOSTILE = {
    NoisyInTraining: ("computer", "result 1: entries differ"),
    Optional: ("computer", "has a parameter 'perturbed' that the replacement lacks"),
    Remembers: ("bpr_loss", "sets model.last, which the replacement does not set"),
    Appends: ("bpr_loss", "sets model.losses, which the replacement does not set"),
    Counts: ("bpr_loss", "sets model.buffers, which the replacement does not set"),
    Untrained: ("Test", "entries differ"),
    NoSetting: ("computer", "the replacement raised KeyError: 'dropout'"),
}


@pytest.mark.parametrize("kind", HOSTILE)
def test_what_would_fail_or_differ_later_is_found_at_the_beginning(kind):
    procedure, _, _, dataset = client()
    fork, (part, reason) = kind(), HOSTILE[kind]
    before = {name: (x, x.clone() if isinstance(x, torch.Tensor) else x) for name, x in fork.state_dict().items()}
    names = list(vars(fork))
    with pytest.warns(UserWarning, match="not replaced in"):
        report = lightgcn_pytorch.accelerate(
            procedure, fork, SimpleNamespace(opt=None), dataset, ["computer", "bpr_loss", "Test"]
        )
    assert reason in report.differs[part]
    report.restore()
    assert all(torch.equal(x, kept) for x, kept in before.values()), "parameters and buffers are what they were"
    assert list(vars(fork)) == names and not getattr(fork, "losses", ()) and fork.training


def test_replacements_follow_another_dataset_and_another_split_graph():
    procedure, model, bpr, dataset = client()
    whole = model.Graph
    model.Graph = [*(whole.to_dense()[rows].to_sparse() for rows in (slice(0, 40), slice(40, None)))]
    model.computer = lambda: stacked(
        torch.cat([*model.Graph]), torch.cat((model.embedding_user.weight, model.embedding_item.weight)), 2
    ).split((USERS, ITEMS))
    lightgcn_pytorch.accelerate(procedure, model, bpr, dataset, ["computer", "UniformSample_original"], strict=True)
    model.Graph = [fold * 2 for fold in model.Graph]
    torch.testing.assert_close(
        model.computer(), stacked(2 * whole, torch.cat([*model.parameters()]), 2).split((USERS, ITEMS))
    )
    other = SimpleNamespace(**vars(dataset) | {"allPos": [[3]] * USERS})
    assert (procedure.utils.UniformSample_original(other)[:, 1] == 3).all()


def test_unknown_parts_are_refused():
    for module, arguments in ((lightgcn_pytorch, (None,) * 4), (mmrec, (None,) * 3)):
        with pytest.raises(ValueError, match="got nothing_of_the_kind"):
            module.accelerate(*arguments, ["nothing_of_the_kind"])
