"""A training loop for LightGCN with the BPR loss: sampling, propagation, loss and ranking come from mmssl_fast."""

import torch

from mmssl_fast import InteractionGraph, bpr_loss, cosine_topk, lightgcn, sample_bpr

torch.manual_seed(0)

# Each of 600 users interacts with 20 of 400 items, mostly those that are close in a latent space of taste.
taste_u, taste_i = torch.randn(600, 6), torch.randn(400, 6)
liked = (taste_u @ taste_i.T + torch.randn(600, 400)).topk(20, dim=1).indices
held_out = liked[:, 0]  # one item of each user, for testing
users = torch.arange(600).repeat_interleave(19)
graph = InteractionGraph.from_pairs(users, liked[:, 1:].reshape(-1), n_users=600, n_items=400)

user_table = torch.nn.Parameter(0.1 * torch.randn(600, 32))
item_table = torch.nn.Parameter(0.1 * torch.randn(400, 32))
optimizer = torch.optim.Adam([user_table, item_table], lr=0.02)


def recall(k: int = 20) -> float:
    """Fraction of users whose held-out item is among the k best unseen items."""
    with torch.no_grad():
        h_u, h_i = lightgcn(graph, user_table, item_table, layers=2)
    everybody = torch.arange(600)
    _, best = cosine_topk(h_u, h_i, k, seen=graph.rows(everybody), kind="dot")
    return (best == held_out[:, None]).any(dim=1).float().mean().item()


before = recall()
for step in range(150):
    batch, positive, negative = sample_bpr(graph, batch=1024, seed=0, offset=step)
    h_u, h_i = lightgcn(graph, user_table, item_table, layers=2)
    loss = bpr_loss(h_u, h_i, batch, positive, negative)
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()
after = recall()

print(f"Recall@20 {before:.3f} before training, {after:.3f} after; loss {loss.item():.3f}")
assert after > 3 * before
