"""mmssl_fast.nn.encoder against a literal dense transcription of the equations in float64."""

import copy
import math
import pickle

import pytest
import torch
from nn_catalogue import EMPTY_ITEM, EMPTY_USER, N_ITEMS, N_USERS, adjacency, catalogue

from mmssl_fast.nn import MMSSL, ModalityAttention
from mmssl_fast.nn.neighbours import neighbour_graph

SETTINGS = {"dim": 8, "heads": 2, "neighbours": 3}


def build(modalities: int = 2, **settings) -> MMSSL:
    graph, features = catalogue(modalities)
    torch.manual_seed(1)
    return MMSSL(graph, features, **(SETTINGS | settings)).double()


def one_sided(a: torch.Tensor) -> torch.Tensor:
    return a / a.sum(1, keepdim=True).clamp(min=1).sqrt()


def unit(x: torch.Tensor) -> torch.Tensor:
    norm = x.norm(dim=1, keepdim=True)
    return torch.where(norm > 0, x / norm.where(norm > 0, 1.0), 0.0)


def dense_attention(views: list[torch.Tensor], module: ModalityAttention) -> torch.Tensor:
    """Eq. 9 node by node, modality by modality, head by head."""
    width = module.dim // module.heads
    out = []
    for n in range(views[0].shape[0]):
        per_modality = []
        for e_m in views:
            heads = []
            for h in range(module.heads):
                part = slice(h * width, (h + 1) * width)
                scores = [
                    (e_m[n] @ module.wq[:, part]) @ (other[n] @ module.wk[:, part]) / math.sqrt(width)
                    for other in views
                ]
                weights = torch.stack(scores).softmax(0)
                heads.append(sum(w * other[n] for w, other in zip(weights, views, strict=True)))
            per_modality.append(torch.cat(heads) @ module.wo)
        out.append(sum(per_modality) / len(views))
    return torch.stack(out)


def dense_encoding(model: MMSSL) -> dict[str, object]:
    """Eq. 2, 8, 9, 10, 12 with dense matrices, dropout off."""
    a = adjacency(model.graph)
    to_users, to_items = one_sided(a), one_sided(a.mT)
    modal_users, modal_items, view_users, view_items = [], [], [], []
    for m, fc in enumerate(model.projections):
        raw = getattr(model, f"features_{m}")
        f_u = to_users @ (raw @ fc.weight.mT + fc.bias)
        modal_users.append(f_u)
        modal_items.append(to_items @ f_u)
        semantic = torch.zeros_like(a)
        similarity = unit(f_u) @ unit(modal_items[-1]).mT
        if model.exclude_seen_neighbours:
            similarity = similarity.masked_fill(a > 0, -math.inf)
        for u in range(N_USERS):
            order = sorted(range(N_ITEMS), key=lambda i: -similarity[u, i].item())
            semantic[u, [i for i in order[: model.neighbours] if similarity[u, i] > -math.inf]] = 1
        view_users.append(one_sided(semantic) @ model.item_embedding)
        view_items.append(one_sided(semantic.mT) @ model.user_embedding)
    users = model.user_embedding + model.eta * unit(dense_attention(view_users, model.attention))
    items = model.item_embedding + model.eta * unit(dense_attention(view_items, model.attention))
    layers = [(users, items)]
    for layer in range(model.layers):
        new_users = to_users @ items
        if model.final_softmax and layer == model.layers - 1:
            new_users = new_users.softmax(1)
            items = (to_items @ new_users).softmax(1)
        else:
            items = to_items @ (new_users if model.final_softmax else users)
        users = new_users
        layers.append((users, items))
    h_u = sum(u for u, _ in layers) / len(layers) + model.omega * sum(unit(f) for f in modal_users)
    h_i = sum(i for _, i in layers) / len(layers) + model.omega * sum(unit(f) for f in modal_items)
    return {
        "users": h_u,
        "items": h_i,
        "modal_users": modal_users,
        "modal_items": modal_items,
        "view_users": view_users,
        "view_items": view_items,
    }


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("final_softmax", [True, False])
@pytest.mark.parametrize("exclude_seen", [True, False])
def test_encoding_equals_the_equations(modalities, final_softmax, exclude_seen):
    model = build(modalities, final_softmax=final_softmax, exclude_seen_neighbours=exclude_seen).eval()
    # The constructor's neighbours came from float32 features; similarities of users without items are all 0: leave
    # them out.
    model.refresh_neighbours()
    known = torch.arange(N_USERS) != EMPTY_USER
    with torch.no_grad():
        encoded, truth = model(), dense_encoding(model)
    for name in ("modal_users", "modal_items", "view_users", "view_items"):
        assert len(getattr(encoded, name)) == modalities
        for got, expected in zip(getattr(encoded, name), truth[name], strict=True):
            torch.testing.assert_close(got, expected, atol=1e-12, rtol=1e-10)
    assert encoded.users.shape == (N_USERS, 8) and encoded.items.shape == (N_ITEMS, 8)
    torch.testing.assert_close(encoded.users[known], truth["users"][known], atol=1e-12, rtol=1e-10)
    torch.testing.assert_close(encoded.items, truth["items"], atol=1e-12, rtol=1e-10)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_layers_count_as_in_the_equations(layers):
    model = build(layers=layers, neighbours=2).eval()
    with torch.no_grad():
        model.refresh_neighbours()
        torch.testing.assert_close(model().items, dense_encoding(model)["items"], atol=1e-12, rtol=1e-10)


