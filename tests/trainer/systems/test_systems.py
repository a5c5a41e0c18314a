"""The systems that MMSSL is compared with: what they learn, and the heart of each against plain PyTorch."""

from copy import deepcopy

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from mmssl_trainer import systems
from mmssl_trainer.config.load import load
from mmssl_trainer.data import Dataset, synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.systems.base import Batch
from mmssl_trainer.systems.ncl import cluster_rows
from mmssl_trainer.training.loop import fit

from mmssl_fast.graph import InteractionGraph

BASELINES = sorted({*systems.SYSTEMS} - {"mmssl", "popularity", "svd"})
WITH_FEATURES = {"vbpr", "lightgcn_m", "mmgcn", "grcn", "lattice", "clcrec", "mmgcl", "slmrec"}


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=150, n_items=100, modalities={"image": 8, "text": 6}, mean_degree=16)


def configured(system, **values):
    chosen = {
        "model.system": system,
        "model.dim": 16,
        "train.epochs": 8,
        "train.batch": 256,
        "train.threads": 1,
        "optimiser.lr": 0.05,
        "train.sample_over": "interactions",
        "evaluate.ks": [20],
    }
    chosen |= {name.replace("__", "."): value for name, value in values.items()}
    return load(None, {name: (value, "test") for name, value in chosen.items()})


def built(data, name, **values):
    torch.manual_seed(5)
    system = systems.create(name)
    system.build(data, InteractionGraph.from_scipy(data.train), configured(name, **values))
    system.start_epoch(1)
    return system


def double(module):
    """Its parameters and features by name, float64, as leaves."""
    named = {name: value.detach().double().requires_grad_() for name, value in module.named_parameters()}
    return named | {name: value.double() for name, value in module.named_buffers() if value.is_floating_point()}


def dense(matrix):
    return torch.from_numpy(matrix.toarray()).double()


def both(adjacency):
    """Scaled by 1/sqrt of both degrees."""
    rows, columns = (adjacency.sum(axis).clamp(min=1).rsqrt() for axis in (1, 0))
    return rows[:, None] * adjacency * columns


def layer_mean(adjacency, users, items, layers):
    kept = [(users, items)]
    for _ in range(layers):
        kept.append((adjacency @ kept[-1][1], adjacency.T @ kept[-1][0]))
    return tuple(sum(layer[side] for layer in kept) / (layers + 1) for side in (0, 1))


TRIPLES = torch.tensor([0, 5, 9, 0]), torch.tensor([1, 2, 3, 4]), torch.tensor([7, 8, 2, 4])


def bpr(users, items):
    anchors, positives, negatives = TRIPLES
    return -F.logsigmoid((users[anchors] * (items[positives] - items[negatives])).sum(1)).mean()


def agrees(system, users, items, parameters):
    """The system's embeddings and the gradients of its BPR term are those of the plain expression."""
    found = system.model()
    for ours, plain in zip(found, (users, items), strict=True):
        torch.testing.assert_close(ours.double(), plain, rtol=2e-4, atol=2e-6)
    system.model.terms(Batch(*TRIPLES, 0))["bpr"].backward()
    bpr(users, items).backward()
    for name, parameter in system.model.named_parameters():
        if parameters[name].grad is not None:
            torch.testing.assert_close(parameter.grad.double(), parameters[name].grad, rtol=2e-3, atol=2e-7)


def contrast(h, e, anchors, tau=0.2):
    """infonce(h, e, anchors, tau, exclude_self=True)."""
    h, e = F.normalize(h, dim=1), F.normalize(e, dim=1)
    logits = torch.cat([e[anchors] @ h.T, e[anchors] @ e.T], 1) / tau
    own = F.one_hot(len(h) + anchors, 2 * len(h)).bool()
    return F.cross_entropy(logits.masked_fill(own, -torch.inf), anchors)


