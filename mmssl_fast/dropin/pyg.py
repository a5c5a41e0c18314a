"""Accelerates LightGCN, LGConv and similar convolutions of PyTorch Geometric, in any model that contains them.

    model = torch_geometric.nn.LightGCN(n_nodes, 64, num_layers=3)
    print(mmssl_fast.dropin.pyg.accelerate(model))

LGConv normalises its edges and gathers a message for each edge at every call. After `accelerate`, edges are normalised
and sorted once, as long as ``edge_index`` and ``edge_weight`` do not change, and each call is one sparse product. The
models of RecBole-GNN, whose convolution takes normalised weights, are also supported. This module does not import
torch_geometric.
"""

from __future__ import annotations

import copy
import sys
import weakref
from collections import deque
from dataclasses import dataclass, field
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from ..modes import is_tracing, outside_modes
from ..ops.derivatives import is_transforming
from .compare import perturbed
from .sparse.adjacency import Adjacency
from .sparse.pattern import Pattern, Snapshot, same_bits

_HOOKS = [
    f"_{step}_forward_{when}hooks"
    for step in ("propagate", "message", "aggregate", "message_and_aggregate")
    for when in ("", "pre_")
]
_METHODS = ("forward", "propagate")
_KEPT = 4  # adjacencies of one edge_index: other weights, other dtypes


def accelerate(model: nn.Module) -> dict[str, str]:
    """Replaces the convolutions of `model` that sum over neighbours, in place. Returns what was done with each.

    A MessagePassing module is replaced if its values and gradients, in training and in evaluation, on a small random
    graph (directed, with repeated edges, self-loops and isolated nodes), are those of

    - ``y_i = Σ_{j→i} w_ji x_j``, as LGConv(normalize=False) and RecBole-GNN's LightGCNConv compute, or
    - the same with ``w_ji / sqrt(d_i d_j)`` and ``d_i = Σ_{j→i} w_ji``, as LGConv computes.

    In a convolution that does more, such as a linear layer after the sum, only its `propagate` is replaced, if it is
    the first of these. `restore` undoes the replacements. Parameters, the state dict, copies and pickles do not change.

    A call uses the original code if edge weights require grad, with hooks of the module or its explain mode, under
    torch.compile, torch.export and torch.func, and for inputs other than these: x [N, d] in float32 or float64, with
    edge_index [2, E], a torch.sparse adjacency, a torch_sparse.SparseTensor or an `Adjacency` (the latter two
    transposed, as in PyG).

    Returns:
        name of each MessagePassing module: "replaced: ...", or "left: ..." with the reason.

    Example:
        >>> accelerate(nn.Linear(2, 2))  # a model without convolutions
        {}
    """
    if not isinstance(model, nn.Module):
        raise TypeError(f"accelerate: model must be a torch.nn.Module, got {type(model).__name__}")
    base = getattr(sys.modules.get("torch_geometric.nn.conv.message_passing"), "MessagePassing", None)
    done: dict[str, str] = {}
    for name, module in model.named_modules():
        if base is not None and isinstance(module, base):
            done[name] = _accelerate_one(module)
    return done


def restore(model: nn.Module) -> None:
    """Undoes `accelerate`.

    Example:
        >>> restore(nn.Linear(2, 2))
    """
    for module in model.modules():
        for method in _METHODS:
            if getattr(module.__dict__.get(method), "func", None) is _call:
                del module.__dict__[method]


def _accelerate_one(conv: Any) -> str:
    if any(method in conv.__dict__ for method in _METHODS):
        return "left: its forward or propagate is replaced on this module already"
    if getattr(conv, "node_dim", -2) != -2:
        return f"left: node_dim is {conv.node_dim}"
    sums = {"a normalised sum over neighbours": True, "a weighted sum over neighbours": False}
    if not [*conv.parameters(), *conv.buffers()]:
        for text, normalised in sums.items():
            if _is_sum(conv, "forward", normalised, weighted=True):
                unweighted = _is_sum(conv, "forward", normalised, weighted=False)
                conv.forward = partial(_call, conv, "forward", normalised, unweighted)
                return f"replaced: forward is {text}"
    if _is_sum(conv, "propagate", normalised=False, weighted=True):
        conv.propagate = partial(_call, conv, "propagate", False, False)
        return "replaced: propagate is a weighted sum over neighbours"
    return "left: it does not compute a sum over neighbours with given or normalised weights"


