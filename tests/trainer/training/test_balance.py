"""train.balance: each loss term's gradient on each part of a model, which changes nothing in the run."""

import json

import pytest
import torch
from configurations import short
from mmssl_trainer import systems
from mmssl_trainer.cli.main import main
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.errors import NonFiniteLoss, OutOfMemory
from mmssl_trainer.study.report.page import _balance
from mmssl_trainer.systems.base import Batch
from mmssl_trainer.systems.lightgcn import LightGCNSystem
from mmssl_trainer.training.balance import balance, measure
from mmssl_trainer.training.loop import fit
from plain_systems import TRAINED
from torch import nn

from mmssl_fast import sample_bpr
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.nn import MMSSL


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=3, n_users=80, n_items=60, modalities={"image": 8, "text": 6}, mean_degree=12)


def configured(system, **values):
    return short(system, {"ncl.warm_up": 1, "ncl.clusters": 5}, **values)


def test_lengths_and_cosines_of_known_gradients():
    model = nn.ModuleDict(
        {
            "a": nn.ParameterDict({"x": torch.tensor([1.0, 2.0]), "y": torch.tensor(3.0)}),
            "b": nn.ParameterDict({"z": torch.tensor([4.0])}),
        }
    )
    x, y, z = model["a"]["x"], model["a"]["y"], model["b"]["z"]
    terms = {
        "rank": (3 * x[0] + 4 * y),
        "other": (x[0] * 3 + 4 * x[1] + 12 * y + 5 * z).sum(),
        "constant": torch.ones(()),
    }
    found = balance(terms | {"total": sum(terms.values())}, model.named_parameters())
    assert found["a"]["rank"] == {"norm": pytest.approx(5), "cosine": pytest.approx(1)}
    assert found["a"]["other"] == {"norm": pytest.approx(13), "cosine": pytest.approx((9 + 48) / 65)}
    assert found["b"]["rank"] == {"norm": 0, "cosine": 0} and found["b"]["other"] == {"norm": 5, "cosine": 0}
    assert found["a"]["constant"] == found["b"]["constant"] == {"norm": 0, "cosine": 0}
    assert {*found["a"]} == {"rank", "other", "constant"}
    assert all(parameter.grad is None for parameter in model.parameters())
    sum(terms.values()).backward()  # the graph is still there


@pytest.mark.parametrize("system", TRAINED)
def test_a_run_is_the_same_to_the_bit_and_its_epochs_tell(data, system):
    plain, told = (fit(data, configured(system, train__balance=asked)) for asked in (False, True))
    assert torch.equal(plain.users, told.users) and torch.equal(plain.items, told.items)
    assert [one["losses"] for one in plain.epochs] == [one["losses"] for one in told.epochs]
    assert not any("balance" in one for one in plain.epochs)
    json.loads(json.dumps(told.epochs, allow_nan=False))
    for one in told.epochs:
        lengths = [sum(terms[next(iter(terms))]["norm"] for terms in one["balance"].values())]
        lengths += [term["norm"] for terms in one["balance"].values() for term in terms.values()]
        assert lengths[0] > 0 and all(0 <= length < 1e4 for length in lengths)
        terms = {name for terms in one["balance"].values() for name in terms}
        assert terms == {name for name in one["losses"] if name != "total" and not name.startswith("D ")}


def test_the_batch_is_the_next_step_s(data):
    config = configured("lightgcn", train__balance=True)
    system = systems.create("lightgcn")
    fitted = fit(data, config, system=system)
    graph = InteractionGraph.from_scipy(data.train)
    found = [
        measure(system, Batch(*sample_bpr(graph, 64, config.train.seed, step, "interactions"), step), graph.device)
        for step in (fitted.step, 0)
    ]
    assert fitted.epochs[-1]["balance"] == found[0] != found[1]


def test_what_is_not_finite_is_no_balance(data):
    class Breaking:
        def __init__(self):
            self.whole = systems.create("lightgcn")

        def __getattr__(self, name):
            return getattr(self.whole, name)

        def terms(self, batch):
            with torch.no_grad():
                next(iter(self.whole.model.parameters())).fill_(torch.nan)
            return self.whole.terms(batch)

    with pytest.raises(NonFiniteLoss, match=r"gradient of 'bpr' on '\w+' became nan after epoch 1; try a lower"):
        fit(data, configured("lightgcn", train__balance=True), system=Breaking())


def test_no_memory_for_it_says_what_to_leave_out(data, monkeypatch):
    def full(*_):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr("mmssl_trainer.training.balance.balance", full)
    with pytest.raises(
        OutOfMemory,
        match=r"out of memory after epoch 1, in the computation of train\.balance; set train\.balance = false",
    ):
        fit(data, configured("lightgcn", train__balance=True))


