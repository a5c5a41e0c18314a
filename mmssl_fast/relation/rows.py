"""RelationRows: a B x I block of relation rows, represented by its components instead of a matrix.

The file is longer than others because it is a single class: Python looks operators up on the class, and the class has
the methods of a tensor that existing discriminators call.
"""

from __future__ import annotations

import builtins
from collections.abc import Sequence
from dataclasses import dataclass, field
from numbers import Real
from typing import Any, overload

import torch
from torch import Tensor
from torch.autograd.graph import GradientEdge, get_gradient_edge

from ..arguments import as_ids, check_seen, check_tensors
from ..graph import InteractionGraph, SeenRows
from ..ops.derivatives import is_transforming
from ..ops.gumbel_method import check_temperature
from ..ops.gumbel_rows import GumbelRows
from ..ops.unit_rows import unit_rows
from .algebra.relation_linear import inverse_or_zero, linear_of_parts
from .blocks import Block, Scale, aligned, combined
from .components import Dense, Generated, converted
from .gumbel import Component, Gumbel
from .refusal import NotAMatrix
from .topk import topk_of_block


@dataclass
class Uses:
    """The operations applied to rows that require grad."""

    linear: list[tuple[GradientEdge, Tensor]] = field(default_factory=list)  # (edge of the output, weight)
    others: list[str] = field(default_factory=list)  # torch.autograd.grad cannot differentiate through these