def test_norm_both_differs_and_is_symmetric():
    graph, features = catalogue(1)
    a = adjacency(graph)
    scale = a.sum(1, keepdim=True).clamp(min=1).rsqrt(), a.sum(0, keepdim=True).clamp(min=1).rsqrt()
    model = MMSSL(graph, features, norm="both", **SETTINGS).double().eval()
    with torch.no_grad():
        users, _ = model.modality_features()
        projected = model.projections[0](model.features_0)
    torch.testing.assert_close(users[0], (scale[0] * a * scale[1]) @ projected, atol=1e-12, rtol=1e-10)


def test_neighbours_zero_leaves_out_the_views():
    model = build(neighbours=0).eval()
    encoded = model()
    encoded.users.sum().backward()
    assert all(view.abs().max() == 0 for view in encoded.view_users + encoded.view_items)
    assert model.attention.wq.grad is None
    assert model.semantic_neighbours.shape == (2, N_USERS, 0)


@pytest.mark.parametrize("eta", [0.0, 0.4])
def test_views_that_nobody_reads_are_not_made(eta):
    model = build(eta=eta).eval()
    whole, short = model(), model(views=False)
    assert torch.equal(whole.users, short.users) and torch.equal(whole.items, short.items)
    assert len(whole.view_users) == len(whole.view_items) == 2
    assert len(short.view_users) == len(short.view_items) == (2 if eta else 0)


def test_more_neighbours_than_items_takes_what_there_is():
    model = build(neighbours=N_ITEMS + 3, exclude_seen_neighbours=True).eval()
    left = N_ITEMS - model.graph.user_degree
    assert torch.equal((model.semantic_neighbours >= 0).sum(2), left.expand(2, -1))
    assert torch.isfinite(model().users).all()


def test_isolated_nodes_and_zero_features_stay_finite():
    graph, features = catalogue(2)
    model = MMSSL(graph, {name: torch.zeros_like(raw) for name, raw in features.items()}, **SETTINGS).double()
    encoded = model()
    assert all(f.abs().max() == 0 for f in encoded.modal_users)
    (encoded.users.square().sum() + encoded.items.square().sum()).backward()
    for name, parameter in model.named_parameters():
        assert torch.isfinite(parameter.grad).all(), name
    assert torch.isfinite(encoded.users).all() and torch.isfinite(encoded.items).all()


def test_isolated_nodes_have_only_their_zero_order_part():
    model = build(final_softmax=False).eval()
    encoded = model()
    for m in range(2):
        assert encoded.modal_users[m][EMPTY_USER].abs().max() == 0
        assert encoded.modal_items[m][EMPTY_ITEM].abs().max() == 0