def terms_agree(system, own, seed, **expected):
    """The terms of a step drawn with this seed, and their sum's gradients, are those of the plain expressions."""
    torch.manual_seed(seed)
    found = system.model.terms(Batch(*TRIPLES, 0))
    assert list(found) == list(expected)
    for name, plain in expected.items():
        assert found[name].item() == pytest.approx(plain.item(), rel=1e-5), name
    sum(found.values()).backward()
    sum(expected.values()).backward()
    for name, parameter in system.model.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), own[name].grad, rtol=2e-3, atol=1e-7)


# --- all of them -----------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("name", BASELINES)
def test_learns_more_than_popularity(data, name):
    slower = {"optimiser__lr": 0.02, "train__epochs": 16} if name == "hccf" else {}  # 0.05 is too much for it
    fitted, popular = fit(data, configured(name, **slower)), fit(data, configured("popularity"))
    test = [split_metrics(one.users, one.items, data, "test", [20])["recall@20"] for one in (fitted, popular)]
    assert fitted.best > 1.5 * popular.best and test[0] > 1.5 * test[1], (fitted.best, popular.best, test)


@pytest.mark.parametrize("name", BASELINES)
def test_same_seed_same_bits_and_a_state_is_all_there_is(data, name):
    """Two equal runs agree to the bit; so does a new system that takes over another's state and optimiser."""
    batch = Batch(torch.arange(60), torch.arange(60), torch.arange(60) + 9, 0)
    first, second = (built(data, name) for _ in range(2))
    for one in (first, second):
        torch.manual_seed(6)  # of dropout; a checkpoint holds the generator's state
        one.step(batch)
    assert all(torch.equal(a, b) for a, b in zip(first.embeddings(), second.embeddings(), strict=True))
    torch.manual_seed(99)
    other = systems.create(name)
    other.build(data, first.model.graph, configured(name))
    other.load_state({key: value.clone() for key, value in first.state().items()})
    other.optimisers["adamw"].load_state_dict(deepcopy(first.optimisers["adamw"].state_dict()))
    losses = []
    for one in (first, other):
        torch.manual_seed(7)
        losses.append(one.step(batch._replace(step=1)))
    assert {key: value.item() for key, value in losses[0].items()} == {k: v.item() for k, v in losses[1].items()}
    assert all(torch.equal(a, b) for a, b in zip(first.embeddings(), other.embeddings(), strict=True))


@pytest.mark.parametrize("name", sorted(WITH_FEATURES))
def test_features_are_needed(data, name):
    with pytest.raises(InputError, match=f"{name} needs features"):
        fit(Dataset(**{**vars(data), "features": {}}), configured(name))


# --- the heart of each -----------------------------------------------------------------------------------------------
def test_mf_and_its_gradient(data):
    system = built(data, "mf")
    own = double(system.model)
    agrees(system, own["users"], own["items"], own)


def test_vbpr_and_its_gradient(data):
    system = built(data, "vbpr", model__dim=7, model__heads=1)
    own = double(system.model)
    seen = own["features"]
    users, items = own["users"], own["items"]
    score = users[:, :3] @ items.T + users[:, 3:] @ (seen @ own["project.weight"].T).T
    score = score + (own["item_bias"] + seen @ own["feature_bias"]).T
    ours = system.embeddings()
    torch.testing.assert_close((ours[0] @ ours[1].T).double(), score, rtol=1e-4, atol=1e-5)
    h_u = torch.cat([users, users.new_ones(len(users), 1)], 1)
    h_i = torch.cat([items, seen @ own["project.weight"].T, own["item_bias"] + seen @ own["feature_bias"]], 1)
    agrees(system, h_u, h_i, own)


def test_lightgcn_m_and_its_gradient(data):
    system = built(data, "lightgcn_m")
    own = double(system.model)
    start = own["items"] + own["features"] @ own["project.weight"].T
    agrees(system, *layer_mean(both(dense(data.train)), own["users"], start, 2), own)


