"""mmssl_fast.nn.objective: the full step against the dense formulation, every switch, and the noise."""

from itertools import accumulate

import pytest
import torch
import torch.nn.functional as F
from nn_catalogue import EMPTY_USER, FULL_USER, N_ITEMS, N_USERS, catalogue
from torch.profiler import ProfilerActivity, profile

from mmssl_fast import reference
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.nn import MMSSL, Discriminator, MMSSLObjective
from mmssl_fast.nn.noise import interpolation_weights
from mmssl_fast.nn.objective import anchor_positions

USERS = torch.tensor([0, EMPTY_USER, 9, FULL_USER, 2, 12])
POS, NEG = torch.tensor([1, 3, 5, 0, 2, 8]), torch.tensor([10, 4, 10, 7, 10, 10])
STEP = 5


def build(modalities: int = 2, model_settings: dict | None = None, **settings) -> MMSSLObjective:
    graph, features = catalogue(modalities)
    torch.manual_seed(4)
    model = MMSSL(graph, features, dim=8, heads=2, neighbours=3, dropout=0.0, **(model_settings or {})).double()
    discriminator = Discriminator(N_ITEMS, hidden=(7, 4), dropout=(0.0, 0.0)).double()
    return MMSSLObjective(model, discriminator, **({"seed": 11, "lambda_generator": 0.7} | settings))


def printed_real_rows(objective: MMSSLObjective, encoded) -> torch.Tensor:
    """Eq. 5 as printed; its softmax is float32, as the noise is."""
    graph, o = objective.model.graph, objective.options
    seen = graph.rows(USERS)
    noise = o.gumbel_tau, objective.seed, STEP, objective.noise_scale
    logits = reference.gumbel_logits(seen.crow, seen.col, USERS, N_ITEMS, *noise)
    rows = logits.softmax(1).double()
    rows = rows + o.zeta * reference.cosine_block(encoded.users[USERS], encoded.items, seen if o.mask_seen else None)
    return reference.unit_rows(rows) if o.row_l2 else rows


def dense_fake_rows(objective: MMSSLObjective, encoded) -> list[torch.Tensor]:
    """Eq. 3 as printed."""
    seen = objective.model.graph.rows(USERS) if objective.options.mask_seen else None
    return [
        reference.cosine_block(f_u[USERS], f_i, seen, objective.options.kind, objective.options.row_l2)
        for f_u, f_i in zip(encoded.modal_users, encoded.modal_items, strict=True)
    ]


def dense_discriminator_terms(objective: MMSSLObjective, encoded) -> dict[str, torch.Tensor]:
    d, encoded = objective.discriminator, encoded.detach()
    real = objective.real_rows(encoded, USERS, STEP).dense()
    fakes = torch.cat(dense_fake_rows(objective, encoded))
    count = len(encoded.modal_users)
    alpha = interpolation_weights(objective.seed, STEP, USERS, count).double()[:, None]
    mixed = (alpha * real.repeat(count, 1) + (1 - alpha) * fakes).requires_grad_()
    (gradient,) = torch.autograd.grad(d(mixed).sum(), mixed, create_graph=True)
    penalty = objective.options.lambda_penalty * ((gradient.norm(dim=1) - 1) ** 2).mean()
    return {"real": -d(real).mean(), "fake": d(fakes).mean(), "penalty": penalty}


def assert_same_gradients(got: torch.Tensor, truth: torch.Tensor, parameters: list, name: str) -> None:
    a = torch.autograd.grad(got, parameters, retain_graph=True, materialize_grads=True)
    b = torch.autograd.grad(truth, parameters, retain_graph=True, materialize_grads=True)
    for x, y in zip(a, b, strict=True):
        torch.testing.assert_close(x, y, atol=1e-11, rtol=1e-9, msg=lambda text: f"{name}: {text}")


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize(
    "settings",
    [{}, {"gumbel": False}, {"mask_seen": True}, {"kind": "dot"}, {"row_l2": False, "zeta": 2.0}, {"zeta": 0.0}],
    ids=lambda settings: ",".join(f"{k}={v}" for k, v in settings.items()) or "default",
)
@pytest.mark.parametrize("training", [True, False])
def test_discriminator_terms_equal_the_dense_formulation(modalities, settings, training):
    objective = build(modalities, **settings)
    objective.discriminator.train(training)
    encoded = objective.model()
    printed = printed_real_rows(objective, encoded)
    torch.testing.assert_close(objective.real_rows(encoded, USERS, STEP).dense(), printed, atol=1e-6, rtol=1e-5)
    got = objective.discriminator_terms(encoded, USERS, STEP)
    truth = dense_discriminator_terms(objective, encoded)
    assert set(got) == {*truth, "total"}
    parameters = list(objective.discriminator.parameters())
    for name, value in truth.items():
        torch.testing.assert_close(got[name], value, atol=1e-11, rtol=1e-9, msg=name)
        assert_same_gradients(got[name], value, parameters, name)
    torch.testing.assert_close(got["total"], sum(truth.values()), atol=1e-11, rtol=1e-9)