def test_dropout_acts_in_training_only():
    model = build(dropout=0.5)
    assert not torch.equal(model().modal_users[0], model().modal_users[0])
    model.eval()
    assert torch.equal(model().modal_users[0], model().modal_users[0])


def test_refresh_ignores_dropout_and_keeps_the_mode():
    model = build(dropout=0.9)
    model.refresh_neighbours()
    first = model.semantic_neighbours.clone()
    model.refresh_neighbours()
    assert torch.equal(first, model.semantic_neighbours) and model.training
    with torch.no_grad():
        model.projections[0].weight.copy_(torch.randn_like(model.projections[0].weight))
    before = model.eval()().view_users[0]
    model.refresh_neighbours()
    assert not torch.equal(first[0], model.semantic_neighbours[0])
    assert not torch.equal(before, model().view_users[0])


def test_state_dict_restores_neighbours_and_leaves_features_out():
    model = build().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(torch.randn_like(parameter) * 0.1)
    model.refresh_neighbours()
    state = copy.deepcopy(model.state_dict())
    assert not any("features" in key for key in state)
    other = build().eval()
    other()  # builds neighbour graphs that loading must drop
    other.load_state_dict(state)
    assert torch.equal(other().users, model().users)
    assert torch.equal(copy.deepcopy(model)().users, model().users)
    assert torch.equal(pickle.loads(pickle.dumps(model))().users, model().users)


def test_detach_cuts_every_part():
    encoded = build()().detach()
    parts = [
        encoded.users,
        encoded.items,
        *encoded.modal_users,
        *encoded.modal_items,
        *encoded.view_users,
        *encoded.view_items,
    ]
    assert len(parts) == 10 and not any(part.requires_grad for part in parts)


def test_neighbour_graph_skips_missing_and_serves_both_sides():
    graph = neighbour_graph(torch.tensor([[3, 0], [-1, -1], [3, -1]]), n_items=5)
    assert adjacency(graph).tolist() == [[1, 0, 0, 1, 0], [0] * 5, [0, 0, 0, 1, 0]]
    assert graph.t_crow.tolist() == [0, 1, 1, 1, 3, 3] and graph.t_col.tolist() == [0, 0, 2]
    assert graph.col.tolist() == [0, 3, 3]


def test_standardise_centres_and_scales_every_column():
    graph, features = catalogue(1)
    raw = 100 + 7 * features["visual"]
    raw[:, 3] = 1e6 / 3
    got = MMSSL(graph, {"visual": raw}, **SETTINGS).features_0
    expected = (raw - raw.mean(0)) / raw.std(0, correction=0)
    expected[:, 3] = 0
    torch.testing.assert_close(got.double(), expected, atol=1e-6, rtol=1e-6)
    kept = MMSSL(graph, {"visual": raw}, standardise=False, **SETTINGS).features_0
    assert torch.equal(kept, raw.float())


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"layers": -1}, "layers and neighbours"),
        ({"neighbours": -2}, "layers and neighbours"),
        ({"norm": "row"}, "norm must be"),
        ({"dropout": 1.0}, "dropout"),
        ({"heads": 3}, "multiple of heads"),
    ],
)
def test_settings_out_of_range_are_refused(settings, message):
    graph, features = catalogue(1)
    with pytest.raises(ValueError, match=message):
        MMSSL(graph, features, **(SETTINGS | settings))


def test_features_that_do_not_fit_are_refused():
    graph, features = catalogue(1)
    with pytest.raises(ValueError, match="at least one modality"):
        MMSSL(graph, {})
    with pytest.raises(ValueError, match=r"'visual' must be .*got shape \(10, 9\)"):
        MMSSL(graph, {"visual": features["visual"][:10]})
    features["visual"][6, 2] = math.nan
    with pytest.raises(ValueError, match="'visual' must be finite, but row 6 is not"):
        MMSSL(graph, features)
