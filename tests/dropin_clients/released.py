"""A small adversarial trainer with the names and call signatures of the released MMSSL code, written for the tests.

Dense throughout: rows are B x I matrices. `Trainer.step` is one batch: discriminator, then generator.
"""

import heapq
import random
from types import SimpleNamespace

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn as nn
import torch.nn.functional as F

N_USERS, N_ITEMS, WIDTH = 70, 150, 8
Ks = [3, 10, 20]
args = SimpleNamespace(
    batch_size=24,
    tau=0.5,
    ui_pre_scale=1,
    log_log_scale=1.0,
    real_data_tau=0.8,
    gp_rate=1.0,
    G_rate=0.01,
    cl_rate=0.03,
    m_topk_rate=0.04,
    test_flag="part",
)


class Data:
    """Interactions as lists a user, and the sampler of a batch."""

    def __init__(self, n_users, n_items, batch_size, seed=0):
        generator = np.random.default_rng(seed)
        self.n_users, self.n_items, self.batch_size = n_users, n_items, batch_size
        self.train_items, self.val_set, self.test_set = {}, {}, {}
        for user in range(n_users - 2):  # the last two have never interacted
            items = generator.permutation(n_items)[: 1 + user % 9].tolist()
            self.train_items[user] = items
            self.val_set[user] = generator.permutation(n_items)[: 1 + user % 3].tolist()
            self.test_set[user] = generator.permutation(n_items)[: 1 + user % 2].tolist()
        self.val_set[n_users - 1] = [0, 1]
        self.exist_users = list(self.train_items)

    def matrix(self, dtype=np.float32):
        pairs = [(u, i) for u, items in self.train_items.items() for i in items]
        return sp.csr_matrix(
            (np.ones(len(pairs), dtype), tuple(zip(*pairs, strict=True))), (self.n_users, self.n_items)
        )

    def sample(self):
        if self.batch_size <= self.n_users:
            users = random.sample(self.exist_users, self.batch_size)
        else:
            users = [random.choice(self.exist_users) for _ in range(self.batch_size)]
        positives, negatives = [], []
        for user in users:
            own = self.train_items[user]
            positives.append(own[np.random.randint(low=0, high=len(own), size=1)[0]])
            while (item := np.random.randint(low=0, high=self.n_items, size=1)[0]) in own:
                pass
            negatives.append(item)
        return users, positives, negatives


data_generator = Data(N_USERS, N_ITEMS, args.batch_size)


def rated(hits, held_out):
    """Each metric at every K of one user's ranked list of 0 and 1."""
    discount = 1 / np.log2(np.arange(2, len(hits) + 2))
    best = np.sort(hits)[::-1]
    gain = [(hits[:k] * discount[:k]).sum() for k in Ks]
    ideal = [(best[:k] * discount[:k]).sum() for k in Ks]
    return {
        "precision": np.array([hits[:k].mean() for k in Ks]),
        "recall": np.array([hits[:k].sum() / held_out for k in Ks]),
        "ndcg": np.array([g / i if i else 0.0 for g, i in zip(gain, ideal, strict=True)]),
        "hit_ratio": np.array([float(hits[:k].any()) for k in Ks]),
    }


def area(scores, relevant):
    """Pairs of a relevant and another item in the right order, ties half."""
    above = [
        (scores[a] > scores[b]) + 0.5 * (scores[a] == scores[b])
        for a in scores
        if a in relevant
        for b in scores
        if b not in relevant
    ]
    return float(np.mean(above)) if above else 0.0


def test_torch(ua_embeddings, ia_embeddings, users_to_test, is_val, drop_flag=False, batch_test_flag=False):
    scores = (ua_embeddings[users_to_test] @ ia_embeddings.T).detach().numpy()
    total = {name: np.zeros(len(Ks)) for name in ("precision", "recall", "ndcg", "hit_ratio")} | {"auc": 0.0}
    for user, row in zip(users_to_test, scores, strict=True):
        relevant = (data_generator.val_set if is_val else data_generator.test_set)[user]
        unseen = {i: row[i] for i in range(data_generator.n_items) if i not in data_generator.train_items.get(user, [])}
        ranked = heapq.nlargest(max(Ks), unseen, key=unseen.get)
        found = rated(np.array([float(i in relevant) for i in ranked]), len(relevant))
        found["auc"] = area(unseen, relevant) if args.test_flag != "part" else 0.0
        total = {name: total[name] + found[name] / len(users_to_test) for name in total}
    return total


test_torch.__test__ = False


class Discriminator(nn.Module):
    def __init__(self, dim):
        super().__init__()
        wide, narrow = dim // 4, dim // 8
        self.net = nn.Sequential(
            *(nn.Linear(dim, wide), nn.LeakyReLU(True), nn.BatchNorm1d(wide), nn.Dropout(0.0)),
            *(nn.Linear(wide, narrow), nn.LeakyReLU(True), nn.BatchNorm1d(narrow), nn.Dropout(0.0)),
            *(nn.Linear(narrow, 1), nn.Sigmoid()),
        )

    def forward(self, x):
        return (100 * self.net(x.float())).view(-1)


class Model(nn.Module):
    """Ids and two modalities, each propagated once: users, items of each."""

    def __init__(self, n_users, n_items):
        super().__init__()
        self.user, self.item = nn.Embedding(n_users, WIDTH), nn.Embedding(n_items, WIDTH)
        self.features = nn.ParameterList([torch.randn(n_items, WIDTH) for _ in range(2)])

    def mm(self, x, y):
        return torch.sparse.mm(x, y)

    def forward(self, ui_graph, iu_graph):
        modal = []
        for features in self.features:
            users = self.mm(ui_graph, features)
            modal.append((users, self.mm(iu_graph, users)))
        users = self.user.weight + torch.mm(ui_graph, self.item.weight)
        return (users, self.item.weight + torch.mm(iu_graph, self.user.weight)), *modal