def test_lattice_and_its_gradient(data):
    system = built(data, "lattice", lattice__neighbours=5, lattice__layers=2, lattice__keep=0.6)
    own = double(system.model)
    mixture = own["mixture"].softmax(0)

    def graph(x, near):
        unit = F.normalize(x, dim=1)
        adjacency = torch.zeros(len(x), len(x), dtype=x.dtype).scatter(1, near, 1.0) * (unit @ unit.T).clamp(min=0)
        degree = adjacency.sum(1).rsqrt()
        return degree[:, None] * adjacency * degree

    mixed = 0
    for m in range(2):
        raw = own[f"features_{m}"]
        learnt = raw @ own[f"project.{m}.weight"].T + own[f"project.{m}.bias"]
        near = [(F.normalize(x, dim=1) @ F.normalize(x, dim=1).T).topk(5).indices for x in (raw, learnt.detach())]
        mixed = mixed + mixture[m] * (0.6 * graph(raw, near[0]) + 0.4 * graph(learnt, near[1]))
    over = F.normalize(mixed @ mixed @ own["items"], dim=1)
    users, items = layer_mean(both(dense(data.train)), own["users"], own["items"], 2)
    agrees(system, users, items + over, own)


def test_mmgcn_and_its_gradient(data):
    system = built(data, "mmgcn")
    own = double(system.model)
    adjacency = dense(data.train)
    means = [one / one.sum(1, keepdim=True).clamp(min=1) for one in (adjacency, adjacency.T)]
    outputs = []
    for m in range(2):
        linear = F.linear(own[f"features_{m}"], own[f"project.{m}.weight"], own[f"project.{m}.bias"])
        x = F.normalize(own[f"preferences.{m}"], dim=1), F.normalize(linear, dim=1)
        for at in range(2):
            gather, keep = (
                [own[f"{part}.{m}.{at}.{kind}"] for kind in ("weight", "bias")] for part in ("gather", "keep")
            )
            x = tuple(
                F.leaky_relu(F.linear(mean @ x[1 - side], *gather) + F.leaky_relu(F.linear(x[side], *keep)) + ids)
                for side, (mean, ids) in enumerate(zip(means, (own["users"], own["items"]), strict=True))
            )
        outputs.append(x)
    agrees(system, *((outputs[0][side] + outputs[1][side]) / 2 for side in (0, 1)), own)


def test_sgl_contrast(data):
    """Both sides' contrast on dense dropped graphs, and its gradient."""
    system = built(data, "sgl", sgl__drop=0.3)
    kept = system.model.kept
    assert 0.6 < kept.float().mean() < 0.8 and not torch.equal(kept[0], kept[1])
    own = double(system.model)
    row, column = data.train.nonzero()
    sides = []
    for mask in kept.numpy():
        adjacency = torch.zeros(data.n_users, data.n_items, dtype=torch.float64)
        adjacency[row[mask], column[mask]] = 1.0
        sides.append(layer_mean(both(adjacency), own["users"], own["items"], 2))
    loss = 0
    for side, anchors in enumerate(TRIPLES[:2]):
        first, second = (F.normalize(view[side], dim=1) for view in sides)
        logits = torch.cat([first[anchors] @ second.T, first[anchors] @ first.T], 1) / 0.2
        logits[torch.arange(4), len(first) + anchors] = -torch.inf
        loss = loss + F.cross_entropy(logits, anchors)
    loss = 0.1 * loss
    found = system.model.terms(Batch(*TRIPLES, 0))["contrastive"]
    assert found.item() == pytest.approx(loss.item(), rel=1e-5)
    found.backward()
    loss.backward()
    for name in ("users", "items"):
        ours = getattr(system.model, name).grad.double()
        torch.testing.assert_close(ours, own[name].grad, rtol=1e-3, atol=1e-7)


def test_ngcf_and_its_gradient(data):
    """With dropout off, since masks have no plain counterpart."""
    system = built(data, "ngcf")
    system.model.eval()
    own, adjacency = double(system.model), both(dense(data.train))
    x = own["users"], own["items"]
    layers = [x]
    for at in range(2):
        near = adjacency @ x[1], adjacency.T @ x[0]
        x = tuple(
            F.leaky_relu(
                F.linear(e + a, own[f"sums.{at}.weight"], own[f"sums.{at}.bias"])
                + F.linear(a * e, own[f"products.{at}.weight"], own[f"products.{at}.bias"]),
                0.2,
            )
            for e, a in zip(x, near, strict=True)
        )
        layers.append(tuple(F.normalize(side, dim=1) for side in x))
    agrees(system, *(torch.cat(side, 1) for side in zip(*layers, strict=True)), own)