def test_taking_the_noise_out_is_noticed():
    """The comparison above tells Gumbel rows from rows without noise: "real" and its gradient differ."""
    objective = build(zeta=1.0)
    encoded = objective.model()
    got = objective.discriminator_terms(encoded, USERS, STEP)
    objective.noise_scale = 0.0
    truth = dense_discriminator_terms(objective, encoded)
    assert abs(got["real"] - truth["real"]) > 1e-4
    with pytest.raises(AssertionError):
        assert_same_gradients(got["real"], truth["real"], list(objective.discriminator.parameters()), "real")


@pytest.mark.parametrize("modalities", [1, 2, 3])
@pytest.mark.parametrize("mask_seen", [True, False])
def test_generator_terms_equal_the_dense_formulation(modalities, mask_seen):
    settings = {"lambda_features": 0.2, "lambda_l2": 0.3, "lambda_contrastive": 0.4, "lambda_structural": 0.5}
    objective = build(modalities, mask_seen=mask_seen, structural=True, structural_tau=0.3, **settings)
    encoded = objective.model()
    got = objective.generator_terms(encoded, USERS, POS, NEG)
    h_u, h_p, h_n = encoded.users[USERS], encoded.items[POS], encoded.items[NEG]
    every = torch.cat([f.flatten() for f in encoded.modal_users + encoded.modal_items])
    far_users, far_items = users, items = objective.model.user_embedding, objective.model.item_embedding
    for _ in range(2):
        far_users, far_items = (
            reference.propagate(objective.model.graph, far_items, "users", "both"),
            reference.propagate(objective.model.graph, far_users, "items", "both"),
        )
    structure = reference.infonce(users, far_users, USERS, 0.3, exclude_self=True)
    structure = structure + reference.infonce(items, far_items, POS, 0.3, exclude_self=True)
    truth = {
        "bpr": -F.logsigmoid((h_u * h_p).sum(1) - (h_u * h_n).sum(1)).mean(),
        "l2": 0.3 * 0.5 * (h_u.square().sum() + h_p.square().sum() + h_n.square().sum()) / len(USERS),
        "features": 0.2 * 0.5 * every.square().sum() / N_ITEMS,
        "contrastive": 0.4 * sum(reference.infonce(encoded.users, view, USERS, 0.5) for view in encoded.view_users),
        "structural": 0.5 * structure,
        "generator": -0.7 * objective.discriminator(torch.cat(dense_fake_rows(objective, encoded))).mean(),
    }
    assert set(got) == {*truth, "total"}
    parameters = list(objective.model.parameters())
    for name, value in truth.items():
        torch.testing.assert_close(got[name], value, atol=1e-9, rtol=1e-8, msg=name)
        assert_same_gradients(got[name], value, parameters, name)
    torch.testing.assert_close(got["total"], sum(truth.values()), atol=1e-9, rtol=1e-8)


@pytest.mark.parametrize("row_l2", [True, False])
def test_parts_of_the_discriminator_terms(row_l2):
    """Each part has the terms of its users alone, value and gradients, though the rows are made once for all."""
    objective = build(row_l2=row_l2, mask_seen=True)
    encoded, parameters = objective.model(), list(objective.discriminator.parameters())
    parts = [slice(0, 2), slice(2, 6)]
    found = list(objective.discriminator_parts(encoded, USERS, STEP, parts))
    for part, terms in zip(parts, found, strict=True):
        truth = objective.discriminator_terms(encoded, USERS[part], STEP)
        assert terms.keys() == truth.keys()
        for name, value in truth.items():
            torch.testing.assert_close(terms[name], value, atol=1e-11, rtol=1e-9, msg=name)
            assert_same_gradients(terms[name], value, parameters, name)
    objective.adversarial = False
    with pytest.raises(ValueError, match="adversarial part is off"):
        next(objective.discriminator_parts(encoded, USERS, STEP, parts))


