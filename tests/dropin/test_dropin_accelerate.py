"""hkuds.accelerate replaces parts that are equal; a part that computes something else is not replaced."""

import functools
import random
import re
import warnings
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from dropin_clients import released

from mmssl_fast.dropin import hkuds
from mmssl_fast.dropin.hkuds import patch, trials


def with_globals(function, **changed):
    """The client's function in a module whose globals differ."""
    names = {k: v for k, v in {**function.__globals__, **changed}.items() if v is not None}
    return type(function)(function.__code__, names, function.__name__, function.__defaults__, function.__closure__)


def hinge(self, u, p, n):
    return F.relu(1 - (u * p).sum(1) + (u * n).sum(1)).mean(), 0


def unscaled_penalty(self, D, xr, xf):
    return released.Trainer.gradient_penalty(self, D, xr, xf) * 1.02


def other_draws(self, D, xr, xf):
    torch.rand(1)
    return released.Trainer.gradient_penalty(self, D, xr, xf)


def loss_of_chunks(self, z1, z2, batch_size=1024):
    parts = zip(z1.split(batch_size), z2.split(batch_size), strict=True)
    return torch.stack([released.Trainer.batched_contrastive_loss(self, *part) for part in parts]).mean()


def with_temperature(self, z1, z2, temperature=0.5):
    return released.Trainer.batched_contrastive_loss(self, z1, z2)


def cosine_rows(self, users, user_final, item_final):
    return released.Trainer.u_sim_calculation(self, users, user_final, F.normalize(item_final))


def masked_seen(self, users, user_final, item_final):
    seen = torch.tensor(self.ui_graph_raw[users].todense()) != 0
    return F.normalize((user_final[users] @ item_final.T).masked_fill(seen, 0), dim=1)


def detached(self, u, p, n):
    return released.Trainer.bpr_loss(self, u, p, n.detach())


def reads_more(self, u, p, n):
    return self.margin * (u * p).sum(), 0, 0


def remembers(self, u, p, n):
    found = released.Trainer.bpr_loss(self, u, p, n)
    self.last_loss = float(found[0].detach())  # which the loop may read later
    return found


def hinge_of_three(self, u, p, n):
    return F.relu(1 - (u * p).sum(1) + (u * n).sum(1)).mean(), (u.square().sum() + p.square().sum()) * 1e-4, 0.0


def as_a_dict(self, u, p, n):
    return {"loss": released.Trainer.bpr_loss(self, u, p, n)[0]}


DIFFERENT = {
    "remembers": ("bpr_loss", remembers, "sets self.last_loss, which the replacement does not set"),
    "hinge of three": ("bpr_loss", hinge_of_three, "result 1: .*the replacement gives"),
    "dict": ("bpr_loss", as_a_dict, "number of results: 1, the replacement gives 3"),
    "hinge": ("bpr_loss", hinge, "number of results: 2, the replacement gives 3"),
    "detached": ("bpr_loss", detached, "the gradient of result 1: entries differ"),
    "instance": ("bpr_loss", reads_more, "cannot be compared: the original code raised AttributeError: .*margin"),
    "penalty": ("gradient_penalty", unscaled_penalty, "the result: .*the replacement gives"),
    "draws": ("gradient_penalty", other_draws, "the replacement gives|draws other random numbers"),
    "chunks": ("batched_contrastive_loss", loss_of_chunks, "the result: .*the replacement gives"),
    "option": ("batched_contrastive_loss", with_temperature, "a parameter 'temperature' that the replacement lacks"),
    "cosine": ("u_sim_calculation", cosine_rows, "the result: entries differ"),
    "weights": ("u_sim_calculation", masked_seen, "the result: entries differ"),
    "signature": (
        "sparse_mx_to_torch_sparse_tensor",
        lambda self, m, kind: m,
        r"takes \(self, m, kind\), the replacement takes \(self, sparse_mx\)$",
    ),
}