def test_hccf_and_its_gradients(data):
    """The embeddings, both sides' contrast, and its gradient, which reaches the hyperedges."""
    system = built(data, "hccf", hccf__edges=12)
    own, adjacency = double(system.model), both(dense(data.train))
    x, contrast = (own["users"], own["items"]), 0
    total = x
    shares = x[0] @ own["user_edges"], x[1] @ own["item_edges"]
    for _ in range(2):
        local = F.leaky_relu(adjacency @ x[1]), F.leaky_relu(adjacency.T @ x[0])
        wide = tuple(F.leaky_relu(h @ F.leaky_relu(h.T @ e)) for h, e in zip(shares, x, strict=True))
        for z, g, anchors in zip(local, wide, TRIPLES, strict=False):
            z, g = F.normalize(z, dim=1), F.normalize(g, dim=1)
            logits = torch.cat([z[anchors] @ g.T, z[anchors] @ z.T], 1) / 0.2
            logits[torch.arange(4), len(z) + anchors] = -torch.inf
            contrast = contrast + F.cross_entropy(logits, anchors)
        x = tuple(z + g + e for z, g, e in zip(local, wide, x, strict=True))
        total = tuple(t + e for t, e in zip(total, x, strict=True))
    found = system.model.terms(Batch(*TRIPLES, 0))["contrastive"]
    assert found.item() == pytest.approx(0.01 * contrast.item(), rel=1e-5)
    found.backward()
    (0.01 * contrast).backward(retain_graph=True)
    for name, parameter in system.model.named_parameters():
        torch.testing.assert_close(parameter.grad.double(), own[name].grad, rtol=2e-3, atol=1e-7)
        parameter.grad = own[name].grad = None
    agrees(system, *total, own)


def test_ncl_terms_and_their_gradients(data):
    system = built(data, "ncl", ncl__clusters=6, ncl__warm_up=0)
    own, adjacency, tau = double(system.model), both(dense(data.train)), 0.1
    users, items = own["users"], own["items"]
    structure = contrast(users, adjacency @ (adjacency.T @ users), TRIPLES[0], tau)
    structure = structure + contrast(items, adjacency.T @ (adjacency @ items), TRIPLES[1], tau)
    prototypes = 0
    for x, side, anchors in ((users, "user", TRIPLES[0]), (items, "item", TRIPLES[1])):
        centres, cluster = own[f"{side}_centres"], getattr(system.model, f"{side}_cluster")
        score = F.normalize(x, dim=1) @ centres.T
        assert torch.equal(score.argmax(1), cluster) and cluster.unique().numel() > 1
        prototypes = prototypes + F.cross_entropy(score[anchors] / tau, cluster[anchors])
    ranking = bpr(*layer_mean(adjacency, users, items, 2))
    terms_agree(system, own, 1, bpr=ranking, contrastive=4e-4 * structure, prototypes=3e-4 * prototypes)


def test_grcn_and_its_gradient(data):
    """With confidences of either sign, so that edges are pruned."""
    system = built(data, "grcn")
    for name in ("user_confidence", "item_confidence"):
        torch.nn.init.normal_(getattr(system.model, name))
    own, adjacency = double(system.model), dense(data.train)

    def shares(p, f, side):
        weights = adjacency * (p @ f.T).exp()
        return weights / weights.sum(side, keepdim=True).clamp(min=1e-9)

    parts, to_users, to_items = [], [], []
    for m in range(2):
        linear = F.linear(own[f"features_{m}"], own[f"project.{m}.weight"], own[f"project.{m}.bias"])
        f, p = F.normalize(F.leaky_relu(linear), dim=1), F.normalize(own[f"prototypes.{m}"], dim=1)
        for _ in range(3):
            p = F.normalize(p + shares(p, f, 1) @ f, dim=1)
        by_user, by_item = shares(p, f, 1), shares(p, f, 0)
        parts.append((p + F.leaky_relu(by_user @ f), f + F.leaky_relu(by_item.T @ p)))
        to_users.append(by_user * own["item_confidence"][:, m])
        to_items.append(by_item * own["user_confidence"][:, m, None])
    to_users, to_items = (torch.stack(one).amax(0).relu() for one in (to_users, to_items))
    assert 0.1 < (to_users[adjacency > 0] == 0).double().mean() < 0.4
    x = F.normalize(own["users"], dim=1), F.normalize(own["items"], dim=1)
    total = x
    for _ in range(2):
        x = F.leaky_relu(to_users @ x[1]), F.leaky_relu(to_items.T @ x[0])
        total = tuple(t + e for t, e in zip(total, x, strict=True))
    agrees(system, *(torch.cat(side, 1) for side in zip(total, *parts, strict=True)), own)


