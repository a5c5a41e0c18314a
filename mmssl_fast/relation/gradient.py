"""The gradient with respect to relation rows, g W, represented by its two factors (Eq. 7)."""

from __future__ import annotations

from numbers import Real
from typing import Any, cast

import torch
from torch import Tensor

from .algebra.gradient_norm import gradient_norm
from .refusal import NotAMatrix


class RelationGradient(NotAMatrix):
    """The gradient Σ g W [B, I] with respect to RelationRows that were the input of linear layers.

    torch.autograd.grad returns it for RelationRows. Equals the gradient that it would return for ``rows.dense()``.
    ``norm(2, dim=1)`` and ``square().sum(1)``, which a gradient penalty needs (equation 7 of MMSSL, WWW 2023), are
    computed by `gradient_norm` without forming the matrix, and are differentiable in g and W. ``dense()`` forms the
    matrix. Any other operation raises a TypeError.

    Args:
        factors: a pair (g [B, H], W [H, I]) for every linear layer whose input the rows were. Pairs with the same W are
            merged.

    Example:
        >>> u, v, weight = torch.randn(3, 4), torch.randn(6, 4), torch.randn(5, 6)
        >>> rows = RelationRows.generated(u, v).requires_grad_()
        >>> out = F.linear(rows, weight).sigmoid().sum()
        >>> (gradient,) = torch.autograd.grad(out, rows, create_graph=True)
        >>> gradient
        RelationGradient(3 x 6, torch.float32, cpu)
        >>> torch.allclose(gradient.norm(2, dim=1), gradient.dense().norm(2, dim=1))
        True
    """

    def __init__(self, factors: list[tuple[Tensor, Tensor]]) -> None:
        by_weight: dict[int, tuple[Tensor, Tensor]] = {}
        for g, weight in factors:
            g = g.to(weight.dtype)
            by_weight[id(weight)] = (by_weight[id(weight)][0] + g if id(weight) in by_weight else g, weight)
        self.factors = list(by_weight.values())

    @property
    def shape(self) -> torch.Size:
        return torch.Size((self.factors[0][0].shape[0], self.factors[0][1].shape[1]))

    def size(self, dim: int | None = None) -> torch.Size | int:
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return 2

    ndim = property(dim)

    @property
    def dtype(self) -> torch.dtype:
        return self.factors[0][1].dtype

    @property
    def device(self) -> torch.device:
        return self.factors[0][1].device

    @property
    def requires_grad(self) -> bool:
        return any(x.requires_grad for pair in self.factors for x in pair)

    def __len__(self) -> int:
        return self.shape[0]

    def dense(self) -> Tensor:
        """Forms the matrix, [B, I]."""
        return cast(Tensor, sum(g @ weight for g, weight in self.factors))

    def detach(self) -> RelationGradient:
        return RelationGradient([(g.detach(), weight.detach()) for g, weight in self.factors])

    def view(self, *shape: Any) -> RelationGradient:
        """Returns self if the shape does not change, as in ``gradient.view(gradient.size(0), -1)``. Raises TypeError
        for any other shape."""
        shape = tuple(shape[0]) if len(shape) == 1 and isinstance(shape[0], tuple | list) else shape
        if (
            len(shape) == 2
            and shape != (-1, -1)
            and all(n in (-1, size) for n, size in zip(shape, self.shape, strict=True))
        ):
            return self
        raise TypeError(f"RelationGradient.view{shape}: the shape must stay {tuple(self.shape)}; use .dense()")

    reshape = view

    def flatten(self, start_dim: int = 0, end_dim: int = -1) -> RelationGradient:
        if start_dim == 1 and end_dim in (1, -1):
            return self
        raise TypeError(f"RelationGradient.flatten({start_dim}): start_dim must be 1; use .dense()")

    def norm(self, p: Any = 2, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Equals ``self.dense().norm(2, dim=1)``, computed by `gradient_norm`: [B], or [B, 1] with keepdim."""
        dim = dim[0] if isinstance(dim, tuple | list) and len(dim) == 1 else dim
        if p not in (2, "fro", None) or dim not in (1, -1):
            raise TypeError(
                f"RelationGradient.norm(p={p}, dim={dim}): only row norms are supported (p=2, dim=1); use .dense()"
            )
        g, weight = (
            (torch.cat(x, d) for x, d in zip(zip(*self.factors, strict=True), (1, 0), strict=True))
            if len(self.factors) > 1
            else self.factors[0]
        )
        norm = gradient_norm(g, weight)
        return norm[:, None] if keepdim else norm

    def square(self) -> RelationGradientSquare:
        return RelationGradientSquare(self)

    def pow(self, exponent: object) -> RelationGradientSquare:
        if not isinstance(exponent, Real) or exponent != 2:
            raise TypeError(f"RelationGradient ** {exponent}: only the square is supported; use .dense()")
        return RelationGradientSquare(self)

    __pow__ = pow

    def __repr__(self) -> str:
        return f"RelationGradient({self.shape[0]} x {self.shape[1]}, {self.dtype}, {self.device})"


class RelationGradientSquare(NotAMatrix):
    """The squared entries of a RelationGradient. Only their row sums are supported."""

    def __init__(self, gradient: RelationGradient) -> None:
        self._gradient = gradient

    def sum(self, dim: Any = None, keepdim: bool = False) -> Tensor:
        """Equals ``gradient.dense().square().sum(1)``: [B], or [B, 1] with keepdim."""
        return self._gradient.norm(2, dim, keepdim).square()

    def dense(self) -> Tensor:
        return self._gradient.dense().square()
