"""The implementations of the torch functions that RelationRows and their gradients support.

Any other torch function raises a TypeError that names `.dense()`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from ..tiles import item_tiles
from .column import ExpandedColumn
from .gradient import RelationGradient, RelationGradientSquare
from .registry import handles
from .rows import RelationRows


def _refuse_out(name: str, **options: object) -> None:
    given = [key for key, value in options.items() if value is not None]
    if given:
        raise TypeError(f"{name} of RelationRows does not support {', '.join(given)}; use .dense()")


@handles(F.linear)
def _linear(input: object, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    if not isinstance(input, RelationRows):
        raise TypeError("linear: only the input can be RelationRows, not the weight or bias; use .dense()")
    return input.linear(weight, bias)


@handles(torch.matmul, torch.mm)
def _matmul(a: object, b: Tensor, *, out: Tensor | None = None) -> Tensor:
    _refuse_out("matmul", out=out)
    if not isinstance(a, RelationRows):
        raise TypeError("matmul: only the first factor can be RelationRows; use .dense()")
    return a @ b


@handles(F.normalize)
def _normalize(
    input: object, p: float = 2.0, dim: int = 1, eps: float = 1e-12, out: Tensor | None = None
) -> RelationRows:
    if not isinstance(input, RelationRows) or p != 2 or dim not in (1, -1) or out is not None or eps <= 0:
        raise TypeError(
            f"normalize of RelationRows: only p=2, dim=1 and eps > 0 are supported, got p={p}, dim={dim}, eps={eps}; "
            "use .dense()"
        )
    return input.normalize(eps)


@handles(torch.cat, torch.concat, torch.concatenate)
def _cat(
    tensors: Iterable[RelationRows | Tensor], dim: int = 0, *, axis: int | None = None, out: Tensor | None = None
) -> RelationRows:
    dim = dim if axis is None else axis
    if dim not in (0, -2) or out is not None:
        raise TypeError(f"cat of RelationRows: only dim=0 without out is supported, got dim={dim}; use .dense()")
    return RelationRows.cat(list(tensors))


@handles(torch.topk)
def _topk(
    input: RelationRows, k: int, dim: int = -1, largest: bool = True, sorted: bool = True, *, out: object = None
) -> torch.return_types.topk:
    _refuse_out("topk", out=out)
    return input.topk(k, dim, largest, sorted)


@handles(torch.add, Tensor.add, Tensor.__add__, Tensor.__radd__)
def _add(a: Any, b: Any, *, alpha: float = 1, out: Tensor | None = None) -> RelationRows:
    _refuse_out("add", out=out)
    b = b if alpha == 1 else b * alpha
    return a + b if isinstance(a, RelationRows) else b + a


@handles(torch.sub, torch.subtract, Tensor.sub, Tensor.__sub__)
def _sub(a: Any, b: Any, *, alpha: float = 1, out: Tensor | None = None) -> RelationRows:
    _refuse_out("sub", out=out)
    b = b if alpha == 1 else b * alpha
    return a - b if isinstance(a, RelationRows) else (-b) + a


@handles(Tensor.__rsub__)
def _rsub(a: Any, b: Any) -> RelationRows:
    return _sub(b, a)


@handles(Tensor.add_, Tensor.__iadd__)
def _add_to_dense(dense: Tensor, rows: object, *, alpha: float = 1) -> RelationRows:
    """dense += rows, in place. The result is RelationRows, so that the following operations do not form a matrix."""
    if not isinstance(rows, RelationRows) or dense.shape != rows.shape:
        shape = tuple(getattr(rows, "shape", ()))
        raise TypeError(
            f"add_: the dense block and the rows must have the same shape, got {tuple(dense.shape)} and {shape}; "
            "use .dense()"
        )
    rows = rows if alpha == 1 else rows * alpha
    if torch.is_grad_enabled() and (rows.requires_grad or dense.requires_grad):
        return RelationRows.from_dense(dense.add_(rows.dense()))
    first = 0
    for block in rows._blocks:
        target = dense[first : first + block.n_rows]
        for begin, end in item_tiles(block.n_rows, dense.shape[1]):
            target[:, begin:end] += block.tile(begin, end)
        first += block.n_rows
    return RelationRows.from_dense(dense)


@handles(Tensor.sub_, Tensor.__isub__)
def _sub_from_dense(dense: Tensor, rows: object, *, alpha: float = 1) -> RelationRows:
    return _add_to_dense(dense, rows, alpha=-alpha)


@handles(torch.mul, torch.multiply, Tensor.mul, Tensor.multiply, Tensor.__mul__, Tensor.__rmul__)
def _mul(a: Any, b: Any, *, out: Tensor | None = None) -> RelationRows:
    _refuse_out("mul", out=out)
    return a * b if isinstance(a, RelationRows) else b * a


@handles(torch.div, torch.divide, torch.true_divide)
def _div(a: object, b: Tensor | float, *, rounding_mode: str | None = None, out: Tensor | None = None) -> RelationRows:
    _refuse_out("div", rounding_mode=rounding_mode, out=out)
    if not isinstance(a, RelationRows):
        raise TypeError("div: the divisor cannot be RelationRows; use .dense()")
    return a / b


@handles(torch.neg, torch.negative)
def _neg(a: RelationRows, *, out: Tensor | None = None) -> RelationRows:
    _refuse_out("neg", out=out)
    return -a


@handles(torch.lerp, Tensor.lerp)
def _lerp(start: Any, end: Any, weight: Tensor | float, *, out: Tensor | None = None) -> RelationRows:
    _refuse_out("lerp", out=out)
    return start * (1 - weight) + end * weight


@handles(Tensor.expand_as)
def _expand_as(tensor: Tensor, rows: RelationRows) -> Tensor:
    """The expanded view [B, I]. A column or a number becomes an ExpandedColumn."""
    return ExpandedColumn.of(tensor.expand(rows.shape))


@handles(torch.detach)
def _detach(rows: RelationRows) -> RelationRows:
    return rows.detach()


@handles(torch.clone)
def _clone(rows: RelationRows, *, memory_format: torch.memory_format | None = None) -> RelationRows:
    return rows.clone()


@handles(torch.norm, torch.functional.norm)
def _norm(
    input: object, p: Any = "fro", dim: Any = None, keepdim: bool = False, out: object = None, dtype: object = None
) -> Tensor:
    _refuse_out("norm", out=out, dtype=dtype)
    return _row_lengths(input, p, dim, keepdim)


@handles(torch.linalg.norm, torch.linalg.vector_norm)
def _linalg_norm(
    x: object, ord: Any = None, dim: Any = None, keepdim: bool = False, *, dtype: object = None, out: object = None
) -> Tensor:
    _refuse_out("norm", out=out, dtype=dtype)
    return _row_lengths(x, 2 if ord is None else ord, dim, keepdim)


def _row_lengths(x: object, p: Any, dim: Any, keepdim: bool) -> Tensor:
    if isinstance(x, RelationGradient):
        return x.norm(p, dim, keepdim)
    dim = dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim
    if not isinstance(x, RelationRows) or p not in (2, "fro") or dim not in (1, -1):
        raise TypeError(
            f"norm of RelationRows: only row norms (p=2, dim=1) are supported, got p={p}, dim={dim}; use .dense()"
        )
    norm = x.row_norm()
    return norm[:, None] if keepdim else norm


@handles(torch.square)
def _square(x: object, *, out: Tensor | None = None) -> RelationGradientSquare:
    _refuse_out("square", out=out)
    return _pow(x, 2)


@handles(torch.pow)
def _pow(x: object, exponent: object, *, out: Tensor | None = None) -> RelationGradientSquare:
    _refuse_out("pow", out=out)
    if not isinstance(x, RelationGradient):
        raise TypeError("pow does not support RelationRows; use .dense()")
    return x.pow(exponent)


@handles(torch.sum)
def _sum(x: object, dim: Any = None, keepdim: bool = False, *, dtype: object = None, out: object = None) -> Tensor:
    _refuse_out("sum", dtype=dtype, out=out)
    if not isinstance(x, RelationGradientSquare):
        raise TypeError(f"sum does not support {type(x).__name__}; use .dense()")
    return x.sum(dim, keepdim)


@handles(torch.flatten)
def _flatten(x: object, start_dim: int = 0, end_dim: int = -1) -> RelationGradient:
    if not isinstance(x, RelationGradient):
        raise TypeError(f"flatten does not support {type(x).__name__}; use .dense()")
    return x.flatten(start_dim, end_dim)


@handles(torch.reshape)
def _reshape(x: object, shape: Sequence[int]) -> RelationGradient:
    if not isinstance(x, RelationGradient):
        raise TypeError("reshape does not support RelationRows; use .dense()")
    return x.view(*shape)


@handles(torch.autograd.grad)
def _autograd_grad(
    outputs: Sequence[Tensor],
    inputs: Sequence[Tensor | RelationRows],
    grad_outputs: Sequence[Tensor | None] | None = None,
    retain_graph: bool | None = None,
    create_graph: bool = False,
    only_inputs: bool = True,
    allow_unused: bool | None = None,
    is_grads_batched: bool = False,
    materialize_grads: bool = False,
) -> tuple[Tensor | RelationGradient | None, ...]:
    """Gradients with respect to tensors and rows. For rows the result is a RelationGradient: autograd computes the
    gradient with respect to the output of every linear layer whose input the rows were."""
    if any(isinstance(out, RelationRows) for out in outputs) or is_grads_batched:
        raise TypeError(
            "autograd.grad: only inputs can be RelationRows, not outputs, and is_grads_batched is not supported; "
            "use .dense()"
        )
    # torch differentiates with respect to tensors and edges at once, but its types ask for a list of one kind.
    flat: list[Any] = []
    for place, x in enumerate(inputs):
        if not isinstance(x, RelationRows):
            flat.append(x)
            continue
        name = f"input {place} (RelationRows of shape {tuple(x.shape)})"
        if x._uses.others:
            raise TypeError(
                f"autograd.grad: {name} was used in {', '.join(x._uses.others)} while it required grad; only linear "
                "layers can be differentiated with respect to rows, use .dense()"
            )
        if not x._uses.linear:
            raise RuntimeError(
                f"autograd.grad: {name} was not the input of a linear layer while it required grad; call "
                "requires_grad_() directly before the linear layer"
            )
        flat += [edge for edge, _ in x._uses.linear]
    gradients = iter(torch.autograd.grad(outputs, flat, grad_outputs, retain_graph, create_graph, allow_unused=True))
    return tuple(
        _gradient_of(place, x, gradients, bool(allow_unused), materialize_grads) for place, x in enumerate(inputs)
    )


def _gradient_of(
    place: int, x: Tensor | RelationRows, gradients: Iterator[Tensor | None], allow_unused: bool, materialize: bool
) -> Tensor | RelationGradient | None:
    if isinstance(x, RelationRows):
        weights = [weight for _, weight in x._uses.linear]
        factors = [(g, weight) for weight in weights if (g := next(gradients)) is not None]
        if factors:
            return RelationGradient(factors)
        if materialize:
            return RelationGradient([(weights[0].new_zeros(len(x), weights[0].shape[0]), weights[0])])
    else:
        grad = next(gradients)
        if grad is not None:
            return grad
        if materialize:
            return torch.zeros_like(x)
    if allow_unused:
        return None
    raise RuntimeError(
        f"autograd.grad: input {place} was not used in the graph; set allow_unused=True if that is intended"
    )