@pytest.mark.parametrize("name", DIFFERENT)
def test_a_part_that_differs_is_not_replaced(name):
    part, own, reason = DIFFERENT[name]
    client = type("Client", (released.Trainer,), {part: own})
    with pytest.warns(UserWarning, match=f"not replaced in Client: {part}"):
        done = hkuds.accelerate(client, tau=0.5)
    try:
        assert vars(client)[part] is own and part not in done.patched and list(done.differs) == [part]
        assert set(done.patched) == set(hkuds.PARTS[:6]) - {part}  # the others are in the module of released.Trainer
        line = next(line for line in str(done).splitlines() if line.startswith(part))
        assert re.search(f"{part}: differs: .*({reason})", line), line
        assert "missing" in str(done) and len(str(done).splitlines()) == len(hkuds.PARTS)
    finally:
        done.restore()


@pytest.mark.parametrize(
    "own, reason",
    [
        (staticmethod(lambda u, p, n: (u * p).sum()), r"takes (u, p, n), the replacement takes (self, users,"),
        (classmethod(lambda cls, u, p, n: (u * p).sum()), r"takes (u, p, n), the replacement takes (self, users,"),
        (property(lambda self: lambda u, p, n: (u * p).sum()), "is a property, not a function"),
        (functools.partial(released.Trainer.bpr_loss, None), "takes (users, pos_items, neg_items), the replacement"),
        (
            lambda *args, **kwargs: released.Trainer.bpr_loss(*args, **kwargs),
            "takes (*args, **kwargs), the replacement",
        ),
    ],
)
def test_what_is_no_plain_method_stays(own, reason):
    client = type("Client", (released.Trainer,), {"bpr_loss": own})
    with pytest.warns(UserWarning, match="not replaced in Client: bpr_loss"):
        done = hkuds.accelerate(client, ["bpr_loss"])
    assert done.differs["bpr_loss"].startswith(reason) and vars(client)["bpr_loss"] is own


def test_a_hinge_loss_does_not_change():
    client = type("Client", (released.Trainer,), {"bpr_loss": hinge})
    leaves = [torch.randn(24, 8, generator=torch.Generator().manual_seed(i)) for i in range(3)]
    truth = client().bpr_loss(*leaves)
    with pytest.warns(UserWarning, match="bpr_loss"):
        done = hkuds.accelerate(client)
    assert client().bpr_loss(*leaves) == truth
    done.restore()


def test_strict_raises_and_replaces_nothing():
    client = type("Client", (released.Trainer,), {"bpr_loss": hinge})
    with pytest.raises(
        ValueError, match=r"(?s)not every part of Client.*u_sim_calculation: patched.*bpr_loss: differs"
    ):
        hkuds.accelerate(client, hkuds.PARTS[:6], strict=True)
    assert list(vars(client)).count("u_sim_calculation") == 0
    with pytest.raises(ValueError, match="test_torch: missing"):
        hkuds.accelerate(client, ["bpr_loss", "test_torch"], strict=True)
    hkuds.accelerate(released, strict=True).restore()


def test_generators_are_as_if_nothing_had_happened():
    def states():
        return random.getstate(), str(np.random.get_state()), torch.get_rng_state().tolist()  # noqa: NPY002

    before = states()
    hkuds.accelerate(released).restore()
    assert states() == before


@pytest.mark.parametrize(
    "part, missing, override",
    [
        ("batched_contrastive_loss", {"args": SimpleNamespace(batch_size=24)}, {"tau": 0.5}),
        ("test_torch", {"Ks": None}, {"ks": [3, 10, 20]}),
    ],
)
def test_a_missing_setting_is_reported_and_can_be_passed(part, missing, override, monkeypatch):
    """The function computes what the released one does, from a setting that it has under another name."""
    own = getattr(released if part == "test_torch" else released.Trainer, part)
    hidden = with_globals(own, **missing)
    name = next(iter(override))
    if part == "test_torch":
        monkeypatch.setattr(released, part, own)
        names = {k: v for k, v in vars(released).items() if k != "Ks"}
        replacement = patch._test_torch(names, None)
        with pytest.raises(NameError, match="has no Ks; pass ks= to accelerate"):
            replacement(torch.ones(70, 8), torch.ones(150, 8), [0], True)
        assert patch._test_torch(names, override["ks"])(torch.ones(70, 8), torch.ones(150, 8), [0], True)
        return
    literal = with_globals(own)
    literal.__globals__["args"] = SimpleNamespace(tau=0.5)

    def fixed(self, z1, z2, batch_size=1024):
        return literal(self, z1, z2, batch_size)

    fixed = with_globals(fixed, args=SimpleNamespace(batch_size=24), **{"__name__": "client"})
    client = type("Client", (released.Trainer,), {part: fixed})
    assert hidden is not own
    with pytest.warns(UserWarning, match=rf"has no args\.{name}; pass {name}= to accelerate"):
        hkuds.accelerate(client, [part])
    done = hkuds.accelerate(client, [part], **override)
    assert done.patched == [part]
    done.restore()
    with pytest.warns(UserWarning, match="the replacement gives"):
        hkuds.accelerate(client, [part], **{name: 0.6})


