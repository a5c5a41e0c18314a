"""accelerate for RecBole, on a client with its names: forks that differ are not replaced."""

from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn
from dropin_clients.forks import doubled_in_evaluation, fork, with_option
from dropin_clients.triples import (
    ITEMS,
    TOPK,
    USERS,
    D,
    adjacency,
    held_out,
    interactions,
    lengths,
    mean_of_layers,
    ranking_loss,
    recall,
)

from mmssl_fast.dropin import recbole


class RecBoleModel(nn.Module):
    USER_ID, ITEM_ID, NEG_ITEM_ID = "user_id", "item_id", "neg_item_id"

    def __init__(self, require_pow=False):
        super().__init__()
        torch.manual_seed(0)
        self.n_users, self.n_items, self.n_layers, self.require_pow = USERS, ITEMS, 2, require_pow
        self.reg_weight, self.mf_loss = 0.01, SimpleNamespace(gamma=1e-10)
        self.user_embedding, self.item_embedding = nn.Embedding(USERS, D), nn.Embedding(ITEMS, D)
        self.norm_adj_matrix = adjacency(interactions())

    def forward(self):
        return mean_of_layers(self.norm_adj_matrix, self.user_embedding.weight, self.item_embedding.weight, 2)

    def calculate_loss(self, interaction):
        triples = u, p, n = [interaction[name] for name in (self.USER_ID, self.ITEM_ID, self.NEG_ITEM_ID)]
        tables = self.user_embedding.weight, self.item_embedding.weight
        if self.require_pow:
            rows = tables[0][u], tables[1][p], tables[1][n]
            penalty = torch.stack([x.square().sum() for x in rows]).sum(0, keepdim=True) / 2 / len(n)
        else:
            penalty = lengths(*tables, triples)
        return ranking_loss(*self.forward(), triples) + self.reg_weight * penalty


class Struct(dict):
    def update_tensor(self, name, value):
        self[name] = value


class RecBoleTrainer:
    device = "cpu"

    def __init__(self, model):
        self.model, self.config = model, {"single_spec": True}
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        collector = SimpleNamespace(topk=TOPK, data_struct=Struct(), model_collect=lambda model: None)
        collector.register = SimpleNamespace(**{"rec.topk": True, "rec.items": True})
        collector.get_data_struct = lambda: collector.data_struct
        self.eval_collector = collector
        self.evaluator = SimpleNamespace(evaluate=self._metrics)
        self.wandblogger = SimpleNamespace(log_eval_metrics=lambda result, head: None)

    def _metrics(self, struct):
        hits, counts = struct["rec.topk"].numpy()[:, :-1], struct["rec.topk"].numpy()[:, -1]
        items = len(np.unique(struct["rec.items"]))
        return {f"recall@{k}": round(recall(hits, counts)[k - 1], 4) for k in TOPK} | {"items": items}

    @torch.no_grad()
    def evaluate(self, eval_data, load_best_model=True, model_file=None, show_progress=False):
        users, items = self.model.forward()
        rows, best = [], []
        for user in eval_data.uid_list.tolist():
            scores = items @ users[user]
            scores[0] = scores[eval_data.uid2history_item[user]] = -torch.inf
            best.append(scores.topk(max(TOPK)).indices)
            kept = eval_data.uid2positive_item[user].tolist()
            rows.append([*(item in kept for item in best[-1].tolist()), len(kept)])
        self.eval_collector.data_struct.update_tensor("rec.topk", torch.tensor(rows).int())
        self.eval_collector.data_struct.update_tensor("rec.items", torch.stack(best))
        return self.evaluator.evaluate(self.eval_collector.get_data_struct())


def full_sort_data():
    users = range(1, USERS)
    return SimpleNamespace(
        uid_list=torch.tensor(users),
        uid2history_item={user: torch.from_numpy(interactions()[user].nonzero()[0]) for user in users},
        uid2positive_item={user: torch.tensor(held_out(user)) for user in users},
    )


