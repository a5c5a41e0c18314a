"""The heart of each system, its losses and their gradients, against plain PyTorch in float64."""

import pytest
import torch
import torch.nn.functional as F
from mmssl_trainer.systems.base import Batch
from plain_systems import (
    TRIPLES,
    agrees,
    both,
    bpr,
    built,
    contrast,
    dense,
    double,
    layer_mean,
    terms_agree,
)

from mmssl_fast import propagate


def dense_views(system):
    """The views of this epoch [U, I]."""
    ones = torch.eye(system.model.graph.n_items).double()
    return [propagate(view, ones, norm="none") for view in system.model.views()]


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
    whole, views = dense(data.train), dense_views(system)
    assert all((view <= whole).all() and 0.6 < view.sum() / whole.sum() < 0.8 for view in views)
    assert not torch.equal(*views)
    own = double(system.model)
    sides = [layer_mean(both(view), own["users"], own["items"], 2) for view in views]
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


def test_mmgcl_terms_and_their_gradients(data):
    system = built(data, "mmgcl", mmgcl__drop=0.3)
    own = double(system.model)
    linear = [F.linear(own[f"features_{m}"], own[f"project.{m}.weight"], own[f"project.{m}.bias"]) for m in range(2)]
    users = own["users"], *(own[f"preferences.{m}"] for m in range(2))
    starts = list(zip(users, (own["items"], *linear), strict=True))
    whole = [layer_mean(both(dense(data.train)), *start, 2) for start in starts]
    torch.manual_seed(3)
    masked = 1 + int(torch.randint(2, ()))
    views = [layer_mean(both(view), *start, 2) for view, start in zip(dense_views(system), starts, strict=True)]
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
