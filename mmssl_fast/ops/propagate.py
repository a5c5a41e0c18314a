"""propagate and lightgcn: one or several layers of normalised sums over the neighbours in an interaction graph."""

from typing import Any

import torch
from torch import Tensor

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_tensors
from ..graph import NORMS, InteractionGraph
from .derivatives import differentiable


def propagate(graph: InteractionGraph, x: torch.Tensor, to: str = "users", norm: str = "receiver") -> torch.Tensor:
    """Equals ``(A @ x) / user_degree.sqrt()[:, None]`` for to="users" and ``(A.T @ x) / item_degree.sqrt()[:, None]``
    for to="items", where A [U, I] is the matrix of the graph.

    Equations 2, 8 and 10 of MMSSL (WWW 2023), which divide by the square root of the receiver's degree only. Features
    of several modalities can be propagated in one call by concatenating them along the feature axis. The op is linear
    in x, and its gradient is the same op on the transposed graph, which is stored. It is differentiable any number of
    times, uses no atomics, and has the same bits for any number of threads. Edge values of a weighted graph are
    constants.

    Args:
        graph: graph of U users and I items, on the device of x.
        x: [I, d] for to="users", [U, d] for to="items"; float32, float64, or bfloat16 (sums in float32).
        to: the side that receives, "users" or "items".
        norm: "receiver" divides by ``sqrt|N_r|`` of the receiving node, "both" by ``sqrt(|N_r| |N_s|)`` of receiver
            and sender as in LightGCN, and "none" does not divide. The degree is the number of edges, independent of
            their values.

    Returns:
        [U, d] for to="users", [I, d] for to="items", dtype of x. A node without neighbours has 0.

    Raises:
        ValueError: `to` or `norm` is unknown, or x has the wrong shape, dtype or device.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> adjacency = torch.tensor([[1.0, 0.0, 1.0], [0.0, 1.0, 0.0]])
        >>> x = torch.randn(3, 4)
        >>> torch.allclose(propagate(graph, x), adjacency @ x / torch.tensor([[2.0], [1.0]]).sqrt())
        True
        >>> torch.equal(propagate(graph, x, norm="none"), adjacency @ x)
        True
    """
    if to not in ("users", "items"):
        raise ValueError(f'propagate: to must be "users" or "items", got {to!r}')
    _check_norm("propagate", norm)
    check_tensors("propagate", x=x)
    senders = "items" if to == "users" else "users"
    _check_rows("propagate", "x", x, graph, senders)
    forward, backward = _directions(graph, to)
    row_scale = None if norm == "none" else _scale(graph, to, x)
    col_scale = _scale(graph, senders, x) if norm == "both" else None
    return propagate_csr(*forward, *backward, row_scale, col_scale, x)


def lightgcn(
    graph: InteractionGraph, users: torch.Tensor, items: torch.Tensor, layers: int, norm: str = "receiver"
) -> tuple[torch.Tensor, torch.Tensor]:
    """Equals ``layers`` rounds of ``users, items = propagate(graph, items, "users"), propagate(graph, users, "items")``
    and then, for each side, the mean over the layers 0 to L.

    Equation 10 of MMSSL (WWW 2023). The mean is accumulated while a layer is computed, and one buffer per side is
    reused. Memory therefore does not grow with the number of layers, and autograd keeps no layer: the gradient is the
    same op on the transposed graph. Differentiable any number of times. The result has the same bits for any number of
    threads.

    Args:
        graph: graph of U users and I items, on the device of the embeddings.
        users: [U, d] float32, float64 or bfloat16 (all layers are then kept in float32).
        items: [I, d], dtype of users.
        layers: number of layers L, at least 0.
        norm: degree scaling of every layer, as for `propagate`. "receiver" is equation 10 of MMSSL. "both" is LightGCN
            (He et al., SIGIR 2020, Eq. 3), and then the result equals the one of the paper with α_k = 1 / (K + 1), of
            RecBole's LightGCN, and of PyTorch Geometric's LightGCN if it gets each interaction in both directions.

    Returns:
        users [U, d] and items [I, d], dtype of the inputs.

    Raises:
        ValueError: `norm` is unknown, layers is negative, or the embeddings have the wrong shape, dtype or device.

    Example:
        >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
        >>> users, items = torch.randn(2, 4), torch.randn(3, 4)
        >>> new_users, new_items = lightgcn(graph, users, items, layers=1)
        >>> torch.allclose(new_users, (users + propagate(graph, items, "users")) / 2)
        True
    """
    _check_norm("lightgcn", norm)
    if layers < 0:
        raise ValueError(f"lightgcn: layers must not be negative, got {layers}")
    check_tensors("lightgcn", users=users, items=items)
    _check_rows("lightgcn", "users", users, graph, "users")
    _check_rows("lightgcn", "items", items, graph, "items")
    if users.shape[1] != items.shape[1] or users.dtype != items.dtype:
        raise ValueError(
            f"lightgcn: users and items must have the same width and dtype, got {users.shape[1]} ({users.dtype}) and "
            f"{items.shape[1]} ({items.dtype})"
        )
    user_scale, item_scale = (None, None) if norm == "none" else (_scale(graph, s, users) for s in ("users", "items"))
    send = (user_scale, item_scale) if norm == "both" else (None, None)
    forward, backward = _directions(graph, "users")
    return lightgcn_csr(*forward, *backward, user_scale, send[0], item_scale, send[1], users, items, layers)