def test_anchors_are_some_of_the_batch():
    objective = build(structural=True, anchors=3)
    encoded = objective.model()
    names = ("contrastive", "structural")
    capped = objective.generator_terms(encoded, USERS, POS, NEG)
    assert anchor_positions(6, 3).tolist() == [0, 2, 4]
    chosen = objective.generator_terms(encoded, USERS, POS, NEG, torch.tensor([4, 0, 2]))
    alone = objective.generator_terms(encoded, USERS[::2], POS[::2], NEG[::2])
    for name in names:
        for other in (chosen, alone):
            torch.testing.assert_close(capped[name], other[name])
    assert not torch.equal(capped["bpr"], alone["bpr"])
    without = objective.generator_terms(encoded, USERS, POS, NEG, torch.tensor([], dtype=torch.int64))
    assert without.keys() == capped.keys() - set(names)
    torch.testing.assert_close(without["total"], sum(without[name] for name in without.keys() - {"total"}))


def peak_bytes(function) -> int:
    """The most memory that was allocated at one time inside function(), C++ included."""
    with profile(activities=[ProfilerActivity.CPU], profile_memory=True) as profiler:
        function()
    events = profiler.profiler.kineto_results.events()
    sizes = [event.nbytes() for event in sorted(events, key=lambda e: e.start_ns()) if event.name() == "[memory]"]
    return max(accumulate(sizes))


@pytest.mark.parametrize("settings", [{}, {"mask_seen": True}], ids=["", "mask_seen"])
def test_a_step_holds_no_relation_matrix(settings):
    n_users, n_items, batch = 1100, 6001, 1024
    torch.manual_seed(0)
    users, items = (torch.rand(n_users, n_items) < 0.001).nonzero().unbind(1)
    graph = InteractionGraph.from_pairs(users, items, n_users, n_items)
    features = {"a": torch.randn(n_items, 9), "b": torch.randn(n_items, 7)}
    model = MMSSL(graph, features, dim=16, heads=2, neighbours=4)
    objective = MMSSLObjective(model, Discriminator(n_items, hidden=(16, 8)), **settings)
    assert peak_bytes(lambda: torch.ones(batch, n_items)) == 4 * batch * n_items
    ids, pos, neg = torch.arange(batch), torch.randint(0, n_items, (batch,)), torch.randint(0, n_items, (batch,))
    encoded = model()
    steps = (
        lambda: objective.discriminator_terms(encoded, ids, STEP)["total"].backward(),
        lambda: objective.generator_terms(encoded, ids, pos, neg)["total"].backward(),
    )
    for step in steps:
        assert peak_bytes(step) < 0.5 * 4 * batch * n_items


def test_each_side_trains_its_own_parameters():
    objective = build()
    encoded = objective.model()
    objective.discriminator_terms(encoded, USERS, STEP)["total"].backward()
    assert all(parameter.grad is None for parameter in objective.model.parameters())
    assert all(parameter.grad is not None for parameter in objective.discriminator.parameters())
    objective.discriminator.zero_grad()
    objective.generator_terms(encoded, USERS, POS, NEG)["total"].backward()
    assert all(parameter.grad is not None for parameter in objective.model.parameters())
    assert all(parameter.grad is None for parameter in objective.discriminator.parameters())


SWITCHES = [
    ({"adversarial": False}, {"bpr", "l2", "contrastive"}),
    ({"contrastive": False}, {"bpr", "l2", "generator"}),
    ({"adversarial": False, "contrastive": False, "lambda_l2": 0.0}, {"bpr"}),
    ({"adversarial": False, "autoencoder": True}, {"bpr", "l2", "contrastive", "autoencoder"}),
    ({"adversarial": False, "structural": True}, {"bpr", "l2", "contrastive", "structural"}),
]


@pytest.mark.parametrize(("settings", "names"), SWITCHES)
def test_a_part_switched_off_is_gone(settings, names):
    objective = build(**settings)
    if not objective.adversarial:
        objective.discriminator = None  # not even looked at
        with pytest.raises(ValueError, match="adversarial part is off"):
            objective.discriminator_terms(objective.model(), USERS, STEP)
    terms = objective.generator_terms(objective.model(), USERS, POS, NEG)
    assert set(terms) == names | {"total"}
    torch.testing.assert_close(terms["total"], sum(terms[name] for name in names))
    terms["total"].backward()


def test_contrastive_part_asks_for_the_views_it_reads():
    for eta, views in ((0.0, True), (0.4, False)):
        objective = build(model_settings={"eta": eta}, contrastive=True)
        assert "contrastive" in objective.generator_terms(objective.model(views=views), USERS, POS, NEG)
    objective = build(model_settings={"eta": 0.0}, contrastive=True)
    with pytest.raises(ValueError, match=r"contrastive part needs the views of Eq\. 8; call the model with views=True"):
        objective.generator_terms(objective.model(views=False), USERS, POS, NEG)


