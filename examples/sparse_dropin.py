"""A LightGCN that uses torch.sparse.mm, trained with and without the drop-in module: the losses are the same."""

import torch

from mmssl_fast.dropin import sparse


class LightGCN(torch.nn.Module):
    """LightGCN as in many repositories: one square adjacency matrix of users and items, and one product per layer."""

    def __init__(self, adjacency: torch.Tensor, n_users: int, width: int = 32, layers: int = 3) -> None:
        super().__init__()
        self.adjacency, self.n_users, self.layers = adjacency, n_users, layers
        self.table = torch.nn.Parameter(0.1 * torch.randn(adjacency.shape[0], width))

    def forward(self) -> tuple[torch.Tensor, torch.Tensor]:
        x, total = self.table, self.table
        for _ in range(self.layers):
            x = torch.sparse.mm(self.adjacency, x)
            total = total + x
        total = total / (self.layers + 1)
        return total[: self.n_users], total[self.n_users :]


def adjacency(n_users: int, n_items: int, degree: int) -> torch.Tensor:
    """D^-1/2 A D^-1/2 of a random bipartite graph, as a sparse COO tensor."""
    users = torch.arange(n_users).repeat_interleave(degree)
    items = torch.randint(n_items, (n_users * degree,)) + n_users
    index = torch.stack([torch.cat([users, items]), torch.cat([items, users])])
    size = (n_users + n_items, n_users + n_items)
    matrix = torch.sparse_coo_tensor(index, torch.ones(index.shape[1]), size, check_invariants=True).coalesce()
    degrees = torch.sparse.sum(matrix, dim=1).to_dense().clamp_min(1)
    row, column = matrix.indices()
    values = matrix.values() * (degrees[row] * degrees[column]).rsqrt()
    return torch.sparse_coo_tensor(matrix.indices(), values, size, check_invariants=True, is_coalesced=True)


def train(model: LightGCN, steps: int = 10) -> list[float]:
    optimizer, losses = torch.optim.Adam(model.parameters(), lr=0.05), []
    generator = torch.Generator().manual_seed(0)
    for _ in range(steps):
        users, items = model()
        u = torch.randint(users.shape[0], (256,), generator=generator)
        p, n = torch.randint(items.shape[0], (2, 256), generator=generator)
        loss = -torch.nn.functional.logsigmoid((users[u] * (items[p] - items[n])).sum(1)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


torch.manual_seed(0)
matrix = adjacency(2000, 1000, degree=15)
torch.manual_seed(1)
plain = train(LightGCN(matrix, 2000))
torch.manual_seed(1)
with sparse.accelerated():
    ours = train(LightGCN(matrix, 2000))

largest = max(abs(a - b) / abs(a) for a, b in zip(plain, ours, strict=True))
print(f"loss after 10 steps: {plain[-1]:.6f} with torch, {ours[-1]:.6f} with the drop-in")
print(f"largest relative difference {largest:.1e}")
assert largest < 1e-5
