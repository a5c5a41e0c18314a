"""lightgcn, forward and backward, against the usual loop of torch.sparse.mm over the joint adjacency matrix."""

import pytest
import torch
from registry import compare, normal, shapes
from roofline import Work

from mmssl_fast.ops.propagate import lightgcn

LAYERS = 3


def joint_adjacency(graph):
    """[[0, A], [Aᵀ, 0]] with entries 1 / sqrt(|N_u| |N_i|) in COO format, as in the code of LightGCN."""
    users = torch.repeat_interleave(torch.arange(graph.n_users), graph.user_degree)
    items = graph.col.long()
    value = graph.inv_sqrt_degree("users")[users] * graph.inv_sqrt_degree("items")[items]
    index = torch.stack((torch.cat((users, items + graph.n_users)), torch.cat((items + graph.n_users, users))))
    nodes = graph.n_users + graph.n_items
    return torch.sparse_coo_tensor(index, torch.cat((value, value)), (nodes, nodes)).coalesce()


@pytest.mark.parametrize("shape", shapes("200k"), ids=str)
def test_lightgcn_forward_and_backward(benchmark, shape):
    graph = shape.graph()
    adjacency = joint_adjacency(graph)
    users, items = normal(graph.n_users, 64).requires_grad_(), normal(graph.n_items, 64, seed=1).requires_grad_()

    def ours():
        user_mean, item_mean = lightgcn(graph, users, items, LAYERS, norm="both")
        return torch.autograd.grad(user_mean.square().sum() + item_mean.square().sum(), (users, items))

    def peer():
        layers = [torch.cat((users, items))]
        for _ in range(LAYERS):
            layers.append(torch.sparse.mm(adjacency, layers[-1]))
        return torch.autograd.grad(torch.stack(layers).mean(0).square().sum(), (users, items))

    def check(actual, expected):
        for pair in zip(actual, expected, strict=True):
            torch.testing.assert_close(*pair, rtol=1e-4, atol=1e-5)

    # a layer is two products, forward and backward alike
    work = Work(bytes=4 * LAYERS * (graph.nnz * (4 * 64 + 4) + 2 * 4 * 64 * (graph.n_users + graph.n_items)))
    options = {"rounds": 10, "d": 64, "layers": LAYERS, "work": work}
    compare(benchmark, ours, peer, check, shape=shape, peer_name="torch.sparse.mm, COO", **options)