class RelationRows(NotAMatrix):
    """A [B, I] block of relation rows. Every operation equals the same operation on ``rows.dense()``, without forming
    the matrix.

    The rows are sums of scaled components: generated rows (equation 3 of MMSSL, WWW 2023), Gumbel rows (equation 5) and
    dense blocks. Create rows with `generated`, `gumbel` or `from_dense`. Combine them with ``+``, ``-``, ``*`` and
    ``/`` (by numbers or [B, 1]), `torch.cat` and indexing by rows. Use them like a tensor in `F.linear`, `F.normalize`,
    `torch.norm`, `torch.topk` and `torch.autograd.grad`. Any operation that needs the matrix raises a TypeError that
    names ``.dense()``.

    torch.compile is not supported. The results of `linear` are cached for the last weight, so that scaling or
    interpolating the same rows needs no second pass over W. A write through ``weight.data`` is not noticed.

    Example:
        >>> u, v, weight = torch.randn(2, 8), torch.randn(5, 8), torch.randn(4, 5)
        >>> rows = RelationRows.generated(u, v)
        >>> rows
        RelationRows(2 x 5, torch.float32, cpu: Generated)
        >>> torch.allclose(F.linear(rows, weight), F.linear(rows.dense(), weight), atol=1e-5)
        True
        >>> mixed = 0.3 * rows + 0.7 * RelationRows.from_dense(torch.ones(2, 5))
        >>> torch.allclose(torch.norm(mixed, dim=1), mixed.dense().norm(dim=1))
        True
        >>> rows.sum()
        Traceback (most recent call last):
        mmssl_fast.relation.refusal.NoSuchAttribute: RelationRows has no 'sum'; use .dense() to form the matrix
    """

    __slots__ = ("__weakref__", "_blocks", "_leaf", "_uses")

    def __init__(self, blocks: Sequence[Block], leaf: bool = False) -> None:
        if is_transforming():
            raise NotImplementedError(
                "RelationRows: torch.func transforms and forward mode are not supported; use torch.autograd, or "
                "cosine_block and gumbel_softmax, which form the matrix"
            )
        self._blocks = list(blocks)
        self._leaf = leaf  # whether requires_grad_() was called, so that torch.autograd.grad can take the rows as input
        self._uses = Uses()

    # --- construction -------------------------------------------------------------------------------------------------
    @classmethod
    def generated(
        cls, u: Tensor, v: Tensor, kind: str = "cosine", seen: SeenRows | None = None, row_l2: bool = False
    ) -> RelationRows:
        """Equals ``cosine_block(u, v, seen, kind, row_l2)``: the generated rows of equation 3.

        Args:
            u: [B, d] floating, features of the users. Differentiable.
            v: [I, d], dtype of u, features of the items. Differentiable.
            kind: "cosine" or "dot".
            seen: SeenRows(crow [B + 1], col [nnz]), whose entries have value 0, or None.
            row_l2: divide every row by its length.

        Returns:
            RelationRows [B, I].

        Raises:
            ValueError: shapes or dtypes do not match, or kind is unknown.

        Example:
            >>> u, v = torch.randn(2, 8), torch.randn(5, 8)
            >>> torch.allclose(RelationRows.generated(u, v).dense(), cosine_block(u, v))
            True
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
        seed: int | Tensor,
        offset: int | Tensor = 0,
        noise_scale: float = 1.0,
        max_repeats: int | None = None,
        items: tuple[int, int] | None = None,
    ) -> RelationRows:
        """Equals ``gumbel_softmax(graph, users, tau, seed, offset, noise_scale=noise_scale)``: the first term of
        equation 5. The rows are constant.

        Args:
            graph, tau, seed, offset, noise_scale: as for `gumbel_softmax`.
            users: int64 or int32 [B], global user ids.
            max_repeats: the maximum number of times that a user occurs in `users`; 1 for distinct users, None for any
                number. Distinct users take much less memory on CUDA.
            items: (first, last): only the columns [first, last). None is all I.

        Returns:
            RelationRows [B, I], float32. `to` changes the dtype.

        Raises:
            ValueError: tau is not positive, noise_scale is negative, or a user is not in the graph.

        Example:
            >>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 2, 1], n_users=2, n_items=3)
            >>> users = torch.tensor([1, 0])
            >>> rows = RelationRows.gumbel(graph, users, tau=0.5, seed=7)
            >>> torch.allclose(rows.dense(), gumbel_softmax(graph, users, tau=0.5, seed=7))
            True
        """
        users = as_ids("RelationRows.gumbel", "users", users)
        check_temperature("RelationRows.gumbel", tau, noise_scale)
        rows = Gumbel(GumbelRows(graph, users, tau, seed, offset, noise_scale, max_repeats=max_repeats, items=items))
        return cls([Block([(1.0, rows)])])

    @classmethod
    def from_dense(cls, x: Tensor) -> RelationRows:
        """Equals x: the rows of a floating matrix x [B, I], which can be added to or stacked with other rows.

        Raises:
            ValueError: x is not a dense floating matrix.

        Example:
            >>> RelationRows.from_dense(torch.ones(2, 3)).shape
            torch.Size([2, 3])
        """
        check_tensors("RelationRows.from_dense", x=x)
        if x.ndim != 2 or not x.is_floating_point() or x.layout != torch.strided:
            raise ValueError(
                f"RelationRows.from_dense: x must be a dense floating tensor [B, I], got {tuple(x.shape)}, {x.dtype}, "
                f"{x.layout}"
            )
        return cls([Block([(1.0, Dense(x))])])

    # --- attributes and methods of a tensor ---------------------------------------------------------------------------
    @property
    def shape(self) -> torch.Size:
        return torch.Size((sum(block.n_rows for block in self._blocks), self._components()[0].n_items))

    @overload
    def size(self) -> torch.Size: ...
    @overload
    def size(self, dim: int) -> int: ...
    def size(self, dim: int | None = None) -> torch.Size | int:
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
        """The promoted dtype of the components. Gumbel rows adopt the dtype of the components they are added to."""
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
        """Records the following calls of `linear`, so that these rows can be inputs of torch.autograd.grad.

        Raises:
            RuntimeError: requires_grad is False, but the rows depend on tensors that require grad.
        """
        if not requires_grad and self._has_graph():
            raise RuntimeError(
                "RelationRows.requires_grad_: the rows depend on tensors that require grad; use detach() to change that"
            )
        self._leaf = requires_grad
        return self

    def detach(self) -> RelationRows:
        """The same rows, detached from the autograd graph."""
        return RelationRows([block.map(Tensor.detach, lambda c: c.detach()) for block in self._blocks])

    def clone(self) -> RelationRows:
        """The same rows as a new object. The tensors are shared, because they are never changed."""
        return RelationRows(self._blocks)

    def to(self, *args: Any, **kwargs: Any) -> RelationRows:
        """Like Tensor.to(device), .to(dtype) and .to(device, dtype). Returns the same object if nothing changes.

        torch.autograd.grad with respect to these rows includes the use of the result in linear layers.
        """
        if "copy" in kwargs or kwargs.get("memory_format") is not None:
            raise TypeError("RelationRows.to supports a device and a dtype, not copy or memory_format; use .dense()")
        device, dtype = torch._C._nn._parse_to(*args, **kwargs)[:2]
        device, dtype = device or self.device, dtype or self.dtype
        if not dtype.is_floating_point:
            raise TypeError(f"RelationRows.to({dtype}): rows must have a floating dtype; use .dense()")
        if device == self.device and all(c.dtype == dtype for c in self._components()):
            return self
        moved = {id(c): converted(c, device, dtype) for c in self._components()}
        rows = RelationRows(
            [block.map(lambda s: s.to(device, dtype), lambda c: moved[id(c)]) for block in self._blocks], self._leaf
        )
        rows._uses = self._uses
        return rows

    def float(self, memory_format: torch.memory_format | None = None) -> RelationRows:
        return self.to(torch.float32, memory_format=memory_format)

    def double(self, memory_format: torch.memory_format | None = None) -> RelationRows:
        return self.to(torch.float64, memory_format=memory_format)

    def cpu(self) -> RelationRows:
        return self.to("cpu")

    def cuda(self, device: torch.device | str | int | None = None) -> RelationRows:
        return self.to(
            "cuda" if device is None else torch.device("cuda", device) if isinstance(device, int) else device
        )

    # --- arithmetic and indexing --------------------------------------------------------------------------------------
    def __add__(self, other: RelationRows | Tensor | builtins.float) -> RelationRows:
        if isinstance(other, Real) and other == 0:  # Python's sum() starts with 0
            self._record("+")
            return self.clone()
        if isinstance(other, Tensor):
            other = self._dense_like(other, "+")
        if not isinstance(other, RelationRows):
            raise TypeError(
                f"RelationRows + {type(other).__name__}: only RelationRows or a dense block can be added; use .dense()"
            )
        if self.shape != other.shape:
            raise TypeError(
                f"RelationRows +: the shapes {tuple(self.shape)} and {tuple(other.shape)} differ; use .dense() to "
                "broadcast"
            )
        self._record("+")
        other._record("+")
        blocks, other_blocks = aligned(self._blocks, other._blocks)
        return RelationRows([Block([*a.terms, *b.terms]) for a, b in zip(blocks, other_blocks, strict=True)])

    __radd__ = __add__

    def __iadd__(self, other: RelationRows | Tensor | builtins.float) -> RelationRows:
        return self._become(self + other)

    def __sub__(self, other: RelationRows | Tensor | builtins.float) -> RelationRows:
        return self + (-other)

    def __isub__(self, other: RelationRows | Tensor | builtins.float) -> RelationRows:
        return self._become(self - other)

    def __rsub__(self, other: RelationRows | Tensor | builtins.float) -> RelationRows:
        return (-self) + other

    def __neg__(self) -> RelationRows:
        return self * -1.0

    def __pos__(self) -> RelationRows:
        return self

    def __mul__(self, factor: Tensor | builtins.float) -> RelationRows:
        """rows * factor, where factor is a number, a 0-dim tensor, [B, 1], or [B, 1] expanded to [B, I]."""
        self._record("*")
        rows = self._promoted(factor)
        scales = rows._row_factors(factor, "*")
        return RelationRows([block.scaled(scale) for block, scale in zip(rows._blocks, scales, strict=True)])

    __rmul__ = __mul__

    def __imul__(self, factor: Tensor | builtins.float) -> RelationRows:
        return self._become(self * factor)

    def __truediv__(self, divisor: Tensor | builtins.float) -> RelationRows:
        # Scaling every component by infinity would give inf − inf = NaN where torch gives an infinity.
        if isinstance(divisor, Real) and divisor == 0:
            raise TypeError("RelationRows / 0: division by zero is not supported; use .dense()")
        if isinstance(divisor, Tensor) and not divisor.is_complex():  # compute the reciprocal in the result's dtype
            divisor = divisor.to(torch.promote_types(self.dtype, divisor.dtype) if divisor.ndim else self.dtype)
        return self * (1 / divisor)

    def __itruediv__(self, divisor: Tensor | builtins.float) -> RelationRows:
        return self._become(self / divisor)

    def __matmul__(self, matrix: Tensor) -> Tensor:
        """rows @ matrix for a matrix [I, H]. Equals ``rows.linear(matrix.mT)``."""
        if not isinstance(matrix, Tensor) or matrix.ndim != 2:
            raise TypeError("RelationRows @: the second factor must be a tensor [I, H]; use .dense() for others")
        return self.linear(matrix.mT)

    def __getitem__(self, key: slice | Tensor) -> RelationRows:
        """rows[a:b], rows[ids] with integer ids [b], or rows[mask] with a bool mask [B], as RelationRows."""
        self._record("[]")
        if isinstance(key, slice):
            key = torch.arange(len(self), device=self.device)[key]
        elif isinstance(key, Tensor) and key.dtype == torch.bool and key.shape == (len(self),):
            key = key.nonzero().flatten()
        if not isinstance(key, Tensor) or key.ndim != 1 or key.dtype not in (torch.int64, torch.int32):
            raise TypeError("RelationRows[…]: rows are selected by a slice or by ids [b]; use .dense() for columns")
        if key.numel() and not -len(self) <= int(key.min()) <= int(key.max()) < len(self):
            raise IndexError(
                f"RelationRows[…]: got ids from {int(key.min())} to {int(key.max())}, but there are {len(self)} rows"
            )
        key, blocks, first = torch.where(key < 0, key + len(self), key), [], 0
        # Consecutive ids in the same block become one selection of that block.
        block_of_row = torch.bucketize(
            key, torch.tensor([b.n_rows for b in self._blocks], device=key.device).cumsum(0), right=True
        )
        runs = torch.unique_consecutive(block_of_row, return_counts=True)
        for number, count in zip(runs[0].tolist(), runs[1].tolist(), strict=True):
            start = sum(b.n_rows for b in self._blocks[:number])
            blocks.append(self._blocks[number].select(key[first : first + count] - start))
            first += count
        return RelationRows(blocks or [self._blocks[0].select(key)])

    @staticmethod
    def cat(many: Sequence[RelationRows | Tensor]) -> RelationRows:
        """Equals ``torch.cat`` along dim 0. Dense blocks [b, I] may be among the rows.

        Raises:
            TypeError: an argument is not two-dimensional.
            ValueError: the arguments have different numbers of items.
        """
        if any(rows.ndim != 2 for rows in many):
            raise TypeError(
                f"RelationRows.cat: all shapes must be [b, I], got {[tuple(x.shape) for x in many]}; use .dense()"
            )
        items = {rows.shape[1] for rows in many}
        if len(items) != 1:
            raise ValueError(f"RelationRows.cat: all rows must have the same number of items, got {sorted(items)}")
        dtype = next(rows for rows in many if not isinstance(rows, Tensor)).dtype
        stacked = [_rows_of(x, dtype, "cat") if isinstance(x, Tensor) else x for x in many]
        for rows in stacked:
            rows._record("cat")
        return RelationRows([block for rows in stacked for block in rows._blocks])

    # --- linear layer, norms, top k, matrix ---------------------------------------------------------------------------
    def linear(self, weight: Tensor, bias: Tensor | None = None) -> Tensor:
        """Equals ``F.linear(self.dense(), weight, bias)``, the first layer of the discriminator (equation 4), computed
        in one pass over the weight. ``F.linear(rows, weight, bias)`` calls it.

        Args:
            weight: [H, I], dtype of the rows, or bfloat16 for float32 rows: it is then converted in tiles of items.
                Under autocast any floating dtype. It is fastest if it is item-major (``weight.mT`` contiguous).
            bias: [H], or None.

        Returns:
            [B, H] in the dtype of the rows, or in autocast's dtype. Differentiable once.

        Raises:
            TypeError: weight or bias is not a dense tensor, or a torch.func transform is active.
            ValueError: shapes or dtypes do not match.

        Example:
            >>> rows, weight = RelationRows.generated(torch.randn(2, 8), torch.randn(5, 8)), torch.randn(4, 5)
            >>> torch.allclose(rows.linear(weight), rows.dense() @ weight.T, atol=1e-5)
            True
        """
        if not _is_dense(weight, 2) or not (bias is None or _is_dense(bias, 1)) or is_transforming():
            raise TypeError(
                "RelationRows.linear: weight [H, I] and bias [H] must be dense tensors, and torch.func transforms are "
                "not supported; use .dense()"
            )
        if weight.shape[1] != self.shape[1]:
            raise ValueError(
                f"RelationRows.linear: weight must be [H, {self.shape[1]}] for these rows, got {tuple(weight.shape)}"
            )
        fixed = [c.dtype for c in self._components() if not isinstance(c, Gumbel)]
        autocast = torch.is_autocast_enabled(weight.device.type)
        stored = weight.dtype == torch.bfloat16 and set(fixed) == {torch.float32}
        if not autocast and not stored and any(dtype != weight.dtype for dtype in fixed):
            raise ValueError(
                f"RelationRows.linear: weight must have the dtype of the rows, {self.dtype}, got {weight.dtype}"
            )
        components = self._components()
        values = linear_of_parts([c.part() for c in components], weight, [c.memory for c in components])
        by_component = dict(zip(map(id, components), values, strict=True))
        by_block = [combined(block, by_component, bias) for block in self._blocks]
        z = by_block[0] if len(by_block) == 1 else torch.cat(by_block)
        dtype = torch.float32 if stored else weight.dtype
        z = z.to(torch.get_autocast_dtype(weight.device.type) if autocast else dtype)
        if self.requires_grad and torch.is_grad_enabled():
            if not z.requires_grad:
                z = z.requires_grad_().clone()
            # The gradient edge, not the tensor: an in-place activation would replace the edge of z by its own.
            self._uses.linear.append((get_gradient_edge(z), weight))
        return z

    def row_norm(self) -> Tensor:
        """Equals ``self.dense().norm(dim=1)``: [B]. A zero row has gradient 0.

        Example:
            >>> rows = RelationRows.generated(torch.randn(2, 8), torch.randn(5, 8))
            >>> torch.allclose(rows.row_norm(), rows.dense().norm(dim=1))
            True
        """
        self._record("row_norm")
        with self._exact("row_norm"):
            return torch.cat([block.norm() for block in self._blocks]).to(self.dtype)

    def normalize(self, eps: builtins.float = 0.0) -> RelationRows:
        """Equals ``F.normalize(self.dense(), dim=1, eps=eps)``. A zero row stays zero and has gradient 0.

        Example:
            >>> rows = RelationRows.generated(torch.randn(2, 8), torch.randn(5, 8)).normalize()
            >>> torch.allclose(rows.row_norm(), torch.ones(2))
            True
        """
        self._record("normalize")
        with self._exact("normalize"):
            scales = [inverse_or_zero(block.norm(), eps).to(self.dtype) for block in self._blocks]
        return RelationRows([block.scaled(scale) for block, scale in zip(self._blocks, scales, strict=True)])

    def topk(self, k: int, dim: int = -1, largest: bool = True, sorted: bool = True) -> torch.return_types.topk:
        """Equals ``torch.topk(self.dense(), k)``, computed in tiles of items. Equal values are ordered by item id.

        A seen entry has value 0 and is not excluded. The values are differentiable in the tensors that the rows consist
        of.

        Args:
            k: number of entries per row, in [0, I].

        Returns:
            values [B, k] and indices [B, k] (int64 item ids), largest first.

        Raises:
            ValueError: k lies outside [0, I], or a row contains NaN.
            TypeError: dim is not 1, or largest is False.

        Example:
            >>> RelationRows.from_dense(torch.tensor([[0.2, 0.9, 0.2]])).topk(2).indices
            tensor([[1, 0]])
        """
        if dim not in (1, -1) or not largest:
            raise TypeError(
                f"RelationRows.topk: only dim=1 and largest=True are supported, got dim={dim}, largest={largest}; "
                "use .dense()"
            )
        if not 0 <= k <= self.shape[1]:
            raise ValueError(f"RelationRows.topk: k must lie in [0, {self.shape[1]}], got {k}")
        self._record("topk")
        with self._exact("topk"):
            values, items = zip(*(topk_of_block(block, k) for block in self._blocks), strict=True)
        if len(values) > 1:
            return torch.return_types.topk((torch.cat(values), torch.cat(items)))
        return torch.return_types.topk((values[0], items[0]))

    def dense(self) -> Tensor:
        """Forms the matrix, [B, I]. It is differentiable in the tensors that the rows consist of."""
        self._record("dense")
        with torch.autocast(self.device.type, enabled=False):
            return torch.cat([block.tile(0, self.shape[1]) for block in self._blocks]).to(self.dtype)

    # --- helpers ------------------------------------------------------------------------------------------------------
    def _components(self) -> list[Component]:
        return list({id(c): c for block in self._blocks for _, c in block.terms}.values())

    def _has_graph(self) -> bool:
        return any(block.requires_grad for block in self._blocks)

    def _record(self, operation: str) -> None:
        """Records an operation on rows that require grad through which torch.autograd.grad cannot differentiate."""
        if torch.is_grad_enabled() and self.requires_grad and operation not in self._uses.others:
            self._uses.others.append(operation)

    def _exact(self, operation: str) -> torch.autocast:
        """A context without autocast, so that entries are computed in the dtype of the rows."""
        if is_transforming():
            raise TypeError(f"{operation} of RelationRows is not supported inside torch.func; use .dense() outside")
        return torch.autocast(self.device.type, enabled=False)

    def _promoted(self, factor: object) -> RelationRows:
        """The rows in the dtype of their product with `factor`, by the type promotion of torch."""
        if not isinstance(factor, Tensor) or factor.ndim == 0 or factor.is_complex():
            return self
        return self.to(torch.promote_types(self.dtype, factor.dtype))

    def _become(self, other: RelationRows) -> RelationRows:
        if self._leaf and torch.is_grad_enabled():
            raise RuntimeError(
                "RelationRows: rows that require grad cannot be changed in place; use an operation that returns "
                "new rows"
            )
        self._blocks, self._uses = other.to(self.dtype)._blocks, Uses()
        return self

    def _dense_like(self, x: Tensor, operator: str) -> RelationRows:
        if x.shape != self.shape:
            raise TypeError(
                f"RelationRows {operator} tensor: the tensor must have the shape {tuple(self.shape)} of the rows, got "
                f"{tuple(x.shape)}; use .dense() to broadcast"
            )
        return _rows_of(x, self.dtype, operator)

    def _row_factors(self, factor: Tensor | builtins.float, operator: str) -> list[Scale]:
        """The scale of every block, from a number, a 0-dim tensor, [B, 1], or a [B, I] tensor of stride 0 along dim
        1."""
        if isinstance(factor, Real):
            return [float(factor)] * len(self._blocks)
        if isinstance(factor, Tensor) and not factor.is_complex():
            if factor.ndim == 2 and factor.shape == self.shape and (factor.stride(1) == 0 or factor.shape[1] == 1):
                factor = factor[:, :1]
            if factor.numel() == 1 and factor.ndim <= 2:
                return [factor.reshape(()).to(self.dtype).expand(block.n_rows) for block in self._blocks]
            if factor.shape == (len(self), 1):
                return list(factor.squeeze(1).to(self.dtype).split([block.n_rows for block in self._blocks]))
        shape = tuple(factor.shape) if hasattr(factor, "shape") else type(factor).__name__
        raise TypeError(
            f"RelationRows {operator}: rows of shape {tuple(self.shape)} can be scaled by a number or by "
            f"[{len(self)}, 1], got {shape}; use .dense() for others"
        )

    def __repr__(self) -> str:
        blocks = "; ".join(" + ".join(type(c).__name__ for _, c in block.terms) for block in self._blocks)
        return f"RelationRows({self.shape[0]} x {self.shape[1]}, {self.dtype}, {self.device}: {blocks})"


def _is_dense(x: object, ndim: int) -> bool:
    return isinstance(x, Tensor) and x.ndim == ndim and x.layout == torch.strided


def _rows_of(x: Tensor, dtype: torch.dtype, operator: str) -> RelationRows:
    """A dense block as rows. Integers are converted to `dtype`, as torch promotes them."""
    if x.is_complex() or x.layout != torch.strided:
        raise TypeError(f"RelationRows {operator}: tensors of {x.dtype}, {x.layout} are not supported; use .dense()")
    return RelationRows.from_dense(x if x.is_floating_point() else x.to(dtype))