def test_clcrec_terms_and_their_gradients(data):
    system = built(data, "clcrec", clcrec__weight=0.3, clcrec__tau=0.7, clcrec__share=0.4)
    own = double(system.model)
    seen = F.linear(own["features"], own["encoder.0.weight"], own["encoder.0.bias"])
    seen = F.linear(F.leaky_relu(seen), own["encoder.2.weight"], own["encoder.2.bias"])
    torch.manual_seed(3)
    stand_in, ranking = (torch.rand(8) < 0.4).tolist(), 0
    assert {*stand_in} == {True, False}
    for at, (user, positive) in enumerate(zip(*TRIPLES[:2], strict=True)):
        places = [at, *(4 + other for other in range(4) if TRIPLES[2][other] != positive)]
        chosen = [(seen if stand_in[place] else own["items"])[torch.cat(TRIPLES[1:])[place]] for place in places]
        ranking = ranking - F.log_softmax(torch.stack(chosen) @ own["users"][user] / 0.7, 0)[0] / 4
    contrastive = contrast(seen, own["items"], TRIPLES[1], 0.7)
    terms_agree(system, own, 3, ranking=0.7 * ranking, contrastive=0.3 * contrastive)


def test_clcrec_knows_unknown_items_by_their_features(data):
    train = data.train.tolil()
    train[:, 3] = 0
    system = built(Dataset(**{**vars(data), "train": train.tocsr()}), "clcrec")
    items, seen, rest = system.embeddings()[1], system.cold_items(), torch.arange(data.n_items) != 3
    assert torch.equal(items[3], seen[3]) and torch.equal(items[rest], system.model.items.detach()[rest])


def test_mmgcl_terms_and_their_gradients(data):
    system = built(data, "mmgcl", mmgcl__drop=0.3)
    own, kept = double(system.model), system.model.kept
    linear = [F.linear(own[f"features_{m}"], own[f"project.{m}.weight"], own[f"project.{m}.bias"]) for m in range(2)]
    users = own["users"], *(own[f"preferences.{m}"] for m in range(2))
    starts = list(zip(users, (own["items"], *linear), strict=True))
    whole = [layer_mean(both(dense(data.train)), *start, 2) for start in starts]
    torch.manual_seed(3)
    masked, views = 1 + int(torch.randint(2, ())), []
    row, column = data.train.nonzero()
    for mask, start in zip(kept.numpy(), starts, strict=True):
        adjacency = torch.zeros(data.n_users, data.n_items, dtype=torch.float64)
        adjacency[row[mask], column[mask]] = 1.0
        views.append(layer_mean(both(adjacency), *start, 2))
    loss = 0
    for side in (0, 1):
        shown = sum(part[side] for at, part in enumerate(whole) if at != masked)
        loss = loss + contrast(shown, sum(part[side] for part in views), TRIPLES[side])
    ranking = bpr(*(sum(side) for side in zip(*whole, strict=True)))
    terms_agree(system, own, 3, bpr=ranking, contrastive=0.01 * loss)


