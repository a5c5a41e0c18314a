"""accelerate for MMRec, on a client with its names: forks that differ are not replaced."""

import random
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

from mmssl_fast.dropin import mmrec


class Column(np.ndarray):
    @property
    def values(self):
        return np.asarray(self)


class LightGCN(nn.Module):
    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.n_layers, self.reg_weight, self.mf_loss = 2, 0.01, SimpleNamespace(gamma=1e-10)
        tables = {"user_emb": USERS, "item_emb": ITEMS}
        self.embedding_dict = nn.ParameterDict({name: nn.Parameter(torch.randn(n, D)) for name, n in tables.items()})
        self.norm_adj_matrix = adjacency(interactions())

    def pre_epoch_processing(self):
        pass

    def forward(self):
        return mean_of_layers(self.norm_adj_matrix, *self.tables(), self.n_layers)

    def tables(self):
        return self.embedding_dict["user_emb"], self.embedding_dict["item_emb"]

    def calculate_loss(self, interaction):
        triples = interaction[:3]
        return ranking_loss(*self.forward(), triples) + self.reg_weight * lengths(*self.tables(), triples)

    def full_sort_predict(self, interaction):
        users, items = self.forward()
        return users[interaction[0]] @ items.T


class Loader:
    """MMRec's loader of training triples, as far as negatives are concerned."""

    def __init__(self):
        users, items = (ids.view(Column) for ids in interactions().nonzero())
        self.dataset = SimpleNamespace(df={"userID": users, "itemID": items})
        self.config = {"USER_ID_FIELD": "userID", "ITEM_ID_FIELD": "itemID", "device": "cpu"}
        self.all_items = np.unique(items).tolist()
        random.Random(3).shuffle(self.all_items)
        self.history_items_per_u = {user: set(items.values[users == user].tolist()) for user in users.tolist()}

    def _sample_neg_ids(self, u_ids):
        found = []
        for user in u_ids:
            item = random.sample(self.all_items, 1)[0]
            while item in self.history_items_per_u[user]:
                item = random.sample(self.all_items, 1)[0]
            found.append(item)
        return torch.tensor(found)


class Evaluation:
    """MMRec's loader for evaluation: batches of users, and the (row, item) pairs to leave out."""

    def __init__(self):
        self.dataset, self.users = SimpleNamespace(item_num=ITEMS), list(range(1, USERS))

    def __iter__(self):
        for users in torch.tensor(self.users).split(7):
            yield [users, torch.from_numpy(interactions()[users.numpy()]).nonzero().T]

    def get_eval_items(self):
        return [held_out(user) for user in self.users]

    def get_eval_len_list(self):
        return np.full(len(self.users), 2)


class Trainer:
    def __init__(self, model):
        self.model, self.config = model, {"topk": TOPK}
        self.optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
        self.evaluator = SimpleNamespace(metrics=["recall"], topk=TOPK, save_recom_result=False)
        self.evaluator._calculate_metrics = lambda counts, hits: np.stack([recall(hits, counts)])

    @torch.no_grad()
    def evaluate(self, eval_data, is_test=False, idx=0):
        self.model.eval()
        best = []
        for batch in eval_data:
            scores = self.model.full_sort_predict(batch)
            scores[batch[1][0], batch[1][1]] = -1e10
            best += scores.topk(max(TOPK)).indices.tolist()
        hits = [[item in kept for item in row] for row, kept in zip(best, eval_data.get_eval_items(), strict=True)]
        values = self.evaluator._calculate_metrics(eval_data.get_eval_len_list(), np.array(hits))
        return {f"recall@{k}": round(values[0][k - 1], 4) for k in TOPK}


def test_mmrec_is_understood_in_every_part():
    trainer, train, valid = Trainer(LightGCN()), Loader(), Evaluation()
    own = trainer.evaluate(valid)
    random.seed(5)
    negatives, state = train._sample_neg_ids(train.dataset.df["userID"]), random.getstate()
    report = mmrec.accelerate(trainer, train, valid, strict=True)
    assert report.patched == list(mmrec.PARTS)
    assert trainer.evaluate(valid) == own and own["recall@5"] > 0
    random.seed(5)
    assert torch.equal(train._sample_neg_ids(train.dataset.df["userID"]), negatives) and random.getstate() == state
    report.restore()
    assert "forward" not in vars(trainer.model) and "evaluate" not in vars(trainer)


