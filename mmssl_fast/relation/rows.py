"""RelationRows: a B x I block of relation rows, represented by its components instead of a matrix."""

from __future__ import annotations

from collections.abc import Sequence
from numbers import Real

import torch
from torch import Tensor

from ..arguments import as_ids, check_seen, check_tensors
from ..graph import InteractionGraph, SeenRows
from ..ops.derivatives import is_transforming
from ..ops.gumbel_rows import GumbelRows, check_temperature
from ..ops.unit_rows import unit_rows
from .algebra.relation_linear import inverse_or_zero, linear_of_parts
from .blocks import Block, Scale, aligned, combined
from .components import Dense, Generated, converted
from .gumbel import Gumbel
from .registry import call
from .topk import topk_of_block


class RelationRows:
    """A [B, I] block of relation rows. Every operation equals the one on `.dense()`, without forming the matrix.

    Its row blocks are sums of scaled components: generated rows (Eq. 3), Gumbel rows (Eq. 5), dense blocks.
    Make one with `generated` or `gumbel`, combine with `+`, `-`, `*` (numbers or [B, 1]), `cat`, and use it where a
    discriminator, `F.linear`, `F.normalize`, `torch.cat`, `torch.topk` or `torch.autograd.grad` would take the block.
    Whatever else needs the matrix itself raises a TypeError that names `.dense()`.

    Eager only: no torch.compile. Values of `linear` at one weight are kept with the components (never graph nodes), so
    the same rows, scaled or interpolated anew, cost no second pass over W; a write through ``weight.data`` is not
    noticed.
    """

    __slots__ = ("__weakref__", "_blocks", "_leaf", "_through")
    __array_ufunc__ = None  # a NumPy number on the left leaves the product to these rows

    def __init__(self, blocks: Sequence[Block], leaf: bool = False) -> None:
        if is_transforming():
            raise NotImplementedError(
                "RelationRows: torch.func transforms and forward mode do not follow rows that are never a matrix; use "
                "reverse mode (torch.autograd), or cosine_block and gumbel_softmax, which form the matrix"
            )
        self._blocks = list(blocks)
        self._leaf = leaf  # requires_grad_() was called: z of `linear` is recorded for torch.autograd.grad
        self._through: list[tuple[torch.autograd.graph.GradientEdge, Tensor]] = []

    # --- making -------------------------------------------------------------------------------------------------------
    @classmethod
    def generated(
        cls, u: Tensor, v: Tensor, kind: str = "cosine", seen: SeenRows | None = None, row_l2: bool = False
    ) -> RelationRows:
        """Equals ``cosine_block(u, v, seen, kind, row_l2)`` (Eq. 3): cosine or dot of every user row with every item
        row.

        u [B, d], v [I, d] of one floating dtype; seen: SeenRows(crow [B + 1], col [nnz]) whose entries have value 0;
        kind: "cosine" or "dot"; row_l2: rows of length 1. Gradients reach u and v. Raises ValueError for shapes,
        dtypes or a kind that do not match.
        """
        if kind not in ("cosine", "dot"):
            raise ValueError(f'RelationRows.generated: kind must be "cosine" or "dot", got {kind!r}')
        check_tensors("RelationRows.generated", u=u, v=v)
        check_seen("RelationRows.generated", seen)
        if kind == "cosine":
            u, v = unit_rows(u), unit_rows(v)
        rows = cls([Block([(1.0, Generated(u, v, seen))])])
        return rows.normalize() if row_l2 else rows

    @classmethod
    def gumbel(
        cls,
        graph: InteractionGraph,
        users: Tensor,
        tau: float,
        seed: int,
        offset: int = 0,
        noise_scale: float = 1.0,
        max_repeats: int | None = None,
    ) -> RelationRows:
        """Equals ``gumbel_softmax(graph, users, tau, seed, offset, noise_scale=noise_scale)`` (Eq. 5 without its ζ
        term).

        users: int64 or int32 [B], global ids, each at most max_repeats times (None: any number of times; on CUDA,
        distinct users take a fraction of the memory). tau > 0. Constant: nothing here has a gradient. Values are
        float32; `to` changes the dtype they are used in.
        """
        users = as_ids("RelationRows.gumbel", "users", users)
        check_temperature("RelationRows.gumbel", tau, noise_scale)
        rows = Gumbel(GumbelRows(graph, users, tau, seed, offset, noise_scale, max_repeats=max_repeats))
        return cls([Block([(1.0, rows)])])

    @classmethod
    def from_dense(cls, x: Tensor) -> RelationRows:
        """The rows of a matrix x [B, I], to be summed or stacked with others."""
        check_tensors("RelationRows.from_dense", x=x)
        if x.ndim != 2:
            raise ValueError(f"RelationRows.from_dense: x [B, I] is needed, got shape {tuple(x.shape)}")
        return cls([Block([(1.0, Dense(x))])])

    # --- what existing code asks a tensor -----------------------------------------------------------------------------
    @property
    def shape(self) -> torch.Size:
        return torch.Size((sum(block.n_rows for block in self._blocks), self._components()[0].n_items))

    def size(self, dim: int | None = None):
        return self.shape if dim is None else self.shape[dim]

    def dim(self) -> int:
        return 2

    ndim = property(dim)

    def numel(self) -> int:
        return self.shape.numel()

    def __len__(self) -> int:
        return self.shape[0]

    @property
    def dtype(self) -> torch.dtype:
        """The components' dtype. Gumbel rows are float32 by nature and take the dtype of what they are added to."""
        dtypes = {c.dtype for c in self._components() if not isinstance(c, Gumbel)} or {
            c.dtype for c in self._components()
        }
        result = dtypes.pop()
        for other in dtypes:
            result = torch.promote_types(result, other)
        return result

    @property
    def device(self) -> torch.device:
        return self._components()[0].device

    @property
    def is_cuda(self) -> bool:
        return self.device.type == "cuda"

    @property
    def requires_grad(self) -> bool:
        return self._leaf or self._has_graph()

    @requires_grad.setter
    def requires_grad(self, value: bool) -> None:
        self.requires_grad_(value)

    @property
    def is_leaf(self) -> bool:
        return not self._has_graph()

    def requires_grad_(self, requires_grad: bool = True) -> RelationRows:
        """Makes `linear` record its results from here on, so that torch.autograd.grad takes these rows as inputs."""
        if not requires_grad and self._has_graph():
            raise RuntimeError("RelationRows.requires_grad_: rows of tensors that require grad do too; use detach()")
        self._leaf = requires_grad
        return self

    def detach(self) -> RelationRows:
        """The same rows, detached from the graph."""
        return RelationRows([block.map(Tensor.detach, lambda c: c.detach()) for block in self._blocks])

    def clone(self) -> RelationRows:
        """The same rows as a new object (their tensors are shared, and never written to)."""
        return RelationRows(self._blocks)

    def to(self, *args, **kwargs) -> RelationRows:
        """As Tensor.to(device), .to(dtype), .to(device, dtype): these rows when nothing changes.

        Gradients with respect to these rows are found through the result as well.
        """
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
        device, dtype = device or self.device, dtype or self.dtype
        if device == self.device and all(c.dtype == dtype for c in self._components()):
            return self
        moved = {id(c): converted(c, device, dtype) for c in self._components()}
        rows = RelationRows(
            [block.map(lambda s: s.to(device, dtype), lambda c: moved[id(c)]) for block in self._blocks], self._leaf
        )
        rows._through = self._through
        return rows

    def float(self) -> RelationRows:
        return self.to(torch.float32)

    def double(self) -> RelationRows:
        return self.to(torch.float64)

    def cpu(self) -> RelationRows:
        return self.to("cpu")

    def cuda(self, device=None) -> RelationRows:
        return self.to(
            "cuda" if device is None else torch.device("cuda", device) if isinstance(device, int) else device
        )

    # --- combining ----------------------------------------------------------------------------------------------------
    def __add__(self, other) -> RelationRows:
        if isinstance(other, Real) and other == 0:  # where sum() starts
            return self
        if isinstance(other, Tensor):
            other = self._dense_like(other, "+")
        if not isinstance(other, RelationRows):
            raise TypeError(
                f"RelationRows + {type(other).__name__}: rows take rows or a dense block; use .dense() for the matrix"
            )
        if self.shape != other.shape:
            raise ValueError(f"RelationRows +: shapes {tuple(self.shape)} and {tuple(other.shape)} differ")
        mine, theirs = aligned(self._blocks, other._blocks)
        return RelationRows([Block([*a.terms, *b.terms]) for a, b in zip(mine, theirs, strict=True)])

    __radd__ = __add__

    def __iadd__(self, other) -> RelationRows:
        return self._become(self + other)

    def __sub__(self, other) -> RelationRows:
        return self + (-other)

    def __isub__(self, other) -> RelationRows:
        return self._become(self - other)

    def __rsub__(self, other) -> RelationRows:
        return (-self) + other

    def __neg__(self) -> RelationRows:
        return self * -1.0

    def __mul__(self, factor) -> RelationRows:
        """factor: a number, a 0-dim tensor, or [B, 1] (or a matrix of stride 0 along its row, which is the same
        thing)."""
        scales = self._row_factors(factor, "*")
        return RelationRows([block.scaled(scale) for block, scale in zip(self._blocks, scales, strict=True)])

    __rmul__ = __mul__

    def __imul__(self, factor) -> RelationRows:
        return self._become(self * factor)

    def __truediv__(self, divisor) -> RelationRows:
        return self * (1 / divisor)

    def __itruediv__(self, divisor) -> RelationRows:
        return self._become(self / divisor)

    def __matmul__(self, matrix: Tensor) -> Tensor:
        """rows @ matrix [I, H]: linear with its transpose."""
        if not isinstance(matrix, Tensor) or matrix.ndim != 2:
            raise TypeError("RelationRows @: a matrix [I, H] is needed; use .dense() for anything else")
        return self.linear(matrix.mT)

    def _refuse(self, *_):
        raise TypeError(
            "RelationRows: rows are added, scaled and multiplied by a weight; use .dense() for anything else"
        )

    __rmatmul__ = __rtruediv__ = __pow__ = __rpow__ = __lt__ = __le__ = __gt__ = __ge__ = __abs__ = _refuse

    def __getitem__(self, key) -> RelationRows:
        """rows[a:b] or rows[ids] (int64 or bool [B]): the same rows, still no matrix."""
        if isinstance(key, slice):
            key = torch.arange(len(self), device=self.device)[key]
        elif isinstance(key, Tensor) and key.dtype == torch.bool and key.shape == (len(self),):
            key = key.nonzero().flatten()
        if not isinstance(key, Tensor) or key.ndim != 1 or key.is_floating_point():
            raise TypeError("RelationRows[…]: rows are taken by slice or by ids [b]; use .dense() for columns")
        if key.numel() and not -len(self) <= int(key.min()) <= int(key.max()) < len(self):
            raise IndexError(
                f"RelationRows[…]: ids span [{int(key.min())}, {int(key.max())}], there are {len(self)} rows"
            )
        key, blocks, first = torch.where(key < 0, key + len(self), key), [], 0
        owner = torch.bucketize(
            key, torch.tensor([b.n_rows for b in self._blocks], device=key.device).cumsum(0), right=True
        )
        runs = torch.unique_consecutive(owner, return_counts=True)
        for number, count in zip(runs[0].tolist(), runs[1].tolist(), strict=True):
            start = sum(b.n_rows for b in self._blocks[:number])
            blocks.append(self._blocks[number].select(key[first : first + count] - start))
            first += count
        return RelationRows(blocks or [self._blocks[0].select(key)])

    @staticmethod
    def cat(many: Sequence[RelationRows | Tensor]) -> RelationRows:
        """The row blocks stacked; dense [B, I] blocks may be among them."""
        items = {rows.shape[1] for rows in many}
        if len(items) != 1:
            raise ValueError(f"RelationRows.cat: rows over {sorted(items)} items cannot be stacked")
        if len(many) == 1 and isinstance(many[0], RelationRows):
            return many[0]
        many = [RelationRows.from_dense(rows) if isinstance(rows, Tensor) else rows for rows in many]
        return RelationRows([block for rows in many for block in rows._blocks])

    # --- using --------------------------------------------------------------------------------------------------------
    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Equals ``F.linear(self.dense(), weight, bias)``: weight [H, I], bias [H] → [B, H], by one pass over W (Eq.
        4).

        Fastest when weight is item-major (``weight.mT`` contiguous). Raises ValueError when the shapes or dtypes do
        not match.
        """
        if weight.ndim != 2 or weight.shape[1] != self.shape[1]:
            raise ValueError(
                f"RelationRows.linear: weight is {tuple(weight.shape)}, the rows have {self.shape[1]} items"
            )
        fixed = [c.dtype for c in self._components() if not isinstance(c, Gumbel)]
        autocast = torch.is_autocast_enabled(weight.device.type)
        if not autocast and any(dtype != weight.dtype for dtype in fixed):
            raise ValueError(f"RelationRows.linear: weight is {weight.dtype}, the rows are {self.dtype}")
        components = self._components()
        values = linear_of_parts([c.part() for c in components], weight, [c.memory for c in components])
        by_component = dict(zip(map(id, components), values, strict=True))
        z = [combined(block, by_component, bias) for block in self._blocks]
        z = z[0] if len(z) == 1 else torch.cat(z)
        z = z.to(torch.get_autocast_dtype(weight.device.type) if autocast else weight.dtype)
        if self.requires_grad and torch.is_grad_enabled():
            if not z.requires_grad:
                z = z.requires_grad_().clone()
            # The edge, not the tensor: an activation in place afterwards gives z another one.
            self._through.append((torch.autograd.graph.get_gradient_edge(z), weight))
        return z

    def row_norm(self) -> Tensor:
        """Equals ``self.dense().norm(dim=1)``: [B], gradient 0 at a zero row."""
        return torch.cat([block.norm() for block in self._blocks]).to(self.dtype)

    def normalize(self, eps: float = 0.0) -> RelationRows:
        """Rows of length 1 (divided by max(length, eps)); a zero row stays zero, with gradient 0."""
        return RelationRows([block.scaled(inverse_or_zero(block.norm(), eps).to(self.dtype)) for block in self._blocks])

    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> torch.return_types.topk:
        """Equals ``torch.topk(self.dense(), k)``: values [B, k], items int64 [B, k], best first, ties to the lower
        item id.

        A seen entry is the value 0 and takes part. Works in tiles; gradients reach what the rows are made of.
        Raises ValueError when k is outside [0, I], and for another dim or largest=False.
        """
        if dim not in (1, -1) or not largest:
            raise ValueError(
                f"RelationRows.topk: only the largest along dim 1, got dim={dim}, largest={largest}; use .dense()"
            )
        if not 0 <= k <= self.shape[1]:
            raise ValueError(f"RelationRows.topk: k must lie in [0, {self.shape[1]}], got {k}")
        best = [topk_of_block(block, k) for block in self._blocks]
        return torch.return_types.topk(best[0] if len(best) == 1 else tuple(map(torch.cat, zip(*best, strict=True))))

    def dense(self) -> Tensor:
        """The matrix itself, [B, I], with its gradients: the one call that forms it."""
        return torch.cat([block.tile(0, self.shape[1]) for block in self._blocks]).to(self.dtype)

    # --- inside -------------------------------------------------------------------------------------------------------
    def _components(self) -> list:
        return list({id(c): c for block in self._blocks for _, c in block.terms}.values())

    def _has_graph(self) -> bool:
        return any(block.requires_grad for block in self._blocks)

    def _become(self, other: RelationRows) -> RelationRows:
        if self._leaf and torch.is_grad_enabled():
            raise RuntimeError(
                "RelationRows: rows that require grad are being changed in place; add out of place instead"
            )
        self._blocks, self._through = other._blocks, []
        return self

    def _dense_like(self, x: Tensor, operator: str) -> RelationRows:
        if x.shape != self.shape:
            raise TypeError(
                f"RelationRows {operator} tensor of shape {tuple(x.shape)}: rows of shape {tuple(self.shape)} take a "
                f"dense block of that shape; use .dense() for anything else"
            )
        return RelationRows.from_dense(x)

    def _row_factors(self, factor, operator: str) -> list[Scale]:
        """One scale a block of a number, a 0-dim tensor, [B, 1], or a matrix constant along its rows by stride."""
        if isinstance(factor, Real):
            return [float(factor)] * len(self._blocks)
        if isinstance(factor, Tensor):
            if factor.ndim == 2 and factor.shape == self.shape and (factor.stride(1) == 0 or factor.shape[1] == 1):
                factor = factor[:, :1]
            if factor.numel() == 1 and factor.ndim <= 2:
                return [factor.reshape(()).to(self.dtype).expand(block.n_rows) for block in self._blocks]
            if factor.shape == (len(self), 1):
                return list(factor.squeeze(1).to(self.dtype).split([block.n_rows for block in self._blocks]))
        shape = tuple(factor.shape) if hasattr(factor, "shape") else type(factor).__name__
        raise TypeError(
            f"RelationRows {operator} {shape}: rows of shape {tuple(self.shape)} are scaled by a number or [B, 1]; "
            "use .dense() for anything else"
        )

    def __getattr__(self, name: str):
        raise AttributeError(f"RelationRows has no {name!r}; use .dense() for the matrix itself")

    def __repr__(self) -> str:
        blocks = "; ".join(" + ".join(type(c).__name__ for _, c in block.terms) for block in self._blocks)
        return f"RelationRows({self.shape[0]} x {self.shape[1]}, {self.dtype}, {self.device}: {blocks})"

    @classmethod
    def __torch_function__(cls, func, types, args=(), kwargs=None):
        return call(func, args, kwargs or {})
