"""propagate and lightgcn: normalised sums over the neighbours of an interaction graph, one layer and many."""

import torch

from .. import library  # noqa: F401  registers torch.ops.mmssl_fast
from ..arguments import check_tensors
from ..graph import NORMS, InteractionGraph
from .derivatives import differentiable


def propagate(graph: InteractionGraph, x: torch.Tensor, to: str = "users", norm: str = "receiver") -> torch.Tensor:
    """Equals ``scale * (A @ x)`` with A the graph's matrix (its transpose for to="items") and scale by degree.

    Equations 2, 8 and 10, whose norm is one-sided: ``y_u = Σ_{i∈N_u} x_i / sqrt|N_u|``. Features of several modalities
    are propagated at once when they are concatenated along the feature axis. Linear in x, and its gradient is the same
    op along the transposed graph, which is stored: differentiable any number of times, without atomics, the same bits
    for any number of threads. The edge values of a weighted graph are constants.

    Args:
        graph: U users x I items, on x's device.
        x: [I, d] for to="users", [U, d] for to="items"; float32, float64, or bfloat16 (sums are formed in float32).
        to: the side that receives, "users" or "items".
        norm: "receiver" divides by ``sqrt|N_r|`` of the receiving node, "both" by ``sqrt(|N_r| |N_s|)`` of receiver
            and sender (LightGCN's), "none" leaves the sum. Degrees count edges, whatever their values.

    Returns:
        [U, d] for to="users", [I, d] for to="items", dtype of x; 0 for a node without neighbours.

    Raises:
        ValueError: for an unknown `to` or `norm`, or an x of the wrong shape, dtype or device.
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
    """Equals ``layers`` rounds of ``users, items = propagate(items, "users"), propagate(users, "items")`` and, for each
    side, the mean of the layers 0..L (equation 10).

    The mean is accumulated while a layer is computed and one buffer a side is reused, so memory does not grow with
    the number of layers, nor does autograd keep any of them: the gradient is the same op on the transposed graph.
    Differentiable any number of times; the same bits for any number of threads.

    Args:
        graph: U users x I items, on the embeddings' device.
        users: [U, d] and items: [I, d], both float32, float64 or bfloat16 (every layer is then kept in float32).
        layers: L ≥ 0; 0 returns copies.
        norm: degree scaling of every layer. "both" is LightGCN's (He et al., SIGIR 2020, Eq. 3), and with it the result
            equals the paper's (α_k = 1 / (K + 1)), RecBole's LightGCN and PyTorch Geometric's LightGCN given each
            interaction in both directions. "receiver", the default, is MMSSL's Eq. 10 and equals none of them; "none"
            sums.

    Returns:
        users [U, d] and items [I, d], dtype as given.

    Raises:
        ValueError: for an unknown `norm`, negative layers, or embeddings of the wrong shape, dtype or device.
    """
    _check_norm("lightgcn", norm)
    if layers < 0:
        raise ValueError(f"lightgcn: layers must not be negative, got {layers}")
    check_tensors("lightgcn", users=users, items=items)
    _check_rows("lightgcn", "users", users, graph, "users")
    _check_rows("lightgcn", "items", items, graph, "items")
    if users.shape[1] != items.shape[1] or users.dtype != items.dtype:
        raise ValueError(
            f"lightgcn: users are {users.shape[1]} wide in {users.dtype}, items {items.shape[1]} in {items.dtype}"
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


def _directions(graph: InteractionGraph, to: str) -> tuple[tuple, tuple]:
    by_user, by_item = (graph.crow, graph.col, graph.value), (graph.t_crow, graph.t_col, graph.t_value)
    return (by_user, by_item) if to == "users" else (by_item, by_user)


def _scale(graph: InteractionGraph, side: str, x: torch.Tensor) -> torch.Tensor:
    return graph.inv_sqrt_degree(side, torch.float64 if x.dtype == torch.float64 else torch.float32)


@torch.library.register_fake("mmssl_fast::propagate")
def _(crow, col, value, t_crow, t_col, t_value, row_scale, col_scale, x):
    return x.new_empty(crow.shape[0] - 1, x.shape[1])


@torch.library.register_fake("mmssl_fast::lightgcn")
def _(crow, col, value, t_crow, t_col, t_value, users_receive, users_send, items_receive, items_send, users, items, n):
    return users.new_empty(users.shape), items.new_empty(items.shape)


def _save_propagate(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:8])


def _propagate_grad(ctx, grad):
    # y = R A C x: the gradient is C Aᵀ R grad.
    crow, col, value, t_crow, t_col, t_value, row_scale, col_scale = ctx.saved_tensors
    dx = propagate_csr(t_crow, t_col, t_value, crow, col, value, col_scale, row_scale, grad)
    return *(None,) * 8, dx


def _save_lightgcn(ctx, inputs, output):
    ctx.save_for_backward(*inputs[:10])
    ctx.layers = inputs[12]


def _lightgcn_grad(ctx, users_grad, items_grad):
    # A layer is M = [[0, R_u A S_i], [R_i Aᵀ S_u, 0]]. Mᵀ = [[0, S_u A R_i], [S_i Aᵀ R_u, 0]] is one as well, with the
    # scales of receiving (R) and sending (S) exchanged. The gradient is the mean of its powers.
    *graph, users_receive, users_send, items_receive, items_send = ctx.saved_tensors
    scales = (users_send, users_receive, items_send, items_receive)
    return *(None,) * 10, *lightgcn_csr(*graph, *scales, users_grad, items_grad, ctx.layers), None


def _propagate_tangent(inputs, _, tangents):
    return propagate_csr(*inputs[:8], tangents[8])


def _lightgcn_tangent(inputs, _, tangents):
    moved = (torch.zeros_like(x) if t is None else t for x, t in zip(inputs[10:12], tangents[10:12], strict=True))
    return lightgcn_csr(*inputs[:10], *moved, inputs[12])


def _propagate_batch(info, in_dims, *args):
    """A batch of x lies side by side along the feature axis."""
    *graph, x = args
    return _apart(propagate_csr(*graph, _side_by_side(x, in_dims[8], info.batch_size)), info.batch_size), 0


def _lightgcn_batch(info, in_dims, *args):
    *graph, users, items, layers = args
    wide = (_side_by_side(x, dim, info.batch_size) for x, dim in zip((users, items), in_dims[10:12], strict=True))
    return tuple(_apart(y, info.batch_size) for y in lightgcn_csr(*graph, *wide, layers)), (0, 0)


def _side_by_side(x: torch.Tensor, dim: int | None, batch: int) -> torch.Tensor:
    x = x.expand(batch, *x.shape) if dim is None else x.movedim(dim, 0)
    return x.transpose(0, 1).reshape(x.shape[1], -1)


def _apart(y: torch.Tensor, batch: int) -> torch.Tensor:
    return y.unflatten(1, (batch, -1)).transpose(0, 1) if y.shape[1] else y.new_zeros(batch, *y.shape)


propagate_csr = differentiable(
    "propagate", _propagate_grad, _save_propagate, jvp=_propagate_tangent, vmap=_propagate_batch
)
lightgcn_csr = differentiable("lightgcn", _lightgcn_grad, _save_lightgcn, jvp=_lightgcn_tangent, vmap=_lightgcn_batch)
