"""accelerate for MMRec and RecBole, on modules with their names: forks that differ are not replaced."""

import random
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn as nn

from mmssl_fast.dropin import mmrec, recbole

USERS, ITEMS, D, TOPK = 20, 31, 6, [2, 5]


def interactions(density=0.2):
    """bool [USERS, ITEMS]; nobody has item 0, and user 0 has none: RecBole pads with them."""
    seen = np.random.default_rng(0).random((USERS, ITEMS)) < density
    seen[:, 1] = True
    seen[0] = seen[:, 0] = False
    return seen


def adjacency(seen):
    a = torch.zeros(USERS + ITEMS, USERS + ITEMS)
    a[:USERS, USERS:] = torch.from_numpy(seen).float()
    a += a.T.clone()
    scale = (a.sum(1) + 1e-7).rsqrt()
    return (scale[:, None] * a * scale).to_sparse()


def mean_of_layers(a, users, items, n_layers):
    layers = [torch.cat((users, items))]
    for _ in range(n_layers):
        layers.append(torch.sparse.mm(a, layers[-1]))
    return torch.stack(layers).mean(0).split((USERS, ITEMS))


def ranking_loss(users, items, triples, gamma=1e-10):
    u, p, n = triples
    return -torch.log(gamma + torch.sigmoid((users[u] * (items[p] - items[n])).sum(1))).mean()


def lengths(users, items, triples):
    u, p, n = triples
    return torch.stack([x.norm() for x in (users[u], items[p], items[n])]).sum(0, keepdim=True) / len(n)


def held_out(user):
    return [(user * 5) % (ITEMS - 1) + 1, (user * 3 + 1) % (ITEMS - 1) + 1]


def recall(hits, counts):
    return (hits.cumsum(1) / counts[:, None]).mean(0)


# --- MMRec ------------------------------------------------------------------------------------------------------------
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


# --- RecBole ----------------------------------------------------------------------------------------------------------
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