@pytest.mark.parametrize("require_pow", [False, True])
def test_recbole_is_understood_in_every_part(require_pow):
    trainer, valid = RecBoleTrainer(RecBoleModel(require_pow)), full_sort_data()
    own = trainer.evaluate(valid)
    report = recbole.accelerate(trainer, valid, strict=True)
    assert report.patched == list(recbole.PARTS)
    assert trainer.evaluate(valid, load_best_model=False) == own and own["recall@5"] > 0
    report.restore()
    assert "forward" not in vars(trainer.model) and "evaluate" not in vars(trainer)


def test_a_fork_of_recbole_that_differs_is_not_replaced():
    class Fork(RecBoleModel):
        def forward(self):
            users, items = super().forward()
            return users, items * 1.01

    trainer = RecBoleTrainer(Fork())
    with pytest.warns(UserWarning, match="not replaced in Fork"):
        report = recbole.accelerate(trainer, full_sort_data(), ["forward", "calculate_loss", "optimizer"])
    assert set(report.differs) == {"forward", "calculate_loss"} and report.patched == ["optimizer"]


def recbole_remembers(self, interaction):
    self.batches += 1
    return RecBoleModel.calculate_loss(self, interaction)


def gated(self):
    """A gate that is learned, and closed before the first step, where it has no gradient either."""
    users, items = RecBoleModel.forward(self)
    return users, items * (1 + self.gate.square())


def gated_init(self):
    RecBoleModel.__init__(self)
    self.gate = nn.Parameter(torch.zeros(1))


RECBOLE = {
    "evaluation": ({"forward": doubled_in_evaluation(RecBoleModel)}, "forward", "result 2: entries differ"),
    "option": (
        {"forward": with_option(RecBoleModel)},
        "forward",
        "has a parameter 'option' that the replacement lacks",
    ),
    "untrained": ({"forward": gated, "__init__": gated_init}, "forward", "result 2: entries differ"),
    "remembers": (
        {"calculate_loss": recbole_remembers, "batches": 0},
        "calculate_loss",
        "sets model.batches, which the replacement does not set",
    ),
}


@pytest.mark.parametrize("name", RECBOLE)
def test_what_would_fail_or_differ_later_in_recbole_is_found_at_the_beginning(name):
    methods, part, reason = RECBOLE[name]
    model = fork(RecBoleModel, **methods)
    with pytest.warns(UserWarning, match="not replaced in RecBoleModel"):
        report = recbole.accelerate(RecBoleTrainer(model), full_sort_data())
    assert reason in report.differs[part] and "batches" not in vars(model) and model.training


def test_metrics_of_recbole_that_are_all_zero_show_nothing():
    trainer, valid = RecBoleTrainer(RecBoleModel()), full_sort_data()
    valid.uid2positive_item = {user: items[:1] for user, items in valid.uid2history_item.items()}  # never in a list
    trainer.evaluator.evaluate = lambda struct: {f"recall@{k}": trainer._metrics(struct)[f"recall@{k}"] for k in TOPK}
    with pytest.warns(UserWarning, match="evaluate: cannot be compared: .*no list has a hit"):
        recbole.accelerate(trainer, valid)


def test_a_sequential_model_of_recbole_is_reported():
    """It has no users and no such tables."""

    class Sequential(nn.Module):
        def __init__(self):
            super().__init__()
            self.items = nn.Embedding(ITEMS, D)

        def forward(self, item_seq, item_seq_len):
            return self.items(item_seq).mean(1)

        def calculate_loss(self, interaction):
            return self.forward(interaction["seq"], interaction["len"]).sum()

    with pytest.warns(UserWarning, match="forward: takes .*calculate_loss: cannot be compared"):
        report = recbole.accelerate(RecBoleTrainer(Sequential()), full_sort_data())
    assert report.patched == ["optimizer"] and set(report.differs) == {"forward", "calculate_loss", "evaluate"}
