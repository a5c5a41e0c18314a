"""The released code's relation rows, discriminator and gradient penalty on RelationRows."""

from __future__ import annotations

import warnings
import weakref
from collections.abc import Callable
from contextlib import nullcontext
from typing import Any

import scipy.sparse as sp
import torch
import torch.nn as nn
import torch.nn.functional as F
from torch import Tensor

from ...graph import InteractionGraph
from ...relation import RelationRows

PENALTY = 0.3  # the λ that the released gradient_penalty multiplies by, beside args.gp_rate

_warned: weakref.WeakSet[InteractionGraph] = weakref.WeakSet()


def interaction_graph(matrix: sp.spmatrix | sp.sparray) -> InteractionGraph:
    """The graph of a raw interaction matrix [U, I]. Edge values are stored only if one of them differs from 1.

    Example:
        >>> import scipy.sparse as sp
        >>> interaction_graph(sp.csr_array([[1, 0, 1], [0, 1, 0]])).nnz
        3
    """
    graph = InteractionGraph.from_scipy(matrix, weights=True)
    weighted = graph.value is not None and bool((graph.value != 1).any())
    return graph if weighted else InteractionGraph.from_scipy(matrix)


def relation_rows(
    graph: InteractionGraph, users: list[int] | Tensor, user_final: Tensor, item_final: Tensor
) -> RelationRows:
    """Equals ``F.normalize((user_final[users] @ item_final.T) * (1 - A[users]), dim=1)``, A the graph's matrix: the
    released ``u_sim_calculation``.

    The entries are dot products, instead of the cosines of Eq. 3 in the paper. The entry of a seen item is multiplied
    by 1 minus its edge value, and rows have length 1. If all edge values are 1, as for interactions, no matrix is
    formed. Otherwise the rows are dense, with one warning per graph.

    Args:
        graph: `interaction_graph` of the raw matrix.
        users: B user ids, a list or int64 [B].
        user_final: [U, d], item_final: [I, d], of one floating dtype. Gradients reach both.

    Example:
        >>> import scipy.sparse as sp
        >>> graph = interaction_graph(sp.csr_array([[1, 0, 1], [0, 1, 0]]))
        >>> rows = relation_rows(graph, [0], torch.ones(2, 4), torch.ones(3, 4))
        >>> rows.dense()  # the two seen items are 0
        tensor([[0., 1., 0.]])
    """
    graph = graph.to(user_final.device)
    users = torch.as_tensor(users, device=user_final.device)
    if graph.value is None:
        return RelationRows.generated(user_final[users], item_final, "dot", graph.rows(users)).normalize(1e-12)
    if graph not in _warned:
        _warned.add(graph)
        warnings.warn(
            "relation_rows: the graph has edge values other than 1, so its rows are dense (one warning per graph)",
            stacklevel=2,
        )
    unseen = torch.ones(len(users), graph.n_items, dtype=user_final.dtype, device=user_final.device)
    entry, row = _entries(graph, users)
    unseen[row, graph.col[entry].long()] -= graph.value[entry].to(unseen.dtype)
    return RelationRows.from_dense(F.normalize(user_final[users] @ item_final.T * unseen, dim=1))


def discriminate(net: nn.Sequential, x: RelationRows | Tensor, gemm: torch.dtype | None = None) -> Tensor:
    """Equals ``(100 * net(x.float())).view(-1)``: the released ``Discriminator.forward`` (Eq. 4 with its factor 100).

    net: Linear, LeakyReLU, BatchNorm, Dropout, …, Sigmoid. x: [B, I], rows or a matrix. LeakyReLU(True), whose slope is
    1, is the identity and is skipped. With gemm=torch.bfloat16, the products of the linear layers are bfloat16, while
    their results and all other computations are float32. Gradients reach the parameters and the factors of x.

    Example:
        >>> net = torch.nn.Sequential(torch.nn.Linear(6, 1), torch.nn.Sigmoid())
        >>> discriminate(net, torch.rand(3, 6)).shape
        torch.Size([3])
    """
    z = x.float()
    for layer in net:
        if isinstance(layer, nn.LeakyReLU) and layer.negative_slope == 1:
            continue
        cast = isinstance(layer, nn.Linear) and gemm is not None
        with torch.autocast(z.device.type, gemm) if cast else nullcontext():
            z = layer(z)
        z = z.float() if cast else z
    return (100 * z).view(-1)