def test_slmrec_terms_and_their_gradients(data):
    """With dropout off, since masks have no plain counterpart."""
    system = built(data, "slmrec", slmrec__drop=0.0)
    own, adjacency = double(system.model), both(dense(data.train))
    linear = [F.linear(own[f"features_{m}"], own[f"project.{m}.weight"], own[f"project.{m}.bias"]) for m in range(2)]

    def embedded(hidden=None):
        starts = [x * (at != hidden) for at, x in enumerate((own["items"], *linear))]
        outputs = [layer_mean(adjacency, own["users"], start, 2) for start in starts]
        users, items = (torch.cat(side, 1) for side in zip(*outputs, strict=True))
        fused = (
            F.linear(x, own[f"{side}_fusion.weight"], own[f"{side}_fusion.bias"])
            for x, side in ((users, "user"), (items, "item"))
        )
        return tuple(fused), [items for _, items in outputs]

    (users, items), (space, *modalities) = embedded()
    torch.manual_seed(3)
    first, second = (embedded(hidden)[0] for hidden in torch.randperm(3)[:2].tolist())
    masking = sum(contrast(second[side], first[side], TRIPLES[side]) for side in (0, 1))
    alignment = 0
    for m, x in enumerate(modalities):
        space, x = (
            F.linear(value, own[f"{part}.{m}.weight"], own[f"{part}.{m}.bias"])
            for value, part in ((space, "coarse"), (x, "fine"))
        )
        alignment = alignment + contrast(x, space, TRIPLES[1])
    terms_agree(system, own, 3, bpr=bpr(users, items), masking=0.1 * masking, alignment=0.1 * alignment)


def test_ncl_has_no_clusters_before_its_warm_up_is_over(data):
    system = built(data, "ncl", ncl__clusters=6, ncl__warm_up=1)
    assert system.model.terms(Batch(*TRIPLES, 0))["prototypes"] == 0
    centres = []
    for epoch in (2, 3):
        system.start_epoch(epoch)
        assert system.model.terms(Batch(*TRIPLES, 0))["prototypes"] > 0
        centres.append(system.model.user_centres.clone())
    assert not torch.equal(*centres)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_ncl_clusters_are_those_of_points_that_lie_apart(k):
    """Also for as many clusters as rows, and rows of zeros, which belong to some cluster."""
    torch.manual_seed(0)
    x = torch.eye(3, 8).repeat(14, 1)[:40] + 0.01 * torch.randn(40, 8)
    x[39] = 0
    centres = torch.zeros(k, 8)
    cluster = cluster_rows(x, centres)
    assert cluster.shape == (40,) and 0 <= cluster.min() and cluster.max() < k
    assert torch.equal((F.normalize(x[:39], dim=1) @ centres.T).argmax(1), cluster[:39])
    lengths = centres.norm(dim=1)
    assert torch.all((lengths - 1).abs().lt(1e-5) | (lengths == 0))


@pytest.mark.parametrize("name", ["sgl", "mmgcl"])
def test_views_are_drawn_anew_each_epoch(data, name):
    system = built(data, name)
    before = system.model.kept.clone()
    system.start_epoch(2)
    assert not torch.equal(before, system.model.kept)


def test_lattice_reads_its_neighbours_again_each_epoch(data):
    system = built(data, "lattice")
    before = system.model.neighbours.clone()
    torch.nn.init.normal_(system.model.project[0].weight)
    system.start_epoch(2)
    assert not torch.equal(before[0], system.model.neighbours[0]) and torch.equal(before[1], system.model.neighbours[1])


# --- SVD -------------------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("power", [0, 2])
def test_svd_scores_are_the_walks_in_its_strongest_directions(data, power):
    fitted = fit(data, configured("svd", svd__power=power, svd__user_exponent=0.4, svd__item_exponent=0.1))
    a = dense(data.train)
    scaled = a.sum(1, keepdim=True).clamp(min=1) ** -0.4 * a * a.sum(0).clamp(min=1) ** -0.1
    right = torch.linalg.svd(scaled, full_matrices=False)[2]
    walks = torch.linalg.matrix_power(scaled @ scaled.mT, power) @ scaled @ right[:16].mT @ right[:16]
    found = (fitted.users @ fitted.items.mT).double()
    torch.testing.assert_close(F.normalize(found), F.normalize(walks), rtol=1e-4, atol=1e-5)
    assert not fitted.epochs and fitted.best == fitted.val["recall@20"]


