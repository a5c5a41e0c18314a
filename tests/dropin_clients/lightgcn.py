"""Small LightGCN-type models as multimodal toolboxes write them: torch.sparse.mm over a joint graph."""

import torch
import torch.nn as nn
import torch.nn.functional as F


def joint_adjacency(users, items, n_users, n_items):
    """D^-1/2 [[0, A], [Aᵀ, 0]] D^-1/2 as an uncoalesced COO tensor over users, then items."""
    row = torch.cat((users, items + n_users))
    col = torch.cat((items + n_users, users))
    size = n_users + n_items
    degree = torch.bincount(row, minlength=size).float().clamp(min=1)
    return torch.sparse_coo_tensor(torch.stack((row, col)), (degree[row] * degree[col]).rsqrt(), (size, size))


def item_graph(features, k):
    """The k most similar items of every item, weighted by their cosine and normalised by row sums: not symmetric."""
    unit = F.normalize(features, dim=1)
    value, col = (unit @ unit.T).topk(k)
    row = torch.arange(len(features), device=features.device).repeat_interleave(k)
    value = (value / value.sum(1, keepdim=True)).flatten()
    return torch.sparse_coo_tensor(torch.stack((row, col.flatten())), value, (len(features), len(features)))


class LightGCN(nn.Module):
    """Mean of the layers 0..L over the joint graph."""

    def __init__(self, adjacency, n_users, n_items, width=16, layers=2):
        super().__init__()
        self.adjacency, self.n_users, self.layers = adjacency, n_users, layers
        self.user, self.item = nn.Embedding(n_users, width), nn.Embedding(n_items, width)
        nn.init.xavier_uniform_(self.user.weight)
        nn.init.xavier_uniform_(self.item.weight)

    def forward(self):
        kept = [torch.cat((self.user.weight, self.item.weight))]
        for _ in range(self.layers):
            kept.append(torch.sparse.mm(self.adjacency, kept[-1]))
        mean = torch.stack(kept, dim=1).mean(dim=1)
        return mean[: self.n_users], mean[self.n_users :]

    def loss(self, users, pos, neg):
        u, i = self()
        return -F.logsigmoid((u[users] * (i[pos] - i[neg])).sum(1)).mean()


class FrozenItemGraph(LightGCN):
    """The same with a fixed item-item graph beside it, whose smoothed item embeddings are added to the items."""

    def __init__(self, adjacency, features, n_users, n_items, k=5, width=16, layers=2):
        super().__init__(adjacency, n_users, n_items, width, layers)
        self.similar = item_graph(features, k)

    def forward(self):
        users, items = super().forward()
        return users, items + torch.sparse.mm(self.similar, self.item.weight)
