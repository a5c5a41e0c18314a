"""Tables of embeddings, whose dot products are the scores: dense tensors, or sparse matrices with wide rows.

Systems whose scores are sums over a user's items or neighbours have one column per item or user. Their rows of users
are sparse, so that the [U, I] matrix of scores is computed for a block of users at a time only.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from .errors import InputError

Table: TypeAlias = Tensor | sp.csr_array  # float32 [n, d]; a sparse table is on the CPU
KEY_ROWS = 1 << 12  # dense rows hashed at once, for which there are two tables of int64
SCORES = 1 << 20  # scores in memory at once
_ODD = np.int64(-7046029254386353131), np.int64(-4417276706812531889)  # factors of the hash of an entry


def device_of(table: Table) -> torch.device:
    """The device of a table."""
    return table.device if isinstance(table, Tensor) else torch.device("cpu")


def take(table: Table, index: Tensor) -> Table:
    """``table[index]``. index: int64 [B]."""
    return table[index] if isinstance(table, Tensor) else table[index.cpu().numpy()]


def zeros(rows: int, like: Table) -> Table:
    """A table of zeros with the columns of another one, and sparse if that one is."""
    shape = rows, like.shape[1]
    return torch.zeros(shape) if isinstance(like, Tensor) else sp.csr_array(shape, dtype=np.float32)


def dense(table: Table, what: str) -> Tensor:
    """The table, if it is dense. Raises InputError that names `what` it is needed for."""
    if isinstance(table, Tensor):
        return table
    raise InputError(
        f"{what} needs dense embeddings, but those of this model are sparse; train another system, set "
        "model.item_item to 0, or give EASE a rank (ease.rank) and no ease.content"
    )


def beside(table: Tensor, other: Table, weight: float = 1.0) -> Table:
    """``[table, weight * other]``, the columns of the second after those of the first. Sparse if `other` is; then on
    the CPU, otherwise on the device of `other`.

    >>> beside(torch.ones(1, 2), sp.csr_array([[0.0, 3.0]]), 2.0).toarray().tolist()
    [[1.0, 1.0, 0.0, 6.0]]
    """
    if not isinstance(other, Tensor):
        left = sp.csr_array(table.detach().float().cpu().numpy())
        return sp.csr_array(sp.hstack([left, other.astype(np.float32) * np.float32(weight)], format="csr"))
    result = torch.empty(len(table), table.shape[1] + other.shape[1], device=other.device)
    result[:, : table.shape[1]] = table
    torch.mul(other, weight, out=result[:, table.shape[1] :])
    return result


def packed(name: str, table: Table) -> dict[str, Tensor]:
    """The tensors that a table is stored as: one of this name, or the parts of a sparse one."""
    if isinstance(table, Tensor):
        return {name: table.contiguous()}
    return {
        f"{name}.indptr": torch.from_numpy(table.indptr.astype(np.int64)),
        f"{name}.indices": torch.from_numpy(table.indices.astype(np.int32)),
        f"{name}.values": torch.from_numpy(table.data.astype(np.float32)),
        f"{name}.columns": torch.tensor([table.shape[1]]),
    }


def unpacked(tensors: dict[str, Tensor], name: str) -> Table:
    """The inverse of `packed`. Raises KeyError for a missing tensor, ValueError for parts that do not fit together."""
    if f"{name}.indptr" not in tensors:
        return tensors[name]
    indptr, indices, values = (tensors[f"{name}.{part}"].numpy() for part in ("indptr", "indices", "values"))
    shape = len(indptr) - 1, int(tensors[f"{name}.columns"])
    result = sp.csr_array((values, indices, indptr), shape=shape)
    result.check_format(full_check=True)
    return result


def on_cpu(table: Table, copy: bool = True) -> Table:
    """The table on the CPU, by default as a copy. A sparse one is never copied, because no step changes it."""
    return table.detach().to("cpu", copy=copy) if isinstance(table, Tensor) else table


def is_finite(table: Table) -> bool:
    """Whether all entries are finite."""
    return bool(table.isfinite().all() if isinstance(table, Tensor) else np.isfinite(table.data).all())


def zero_rows(table: Table) -> Tensor:
    """``(table == 0).all(1)``: bool [n]."""
    if isinstance(table, Tensor):
        return (table == 0).all(1)
    filled = sp.csr_array((table.data != 0, table.indices, table.indptr), shape=table.shape)
    return torch.from_numpy(_row_sums(filled, filled.data.astype(np.int64)) == 0)


def only_rows(table: Table, kept: Tensor) -> Table:
    """The table with zeros in all rows but those where `kept`, bool [n], is true."""
    if isinstance(table, Tensor):
        return torch.where(kept[:, None].to(table.device), table, 0)
    left = sp.csr_array(sp.diags_array(kept.numpy().astype(np.float32)) @ table)
    left.eliminate_zeros()
    return left


def row_keys(table: Table) -> np.ndarray:
    """A 64-bit hash of every row, int64 [n]. Equal rows have equal hashes."""
    generator = torch.Generator().manual_seed(0)
    factors = torch.randint(-(2**62), 2**62, (table.shape[1],), generator=generator) * 2 + 1
    if isinstance(table, Tensor):
        factors = factors.to(table.device)
        parts = [(_bits(part) * factors).sum(1) for part in table.split(KEY_ROWS)]
        return torch.cat(parts).cpu().numpy() if parts else np.empty(0, np.int64)
    return _row_sums(table, _bits(torch.from_numpy(table.data)).numpy() * factors.numpy()[table.indices])


def order_keys(table: Table) -> np.ndarray:
    """A hash of every row that does not change when the columns of a sparse table are renumbered, int64 [n]."""
    if isinstance(table, Tensor):
        return np.zeros(table.shape[0], np.int64)
    counts = np.bincount(table.indices, minlength=table.shape[1])
    mixed = _bits(torch.from_numpy(table.data)).numpy() * _ODD[0] + counts[table.indices] * _ODD[1]
    mixed = (mixed ^ (mixed >> np.int64(29))) * _ODD[0]
    return _row_sums(table, mixed ^ (mixed >> np.int64(32)))


def _bits(values: Tensor) -> Tensor:
    """The bits of floating-point numbers as int64."""
    kind = torch.int64 if values.element_size() == 8 else torch.int32
    return (values + 0.0).contiguous().view(kind).to(torch.int64)  # + 0.0 turns -0.0 into 0.0


def _row_sums(table: sp.csr_array, entries: np.ndarray) -> np.ndarray:
    """The sum of int64 entries of every row, modulo 2^64."""
    total = np.concatenate((np.zeros(1, np.int64), np.cumsum(entries)))
    return total[table.indptr[1:]] - total[table.indptr[:-1]]


def scorer(items: Table, order: np.ndarray) -> Callable[[sp.csr_array], np.ndarray]:
    """The function that maps sparse rows of users [B, d] to their scores ``users @ items[order].T``, float32 [B, n].

    With sparse items the sums are computed in float64 and then rounded, so that scores that are equal in exact
    arithmetic stay equal in whatever order they are summed.
    """
    if isinstance(items, Tensor):
        columns = items.numpy().T.take(order, axis=1)
        return lambda users: users @ columns
    transposed = items[order].astype(np.float64).T.tocsr()
    return lambda users: (users.astype(np.float64) @ transposed).astype(np.float32).toarray()


def best_scores(
    users: sp.csr_array, score: Callable[[sp.csr_array], np.ndarray], n_items: int, k: int, seen: sp.csr_array | None
) -> tuple[Tensor, Tensor]:
    """The first k items of sparse users: (scores float32 [B, k], items int64 [B, k]), ordered by score, and by index
    where scores are equal. If fewer are left, item −1 with score −inf.

    score: result of `scorer`. seen: [B, n_items], the items to exclude; None: no item.
    """
    length, rows = min(k, n_items), max(1, SCORES // max(1, n_items))
    backwards = torch.arange(n_items - 1, -1, -1)
    blocks = []
    for first in range(0, users.shape[0], rows):
        values = score(users[first : first + rows])
        if seen is not None:
            values[seen[first : first + rows].nonzero()] = -np.inf
        # Unique integer keys, because torch.topk orders equal scores arbitrarily: the score above, the place below.
        bits = _bits(torch.from_numpy(values))
        keys = torch.where(bits < 0, bits ^ 0x7FFFFFFF, bits) * 2**32 + backwards
        places = n_items - 1 - (keys.topk(length).values & 0xFFFFFFFF)
        blocks.append((torch.from_numpy(values).gather(1, places), places))
    scores = torch.cat([block[0] for block in blocks] or [torch.empty(0, length)])
    places = torch.cat([block[1] for block in blocks] or [torch.empty(0, length, dtype=torch.int64)])
    places[scores == -torch.inf] = -1
    return F.pad(scores, (0, k - length), value=-torch.inf), F.pad(places, (0, k - length), value=-1)