def test_svd_knows_weak_directions_and_users_without_items():
    """Three components of the graph, one far stronger: its rounding must not outrank the others' walks."""
    parts = [np.ones((60, 20)), *(np.random.default_rng(s).random((30, 15)) < 0.4 for s in (1, 2)), np.zeros((1, 1))]
    matrix = sp.csr_array(sp.block_diag(parts, dtype=np.float32))
    empty = sp.csr_array(matrix.shape, dtype=np.float32)
    data = Dataset("parts", "made", *matrix.shape, matrix, empty, empty, {})
    values = {"svd__user_exponent": 0.0, "svd__item_exponent": 0.0, "svd__power": 16}
    fitted = fit(data, configured("svd", **values))
    best = (fitted.users @ fitted.items.mT).argmax(1)
    assert all(20 <= i < 35 for i in best[60:90]) and all(35 <= i < 50 for i in best[90:120])
    assert torch.equal(fitted.users[120] @ fitted.items.mT, torch.zeros(51)) and fitted.users.isfinite().all()


def test_svd_with_content_adds_the_likeness_to_a_users_items(data):
    alone, beside = (fit(data, configured("svd", svd__content=weight)) for weight in (0.0, 0.7))

    def by_spread(scores):
        return scores.double() / scores.double().std(1, correction=0, keepdim=True)

    expected = by_spread(alone.users @ alone.items.mT)
    a = dense(data.train)
    for raw in data.features.values():
        raw = torch.from_numpy(raw).double()
        unit = F.normalize((raw - raw.mean(0)) / raw.std(0, correction=0))
        expected += 0.7 * by_spread(a / a.sum(1, keepdim=True) @ unit @ unit.mT)
    torch.testing.assert_close((beside.users @ beside.items.mT).double(), expected, rtol=1e-4, atol=1e-4)


def test_svd_with_content_of_items_all_alike_or_of_users_without_items():
    matrix = (np.random.default_rng(0).random((30, 20)) < 0.3).astype(np.float32)
    matrix[4] = 0
    train, empty = sp.csr_array(matrix), sp.csr_array((30, 20), dtype=np.float32)
    same = np.tile(np.float32([0.1, 0.2, 0.7]), (20, 1))
    alike = same * np.linspace(0.3, 1.7, 20, dtype=np.float32)[:, None]  # of one direction, but for rounding
    without = Dataset("same", "made", 30, 20, train, empty, empty, {})
    values = {"svd__content": 0.5, "model__dim": 8}
    alone = fit(without, configured("svd", **values | {"svd__content": 0.0}))
    for features, standardise in ((same, True), (same, False), (alike, False)):
        data = Dataset("same", "made", 30, 20, train, empty, empty, {"same": features})
        found = fit(data, configured("svd", model__standardise=standardise, **values))
        scores = found.users @ found.items.mT
        assert scores.isfinite().all() and not scores[4].any()
        torch.testing.assert_close(F.normalize(scores), F.normalize(alone.users @ alone.items.mT), rtol=1e-4, atol=1e-5)
    with pytest.raises(InputError, match="svd needs features"):
        fit(without, configured("svd", **values))


def test_svd_ranks_better_than_popularity(data):
    assert fit(data, configured("svd", model__dim=8)).best > 1.1 * fit(data, configured("popularity")).best


def test_svd_refuses_a_rank_that_there_is_not(data):
    with pytest.raises(InputError, match=r"model\.dim = 100 and 150 users, 100 items: set model.dim to 96 or less"):
        fit(data, configured("svd", model__dim=100))
    one = sp.csr_array(np.ones((1, 8), np.float32))
    alone = Dataset("alone", "made", 1, 8, one, 0 * one, 0 * one, {})
    with pytest.raises(InputError, match="1 users, 8 items: there must be at least two of each"):
        fit(alone, configured("svd", model__dim=1, model__heads=1))
