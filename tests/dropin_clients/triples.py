"""What trainers of LightGCN have in common: interactions, the mean of the layers, the ranking loss, and recall."""

import numpy as np
import torch

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