def _is_sum(conv: Any, method: str, normalised: bool, weighted: bool) -> bool:
    """Whether the method of a copy of `conv` has the values and gradients of the sum."""
    random = torch.Generator().manual_seed(0)
    edges = torch.randint(7, (2, 24), generator=random) + torch.tensor([[0], [1]])  # nothing reaches 0, 8 is isolated
    edges = torch.cat((edges, edges[:, :3], torch.tensor([[4, 5], [4, 5]])), 1)
    weight = torch.rand(edges.shape[1], generator=random) + 0.5 if weighted else None
    x, grad = torch.randn(9, 3, generator=random).requires_grad_(), torch.randn(9, 3, generator=random)
    matrix = torch.sparse_coo_tensor(edges, _values(edges, weight, x, _flows_to_target(conv), normalised), (9, 9))
    matrix = matrix.to_dense().T if _flows_to_target(conv) else matrix.to_dense()
    with torch.random.fork_rng(devices=[]), torch.enable_grad():
        for training in (True, False):
            try:
                probe = copy.deepcopy(conv).cpu().train(training)
                with perturbed(probe.parameters()):  # a weight that is 1 or 0 before the first step
                    found = getattr(probe, method)(x=x, edge_index=edges, edge_weight=weight)
                    (dx,) = torch.autograd.grad(found, x, grad)
            except Exception:  # it needs other inputs, so it is not such a sum
                return False
            if not all(
                actual.shape == truth.shape and torch.allclose(actual, truth, atol=1e-5)
                for actual, truth in ((found, matrix @ x), (dx, matrix.T @ grad))
            ):
                return False
    return True


def _call(conv: Any, method: str, normalised: bool, unweighted: bool, *args: Any, **kwargs: Any) -> Any:
    """`conv.forward` or `conv.propagate`: the product if possible, otherwise the original.

    unweighted: whether the original takes a graph without weights.
    """
    adjacency = None
    try:
        x, edge_index, edge_weight = (_of_forward if method == "forward" else _of_propagate)(*args, **kwargs)
    except TypeError:  # other arguments
        pass
    else:
        if _can_be_product(conv, x, edge_index, edge_weight):
            edges = _edges(edge_index, edge_weight, _flows_to_target(conv))
            if edges is not None and (unweighted or edges.weight is not None):
                adjacency = _graphs.adjacency(edge_index, edges, x, normalised)
    return getattr(type(conv), method)(conv, *args, **kwargs) if adjacency is None else adjacency.mm(x)


def _of_forward(x: Any, edge_index: Any, edge_weight: Any = None) -> tuple[Any, Any, Any]:
    return x, edge_index, edge_weight


def _of_propagate(edge_index: Any, x: Any, edge_weight: Any, size: None = None) -> tuple[Any, Any, Any]:
    if size is not None:
        raise TypeError("size")
    return x, edge_index, edge_weight


def _flows_to_target(conv: Any) -> bool:
    return bool(conv.flow == "source_to_target")


def _can_be_product(conv: Any, x: Any, edge_index: Any, edge_weight: Any) -> bool:
    if torch.compiler.is_compiling() or is_tracing() or is_transforming():
        return False
    if getattr(conv, "explain", None) or any(getattr(conv, name, None) for name in _HOOKS):
        return False
    if not isinstance(x, Tensor) or x.ndim != 2 or x.layout != torch.strided:
        return False
    return x.dtype in (torch.float32, torch.float64) and (edge_weight is None or isinstance(edge_weight, Tensor))


class _Edges(NamedTuple):
    """indices int64 [2, E], weight [E] or None; from_first: whether indices[0] sends and indices[1] receives."""

    indices: Tensor
    weight: Tensor | None
    from_first: bool


def _edges(edge_index: Any, edge_weight: Tensor | None, to_target: bool) -> _Edges | None:
    """The edges, given in any form that PyG supports, or None."""
    if isinstance(edge_index, Tensor) and edge_index.layout == torch.strided:
        if type(edge_index) is not Tensor or edge_index.ndim != 2 or edge_index.shape[0] != 2:
            return None  # an EdgeIndex has more data than its indices
        weight = None if edge_weight is None else edge_weight.flatten()
        return _Edges(edge_index, weight, to_target) if edge_index.dtype == torch.int64 else None
    if edge_weight is not None or not to_target:
        return None
    if isinstance(edge_index, Tensor) and edge_index.layout in (torch.sparse_coo, torch.sparse_csr):
        coo = edge_index.to_sparse_coo()
        return _Edges(coo._indices(), coo._values(), False)
    if hasattr(edge_index, "coo") and hasattr(edge_index, "sparse_sizes"):  # a SparseTensor of torch_sparse
        row, col, value = edge_index.coo()
        return _Edges(torch.stack((row, col)), value, False)
    return None