def noisy_rows(
    interactions: sp.spmatrix | sp.sparray, noise_scale: float, tau: float, device: torch.device | str | None = None
) -> Tensor:
    """Equals ``F.softmax(A - noise_scale * torch.log(-torch.log(torch.rand(B, I) + 1e-8) + 1e-8) / tau, dim=1)``: the
    released real rows before ``+= rows * args.ui_pre_scale`` (Eq. 5, but the noise alone is divided by the
    temperature).

    interactions: A [B, I], the rows ``self.ui_graph_raw[users]`` of the raw matrix, any SciPy sparse matrix. It is not
    converted to a dense array. The uniform numbers are those of the released code, from torch's CPU generator.

    Returns:
        float32 [B, I], on `device`, without gradient.

    Example:
        >>> import scipy.sparse as sp
        >>> rows = noisy_rows(sp.csr_array([[1, 0, 1], [0, 1, 0]]), noise_scale=0.5, tau=1.0)
        >>> torch.allclose(rows.sum(1), torch.ones(2))
        True
    """
    if not sp.issparse(interactions):
        raise TypeError(f"noisy_rows: interactions must be a SciPy sparse matrix, got {type(interactions).__name__}")
    coo = interactions.tocoo()
    noise = torch.empty(coo.shape, dtype=torch.float32).uniform_(0, 1).to(device)
    noise.add_(1e-8).log_().neg_().add_(1e-8).log_().mul_(-noise_scale / tau)
    row, item = (torch.as_tensor(ids, dtype=torch.int64, device=device) for ids in (coo.row, coo.col))
    noise.index_put_((row, item), torch.as_tensor(coo.data, dtype=torch.float32, device=device), accumulate=True)
    return torch.softmax(noise, dim=1)


def gradient_penalty(
    D: Callable[[Any], Tensor],
    xr: RelationRows | Tensor,
    xf: RelationRows | Tensor,
    alpha: Tensor | None = None,
    gemm: torch.dtype | None = None,
) -> Tensor:
    """Equals ``0.3 * ((grad(D(x).sum(), x).norm(2, dim=1) - 1) ** 2).mean()`` at x = alpha * xr + (1 - alpha) * xf,
    constant rows: the released ``gradient_penalty`` (Eq. 7 with its factor).

    Args:
        D: the discriminator, a module that maps rows [B, I] to [B].
        xr, xf: real and generated rows [B, I]. They receive no gradient.
        alpha: [B, 1]. None: drawn uniformly, ``torch.rand(B, 1)``.
        gemm: torch.bfloat16: bfloat16 products in the computation of the lengths. The products in D do not change.

    Returns:
        Scalar, differentiable in D's parameters.

    Example:
        >>> net = torch.nn.Linear(6, 1)
        >>> gradient_penalty(lambda x: net(x).view(-1), torch.rand(3, 6), torch.rand(3, 6)) >= 0
        tensor(True)
    """
    xr, xf = xr.detach(), xf.detach()
    if alpha is None:
        alpha = torch.rand(len(xr), 1).to(xr.device)
    x: Any = (alpha * xr + (1 - alpha) * xf).requires_grad_()  # torch.autograd.grad knows no rows by type
    score = D(x)
    (gradient,) = torch.autograd.grad(score, x, torch.ones_like(score), create_graph=True)
    with torch.autocast(score.device.type, gemm) if gemm is not None else nullcontext():
        norm = gradient.norm(2, dim=1)
    return (norm - 1).square().mean() * PENALTY


def item_major_(weight: Tensor) -> None:
    """Stores weight [H, I] item-major, in place, so that the column of an item is contiguous. Values and Parameter do
    not change. Does nothing if the weight is already item-major."""
    if not weight.mT.is_contiguous():
        with torch.no_grad():
            weight.data = weight.data.mT.contiguous().mT


def _entries(graph: InteractionGraph, users: Tensor) -> tuple[Tensor, Tensor]:
    """(entry of the graph's CSR, row of the block) of every edge of `users`."""
    counts = graph.user_degree[users]
    row = torch.repeat_interleave(counts)
    first = counts.cumsum(0) - counts
    return graph.crow[users][row] + torch.arange(row.numel(), device=row.device) - first[row], row