def test_other_models_of_mmrec_keep_their_forward():
    other = type("Other", (LightGCN,), {})()
    trainer, valid = Trainer(other), Evaluation()
    own = trainer.evaluate(valid)
    report = mmrec.accelerate(trainer, Loader(), valid)
    assert report.missing == ["forward", "calculate_loss"]
    assert report.patched == ["optimizer", "_sample_neg_ids", "evaluate"]
    assert trainer.evaluate(valid) == own


def test_a_fork_of_mmrec_that_differs_is_not_replaced():
    class Fork(LightGCN):
        def calculate_loss(self, interaction):
            return super().calculate_loss(interaction) * 1.01

    Fork.__name__ = "LightGCN"
    train = Loader()
    train._sample_neg_ids = lambda u_ids: torch.tensor(random.choices(train.all_items, k=len(u_ids)))
    with pytest.warns(UserWarning, match="not replaced in LightGCN"):
        report = mmrec.accelerate(Trainer(Fork()), train, Evaluation())
    assert set(report.differs) == {"calculate_loss", "_sample_neg_ids"}


def remembers(self, interaction):
    self.regularization = self.reg_weight * lengths(*self.tables(), interaction[:3]).detach()
    return LightGCN.calculate_loss(self, interaction)


def biased(self, interaction):
    """A popularity that is learned, and zero before the first step."""
    return LightGCN.full_sort_predict(self, interaction) + self.bias


def biased_init(self):
    LightGCN.__init__(self)
    self.bias = nn.Parameter(torch.zeros(ITEMS))


MMREC = {
    "evaluation": ({"forward": doubled_in_evaluation(LightGCN)}, "forward", "result 2: entries differ"),
    "option": ({"forward": with_option(LightGCN)}, "forward", "has a parameter 'option' that the replacement lacks"),
    "remembers": ({"calculate_loss": remembers}, "calculate_loss", "sets model.regularization, which the replacement"),
    "untrained": ({"full_sort_predict": biased, "__init__": biased_init}, "evaluate", "the replacement gives"),
}


@pytest.mark.parametrize("name", MMREC)
def test_what_would_fail_or_differ_later_in_mmrec_is_found_at_the_beginning(name):
    methods, part, reason = MMREC[name]
    model = fork(LightGCN, **methods)
    before = [p.clone() for p in model.parameters()]
    with pytest.warns(UserWarning, match="not replaced in LightGCN"):
        report = mmrec.accelerate(Trainer(model), Loader(), Evaluation())
    assert reason in report.differs[part]
    assert all(map(torch.equal, before, model.parameters())) and "regularization" not in vars(model)


def test_an_evaluation_of_mmrec_with_another_option_stays():
    class Saving(Trainer):
        def evaluate(self, eval_data, is_test=False, idx=0, save=False):
            return super().evaluate(eval_data, is_test, idx)

    with pytest.warns(UserWarning, match="evaluate: has a parameter 'save' that the replacement lacks"):
        mmrec.accelerate(Saving(LightGCN()), Loader(), Evaluation())


def test_an_evaluator_of_mmrec_that_saves_no_lists_also_tests():
    trainer, valid = Trainer(LightGCN()), Evaluation()
    del trainer.evaluator.save_recom_result
    own = trainer.evaluate(valid, is_test=True)
    mmrec.accelerate(trainer, Loader(), valid, strict=True)
    assert trainer.evaluate(valid, is_test=True) == own


def test_metrics_that_are_all_zero_show_nothing():
    valid = Evaluation()
    valid.get_eval_items = lambda: [[] for _ in valid.users]
    with pytest.warns(UserWarning, match="evaluate: cannot be compared: .*no list has a hit"):
        mmrec.accelerate(Trainer(LightGCN()), Loader(), valid)


def test_a_loader_of_mmrec_with_other_names_is_reported():
    train = Loader()
    train.dataset.df = {"user": train.dataset.df["userID"]}
    with pytest.warns(UserWarning, match="calculate_loss: cannot be compared: the original code raised KeyError"):
        report = mmrec.accelerate(Trainer(LightGCN()), train, Evaluation())
    assert set(report.differs) == {"calculate_loss", "_sample_neg_ids"}


def test_negatives_of_mmrec_follow_another_history():
    train = Loader()
    mmrec.accelerate(Trainer(LightGCN()), train, Evaluation(), ["_sample_neg_ids"], strict=True)
    only = train.all_items[0]
    train.history_items_per_u = {user: {*train.all_items} - {only} for user in train.history_items_per_u}
    assert set(train._sample_neg_ids(train.dataset.df["userID"]).tolist()) == {only}