class Trainer:
    def __init__(self, matrix=None):
        torch.manual_seed(0)
        self.ui_graph_raw = data_generator.matrix() if matrix is None else matrix
        self.n_users, self.n_items = self.ui_graph_raw.shape
        self.batch_size, self.decay = args.batch_size, 1e-3
        self.ui_graph = self.matrix_to_tensor(self.scaled(self.ui_graph_raw))
        self.iu_graph = self.sparse_mx_to_torch_sparse_tensor(self.scaled(self.ui_graph_raw.T))
        self.model, self.D = Model(self.n_users, self.n_items), Discriminator(self.n_items)
        self.optim_D = torch.optim.Adam(self.D.parameters(), lr=3e-4, betas=(0.5, 0.9))
        self.optim_G = torch.optim.AdamW(self.model.parameters(), lr=5e-3)
        self.neighbours = []

    def scaled(self, matrix):
        degree = np.asarray(matrix.sum(1)).ravel()
        return sp.diags(1 / np.sqrt(degree + 1e-8)) @ matrix

    def matrix_to_tensor(self, cur_matrix):
        coo = cur_matrix.tocoo()
        ids = torch.from_numpy(np.stack((coo.row, coo.col)).astype(np.int64))
        return torch.sparse_coo_tensor(ids, torch.from_numpy(coo.data), coo.shape, check_invariants=True).float()

    def sparse_mx_to_torch_sparse_tensor(self, sparse_mx):
        return self.matrix_to_tensor(sparse_mx)

    def u_sim_calculation(self, users, user_final, item_final):
        interacted = torch.tensor(self.ui_graph_raw[users].todense())
        return F.normalize(user_final[users] @ item_final.T * (1 - interacted), dim=1)

    def gradient_penalty(self, D, xr, xf):
        xr, xf = xr.detach(), xf.detach()
        alpha = torch.rand(args.batch_size * 2, 1).expand_as(xr)
        mixed = alpha * xr + ((1 - alpha) * xf)
        mixed.requires_grad_()
        score = D(mixed)
        (gradient,) = torch.autograd.grad(
            outputs=score,
            inputs=mixed,
            grad_outputs=torch.ones_like(score),
            create_graph=True,
            retain_graph=True,
            only_inputs=True,
        )
        return ((gradient.norm(2, dim=1) - 1) ** 2).mean() * 0.3

    def batched_contrastive_loss(self, z1, z2, batch_size=1024):
        a, b = F.normalize(z1), F.normalize(z2)
        own, other = (a @ a.T / args.tau).exp(), (a @ b.T / args.tau).exp()
        share = other.diag() / (own.sum(1) + other.sum(1) - own.diag())
        return -(share + 1e-8).log().mean()

    def bpr_loss(self, users, pos_items, neg_items):
        margin = (users * pos_items).sum(1) - (users * neg_items).sum(1)
        squares = sum((x**2).sum() for x in (users, pos_items, neg_items)) / 2 / self.batch_size
        return -F.logsigmoid(margin).mean(), self.decay * squares, 0.0

    def step(self):
        """One batch; {term: value} and, after the optimisers' steps, what they left."""
        users, pos, neg = data_generator.sample()
        with torch.no_grad():
            final, *modal = self.model(self.ui_graph, self.iu_graph)
        rows = self.u_sim_calculation(users, *final).detach()
        fakes = [self.u_sim_calculation(users, *pair).detach() for pair in modal]
        inputf = torch.cat(fakes, dim=0)
        lossf = self.D(inputf).mean()
        u_ui = torch.tensor(self.ui_graph_raw[users].todense())
        noise = torch.log(-torch.log(torch.empty(u_ui.shape, dtype=torch.float32).uniform_(0, 1) + 1e-8) + 1e-8)
        u_ui = F.softmax(u_ui - args.log_log_scale * noise / args.real_data_tau, dim=1)
        u_ui += rows * args.ui_pre_scale
        u_ui = F.normalize(u_ui, dim=1)
        inputr = torch.cat((u_ui, u_ui), dim=0)
        lossr = -self.D(inputr).mean()
        gp = self.gradient_penalty(self.D, inputr, inputf.detach())
        loss_D = lossr + lossf + args.gp_rate * gp
        self.optim_D.zero_grad()
        loss_D.backward()
        self.optim_D.step()

        final, *modal = self.model(self.ui_graph, self.iu_graph)
        mf, emb, _ = self.bpr_loss(final[0][users], final[1][pos], final[1][neg])
        sims = [self.u_sim_calculation(users, *pair) for pair in modal]
        for sim in sims:
            _, ids = torch.topk(sim.detach(), int(self.n_items * args.m_topk_rate), dim=-1)
            self.neighbours.append(ids.cpu().view(-1).tolist())
        contrast = sum(self.batched_contrastive_loss(pair[0][users], final[0][users]) for pair in modal)
        G_lossf = -self.D(torch.cat(tuple(sims), dim=0)).mean()
        loss_G = mf + emb + args.cl_rate * contrast + args.G_rate * G_lossf
        self.optim_G.zero_grad()
        loss_G.backward()
        self.optim_G.step()
        terms = {
            "lossr": lossr,
            "lossf": lossf,
            "gp": gp,
            "mf": mf,
            "emb": emb,
            "contrast": contrast,
            "G_lossf": G_lossf,
        }
        return {name: term.item() for name, term in terms.items()}