def test_decay_of_a_client_that_has_it_elsewhere():
    def fixed(self, users, pos_items, neg_items):
        return released.Trainer.bpr_loss(
            SimpleNamespace(decay=1e-3, batch_size=self.batch_size), users, pos_items, neg_items
        )

    client = type("Client", (released.Trainer,), {"bpr_loss": fixed})
    with pytest.warns(UserWarning, match="result 2"):
        assert hkuds.accelerate(client, ["bpr_loss"]).differs
    done = hkuds.accelerate(client, ["bpr_loss"], decay=1e-3)
    assert done.patched == ["bpr_loss"]
    done.restore()


def test_parameters_of_other_names_are_taken_by_name_too():
    def renamed(self, u, p, n):
        return released.Trainer.bpr_loss(self, u, p, n)

    client = type("Client", (released.Trainer,), {"bpr_loss": renamed})
    done = hkuds.accelerate(client, ["bpr_loss"])
    u, p, n = (torch.randn(24, 8) for _ in range(3))
    assert done.patched == ["bpr_loss"]
    for a, b in zip(client().bpr_loss(n=n, p=p, u=u), released.Trainer().bpr_loss(u, p, n), strict=True):
        assert float(a) == pytest.approx(float(b), rel=1e-5)
    done.restore()


@pytest.mark.parametrize("metric", ["ndcg", "recall", "precision"])
def test_an_evaluation_with_another_metric_stays(metric, monkeypatch):
    own = released.test_torch

    def test_torch(ua_embeddings, ia_embeddings, users_to_test, is_val, drop_flag=False, batch_test_flag=False):
        found = own(ua_embeddings, ia_embeddings, users_to_test, is_val)
        return found | {metric: found[metric] * 1.01}

    monkeypatch.setattr(released, "test_torch", with_globals(test_torch, **vars(released), own=own, metric=metric))
    with pytest.warns(UserWarning, match=f"metric '{metric}'"):
        assert hkuds.accelerate(released, ["test_torch"]).differs


@pytest.mark.parametrize(
    "args, given, device",
    [
        ({}, None, "cuda" if torch.cuda.is_available() else "cpu"),
        ({"device": "cuda:1"}, None, "cuda:1"),
        ({"device": torch.device("cpu")}, None, "cpu"),
        ({"device": 1}, None, "cuda:1"),
        ({"device": "cuda:1"}, "cpu", "cpu"),
        ({}, "cuda:1", "cuda:1"),
    ],
)
def test_comparisons_run_where_the_client_computes(args, given, device):
    assert patch._device({"args": SimpleNamespace(**args)}, given) == torch.device(device)


@pytest.mark.parametrize("args, given, name", [("0,1", None, "args.device"), ("cpu", "cuda:x", "device")])
def test_a_device_that_torch_does_not_know_is_named(args, given, name):
    names = {"args": SimpleNamespace(device=args)}
    with pytest.raises(ValueError, match=rf"^accelerate: {name} is '.*', which is no device of torch; pass device="):
        patch._device(names, given)


def test_matrices_go_where_the_client_puts_them(monkeypatch):
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    for put, expected in (("cuda:1", "cuda:1"), ("cuda:0", "cuda"), ("cpu", "cpu")):
        own = lambda self, matrix, put=put: SimpleNamespace(device=torch.device(put))  # noqa: E731
        assert trials.matrix_device("matrix_to_tensor", own, released.Trainer) == torch.device(expected)


def test_an_accelerated_client_says_nothing_more():
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        hkuds.accelerate(released).restore()