def test_a_run_told_from_its_second_epoch_on_shows_no_share_before():
    def record(epoch, **told):
        pull = {"bpr": {"norm": 2.0, "cosine": 1.0}, "l2": {"norm": 0.5 * epoch, "cosine": 0.25}}
        return {"epoch": epoch} | ({"balance": {"users": pull}} if told else {})

    epochs = [record(1), record(2, told=True), record(3, told=True)]
    assert _balance(epochs, 2) == [["users", "l2", "–", "0.5", "+0.25"]]
    assert _balance(epochs, 1) == [["users", "l2", "–", "–", "–"]]
    assert _balance([record(epoch, told=True) for epoch in (1, 2, 3)], 2) == [["users", "l2", "0.25", "0.5", "+0.25"]]
    assert _balance([record(1)], 1) == []


def test_views_are_made_where_they_are_read(data, monkeypatch):
    made = []
    views = MMSSL._start_views
    monkeypatch.setattr(MMSSL, "_start_views", lambda *given: made.append(1) or views(*given))
    for eta, contrastive in ((0.0, False), (0.0, True), (0.3, False)):
        made.clear()
        values = {"model__eta": eta, "loss__contrastive": contrastive, "loss__adversarial": False}
        steps = fit(data, configured("mmssl", train__balance=True, **values)).step
        assert len(made) >= steps if eta or contrastive else not made


def test_of_mmssl_each_term_reaches_what_its_equation_reads(data):
    config = configured("mmssl", loss__structural=True, model__eta=0.0, model__omega=0.1)
    torch.manual_seed(0)
    system, graph = systems.create("mmssl"), InteractionGraph.from_scipy(data.train)
    system.build(data, graph, config)
    system.start_epoch(1)
    batch = Batch(torch.arange(40), torch.arange(40) % 60, (torch.arange(40) + 7) % 60, 0)
    before = {name: tensor.clone() for name, tensor in system.state().items()}
    drawn = torch.get_rng_state()
    found = measure(system, batch, graph.device)
    assert torch.equal(drawn, torch.get_rng_state())
    assert all(torch.equal(tensor, before[name]) for name, tensor in system.state().items())
    reached = {
        term: {part for part, terms in found.items() if terms[term]["norm"] > 0} for term in found["projections"]
    }
    embeddings = {"user_embedding", "item_embedding"}
    assert reached == {
        "bpr": embeddings | {"projections"},
        "l2": embeddings | {"projections"},
        "contrastive": embeddings | {"projections"},
        "structural": embeddings,
        "generator": {"projections"},
    }


def test_report_shows_the_shares(data, tmp_path):
    catalogue = str(write_plain(data, tmp_path / "data"))
    for name, asked in (("told", "true"), ("plain", "false")):
        arguments = ["--set", f"train.balance={asked}", "--epochs", "2", "--threads", "1", "--set", "model.dim=8"]
        assert main(["train", "--data", catalogue, "--out", str(tmp_path / name), *arguments]) == 0
        assert main(["report", str(tmp_path / name), "--out", str(tmp_path / f"{name}.html")]) == 0
    epochs = [json.loads(line) for line in (tmp_path / "told" / "metrics.jsonl").read_text().splitlines()]
    best = json.loads((tmp_path / "told" / "result.json").read_text())["best_epoch"]
    shares = [
        f"{one['balance']['projections']['generator']['norm'] / one['balance']['projections']['bpr']['norm']:.2g}"
        for one in (epochs[0], epochs[best - 1])
    ]
    cosine = f"{epochs[best - 1]['balance']['projections']['generator']['cosine']:+.2f}"
    page, text = ((tmp_path / f"told.{end}").read_text() for end in ("html", "md"))
    assert "Gradient norms of the loss terms" in page
    assert f"| projections | generator | {shares[0]} | {shares[1]} | {cosine} |" in text
    row = "".join(f"<td>{cell}</td>" for cell in ("projections", "generator", *shares, cosine))
    assert row in page
    for end in ("html", "md"):
        assert "Gradient norms" not in (tmp_path / f"plain.{end}").read_text()


def test_terms_that_write_to_a_large_tensor_are_refused(data, monkeypatch):
    class Writing(LightGCNSystem):
        def terms(self, batch):
            with torch.no_grad():
                self.model.users.mul_(1)
            return super().terms(batch)

    monkeypatch.setattr("mmssl_trainer.memory.retry.SMALL", 0)
    with pytest.raises(RuntimeError, match="terms wrote to a large tensor"):
        fit(data, configured("lightgcn", train__balance=True), system=Writing())