def _check_norm(op: str, norm: str) -> None:
    if norm not in NORMS:
        raise ValueError(f"{op}: norm must be one of {', '.join(NORMS)}, got {norm!r}")


def _check_rows(op: str, name: str, x: torch.Tensor, graph: InteractionGraph, side: str) -> None:
    rows = graph.n_users if side == "users" else graph.n_items
    if x.ndim != 2:
        raise ValueError(f"{op}: {name} must be [{rows}, d], got shape {tuple(x.shape)}")
    if x.shape[0] != rows:
        raise ValueError(f"{op}: {name} has {x.shape[0]} rows, the graph has {rows} {side}")
    if x.device != graph.device:
        raise ValueError(f"{op}: {name} is on {x.device}, the graph is on {graph.device}")


_Csr = tuple[Tensor, Tensor, Tensor | None]  # crow, col, value


def _directions(graph: InteractionGraph, to: str) -> tuple[_Csr, _Csr]:
    by_user, by_item = (graph.crow, graph.col, graph.value), (graph.t_crow, graph.t_col, graph.t_value)
    return (by_user, by_item) if to == "users" else (by_item, by_user)


def _scale(graph: InteractionGraph, side: str, x: torch.Tensor) -> torch.Tensor:
    return graph.inv_sqrt_degree(side, torch.float64 if x.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("mmssl_fast::propagate")
def _(crow: Tensor, *rest: Any) -> Tensor:
    x = rest[-1]
    return x.new_empty(crow.shape[0] - 1, x.shape[1])


@torch.library.register_fake("mmssl_fast::lightgcn")
def _(*args: Any) -> tuple[Tensor, Tensor]:
    users, items, _layers = args[-3:]
    return users.new_empty(users.shape), items.new_empty(items.shape)


def _save_propagate(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:8])


def _propagate_grad(ctx: Any, grad: Tensor) -> tuple[Tensor | None, ...]:
    # y = R A C x: the gradient is C Aᵀ R grad.
    crow, col, value, t_crow, t_col, t_value, row_scale, col_scale = ctx.saved_tensors
    dx = propagate_csr(t_crow, t_col, t_value, crow, col, value, col_scale, row_scale, grad)
    return *(None,) * 8, dx


def _save_lightgcn(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    ctx.save_for_backward(*inputs[:10])
    ctx.layers = inputs[12]


def _lightgcn_grad(ctx: Any, users_grad: Tensor, items_grad: Tensor) -> tuple[Tensor | None, ...]:
    # A layer multiplies by M = [[0, R_u A S_i], [R_i Aᵀ S_u, 0]] with the scales R of receivers and S of senders.
    # Its transpose Mᵀ = [[0, S_u A R_i], [S_i Aᵀ R_u, 0]] is a layer with R and S exchanged. The gradient is the mean
    # of the powers of Mᵀ.
    *graph, users_receive, users_send, items_receive, items_send = ctx.saved_tensors
    scales = (users_send, users_receive, items_send, items_receive)
    return *(None,) * 10, *lightgcn_csr(*graph, *scales, users_grad, items_grad, ctx.layers), None


def _propagate_tangent(inputs: tuple[Any, ...], _: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    return propagate_csr(*inputs[:8], tangents[8])


def _lightgcn_tangent(inputs: tuple[Any, ...], _: Tensor, tangents: tuple[Any, ...]) -> Tensor:
    dense = (torch.zeros_like(x) if t is None else t for x, t in zip(inputs[10:12], tangents[10:12], strict=True))
    return lightgcn_csr(*inputs[:10], *dense, inputs[12])


def _propagate_batch(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Tensor, int]:
    """The vmap rule: the batch is concatenated along the feature axis and propagated in one call."""
    *graph, x = args
    return _split_batch(propagate_csr(*graph, _side_by_side(x, in_dims[8], info.batch_size)), info.batch_size), 0


def _lightgcn_batch(
    info: Any, in_dims: tuple[int | None, ...], *args: Any
) -> tuple[tuple[Tensor, ...], tuple[int, int]]:
    *graph, users, items, layers = args
    wide = (_side_by_side(x, dim, info.batch_size) for x, dim in zip((users, items), in_dims[10:12], strict=True))
    return tuple(_split_batch(y, info.batch_size) for y in lightgcn_csr(*graph, *wide, layers)), (0, 0)


def _side_by_side(x: torch.Tensor, dim: int | None, batch: int) -> torch.Tensor:
    x = x.expand(batch, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _split_batch(y: torch.Tensor, batch: int) -> torch.Tensor:
    return y.unflatten(1, (batch, -1)).transpose(0, 1) if y.shape[1] else y.new_zeros(batch, *y.shape)


propagate_csr = differentiable(
    "propagate", _propagate_grad, _save_propagate, jvp=_propagate_tangent, vmap=_propagate_batch
)
lightgcn_csr = differentiable("lightgcn", _lightgcn_grad, _save_lightgcn, jvp=_lightgcn_tangent, vmap=_lightgcn_batch)