def test_contrastive_part_is_what_moves_the_views_gradient():
    model_settings = {"eta": 0.0}  # then Eq. 8's views reach the loss through Eq. 11 alone
    for contrastive in (True, False):
        objective = build(model_settings=model_settings, contrastive=contrastive, adversarial=False)
        encoded = objective.model()
        terms = objective.generator_terms(encoded, USERS, POS, NEG)
        gradient = torch.autograd.grad(terms["total"], encoded.view_users, materialize_grads=True, allow_unused=True)
        assert all((g.abs().max() > 0) == contrastive for g in gradient)


def test_gumbel_off_leaves_the_rows_of_a():
    objective = build(gumbel=False, zeta=0.0, row_l2=False, gumbel_tau=0.02)
    rows = objective.real_rows(objective.model().detach(), USERS, STEP).dense().double()
    graph = objective.model.graph
    seen = graph.rows(USERS)
    a = reference.seen_mask(seen.crow, seen.col, N_ITEMS).double()
    a[1] = 1  # the user without items: every item alike
    torch.testing.assert_close(rows, a / a.sum(1, keepdim=True), atol=1e-6, rtol=1e-5)


def test_noise_is_a_function_of_seed_and_step():
    encoded = build().model().detach()

    def terms(step: int, seed: int = 11) -> torch.Tensor:
        got = build(zeta=0.0, seed=seed).discriminator_terms(encoded, USERS, step)
        return torch.stack(list(got.values()))

    assert torch.equal(terms(5), terms(5))
    for other in (terms(6), terms(5, seed=12)):
        assert (terms(5) != other)[[0, 2]].all()


def test_interpolation_weights():
    users = torch.arange(N_USERS)
    alpha = interpolation_weights(3, 8, users, 5)
    assert alpha.shape == (5 * N_USERS,) and alpha.dtype == torch.float32 and alpha.unique().numel() == 5 * N_USERS
    assert torch.equal(alpha.view(5, -1)[:, [7, 2]], interpolation_weights(3, 8, users[[7, 2]], 5).view(5, -1))
    assert torch.equal(alpha.view(5, -1)[:2].flatten(), interpolation_weights(3, 8, users, 2))
    expected = reference.philox_bits(3, 8, users, 5, reference.STREAM_ALPHA).mT.double() * 2.0**-32
    torch.testing.assert_close(alpha.view(5, -1).double(), expected, atol=1e-7, rtol=0)
    many = interpolation_weights(0, 0, torch.arange(20000), 1)
    assert many.min() > 0 and many.max() < 1 and abs(many.mean() - 0.5) < 0.01 and abs(many.var() - 1 / 12) < 0.003


def test_autoencoder_pulls_observed_pairs_together():
    objective = build(adversarial=False, contrastive=False, autoencoder=True, lambda_autoencoder=1.0)
    optimiser = torch.optim.AdamW(objective.model.parameters(), lr=1e-2)
    values = []
    for _ in range(20):
        optimiser.zero_grad()
        terms = objective.generator_terms(objective.model(), USERS, POS, NEG)
        terms["autoencoder"].backward()
        optimiser.step()
        values.append(terms["autoencoder"].item())
    assert values[-1] < 0.8 * values[0]


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"autoencoder": True}, "replaces the adversarial part"),
        ({"gumbel_tau": 0.0}, "gumbel_tau must be positive, got 0.0"),
        ({"contrastive_tau": -1.0}, "contrastive_tau"),
        ({"autoencoder_tau": 0.0}, "autoencoder_tau"),
        *(
            ({name: -0.5}, f"{name} must not be negative, got -0.5")
            for name in (
                "lambda_penalty",
                "lambda_contrastive",
                "lambda_generator",
                "lambda_l2",
                "lambda_features",
                "lambda_autoencoder",
                "lambda_structural",
                "zeta",
                "noise_scale",
            )
        ),
        ({"lambda_l2": float("nan")}, "lambda_l2 must not be negative, got nan"),
        ({"model_settings": {"neighbours": 0}}, "needs the views"),
    ],
)
def test_settings_that_do_not_fit_are_refused(settings, message):
    if "model_settings" in settings:
        graph, features = catalogue(1)
        model = MMSSL(graph, features, dim=8, heads=2, neighbours=0)
        with pytest.raises(ValueError, match=message):
            MMSSLObjective(model, Discriminator(N_ITEMS))
    else:
        with pytest.raises(ValueError, match=message):
            build(**settings)


def test_discriminator_must_fit_the_graph():
    model = build().model
    with pytest.raises(ValueError, match="needs a discriminator"):
        MMSSLObjective(model, None)
    with pytest.raises(ValueError, match="has 12 items, but the graph has 11"):
        MMSSLObjective(model, Discriminator(12))
    assert MMSSLObjective(model, None, adversarial=False).discriminator is None