def _values(indices: Tensor, weight: Tensor | None, x: Tensor, from_first: bool, normalised: bool) -> Tensor:
    """The factor of the message of each edge."""
    weight = x.new_ones(indices.shape[1]) if weight is None else weight
    if not normalised:
        return weight
    degree = weight.new_zeros(x.shape[0]).index_add_(0, indices[1 if from_first else 0], weight)
    scale = degree.pow(-0.5)
    scale = scale.masked_fill(scale == float("inf"), 0)
    return scale[indices[0]] * weight * scale[indices[1]]


@dataclass(eq=False)
class _Prepared:
    pattern: Pattern
    weight: Tensor | None
    settings: tuple[Any, ...]
    adjacency: Adjacency

    def is_still(self, edges: _Edges) -> bool:
        if not same_bits(edges.indices, self.pattern.indices[0]):
            return False
        if edges.weight is None or self.weight is None:
            return edges.weight is self.weight
        return same_bits(edges.weight.detach(), self.weight)


@dataclass(eq=False)
class _Known:
    edge_index: weakref.ref[Any]
    prepared: list[_Prepared] = field(default_factory=list)
    calls: int = 0


class _Graphs:
    """Adjacencies by the object that is passed as edge_index, stored as long as it exists.

    Contents are compared at every call, as those of sparse tensors are (`pattern.Snapshot`).
    """

    def __init__(self) -> None:
        self._known: dict[int, _Known] = {}
        self._lifetimes: deque[int] = deque(maxlen=8)  # calls that the last few objects took part in

    def adjacency(self, edge_index: Any, edges: _Edges, x: Tensor, normalised: bool) -> Adjacency | None:
        """None if the edges are not constant, do not belong to a graph of x, or are too few."""
        indices, weight, from_first = edges
        if weight is not None:
            if weight.requires_grad and torch.is_grad_enabled():
                return None
            if weight.dtype != x.dtype or weight.device != x.device or weight.numel() != indices.shape[1]:
                return None
        if indices.device != x.device:
            return None
        settings = (x.shape[0], x.dtype, from_first, normalised)
        known = self._of(edge_index)
        known.calls += 1
        for prepared in known.prepared:
            if prepared.settings == settings and prepared.is_still(edges):
                return prepared.adjacency
        if not self._pays(known.calls, indices.shape[1], x.shape[1]):
            return None
        made = _prepare(edges, x, normalised, settings, [old.pattern for old in known.prepared])
        if made is None:
            return None
        known.prepared[:] = [made, *known.prepared[: _KEPT - 1]]
        return made.adjacency

    def _pays(self, calls: int, entries: int, width: int) -> bool:
        """Whether the time saved by as many calls as for the last graphs, or for this one, exceeds that of preparing.

        Counted in nanoseconds of one core, as in `sparse.cost`: PyG's call, which normalises, gathers, multiplies and
        scatters, is slower than a product by at least 150e3 + entries (50 + 3 width); preparing takes at most
        900e3 + 100 entries.
        """
        if not self._lifetimes:
            return True
        expected = max(calls - 1, sum(self._lifetimes) / len(self._lifetimes))
        return expected * (150e3 + entries * (50 + 3 * width)) >= 900e3 + 100 * entries

    def _of(self, edge_index: Any) -> _Known:
        key = id(edge_index)
        known = self._known.get(key)
        if known is None or known.edge_index() is not edge_index:
            known = self._known[key] = _Known(weakref.ref(edge_index, lambda ref: self._forget(key, ref)))
        return known

    def _forget(self, key: int, ref: weakref.ref[Any]) -> None:
        if key in self._known and self._known[key].edge_index is ref:
            self._lifetimes.append(self._known.pop(key).calls)


def _prepare(
    edges: _Edges, x: Tensor, normalised: bool, settings: tuple[Any, ...], patterns: list[Pattern]
) -> _Prepared | None:
    """patterns: known patterns that the edges may have. None if an index is out of range; PyG reports this error."""
    indices, weight, from_first = edges
    n = x.shape[0]
    with outside_modes():
        if indices.numel() and (int(indices.min()) < 0 or int(indices.max()) >= n):
            return None
        values = _values(indices, weight, x, from_first, normalised).detach()
        coo = torch.sparse_coo_tensor(indices, values, (n, n), check_invariants=False)
        pattern = next((old for old in patterns if old.matches(coo)), None)
        snapshot = Snapshot.of(coo, pattern)
        adjacency = Adjacency.from_snapshot(snapshot)
        weight = None if weight is None else weight.detach().clone()
    return _Prepared(snapshot.pattern, weight, settings, adjacency.t() if from_first else adjacency)


_graphs = _Graphs()
