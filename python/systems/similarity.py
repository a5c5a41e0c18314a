"""The nearest neighbours of rows by cosine similarity with shrinkage. Used by ItemKNN and UserKNN."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import scipy.sparse as sp

ENTRIES = 1 << 22  # similarities in memory at once


def nearest(
    rows: sp.csr_array,
    count: int,
    shrinkage: float = 0.0,
    features: Sequence[np.ndarray] = (),
    content: float = 0.0,
) -> sp.csr_array:
    """The similarities of every row to its `count` most similar other rows, float32 [n, n]; 0: to all.

    s_ij = r_i·r_j / (‖r_i‖ ‖r_j‖ + shrinkage) + content Σ_m f_i^m·f_j^m with the `features` f^m, of unit length.
    Only positive similarities are kept. Neighbours that are as similar as the last one are kept as well, so that the
    result does not depend on the order of the rows.

    >>> nearest(sp.csr_array([[1.0, 1, 0], [1, 0, 0], [0, 0, 1]]), 1).toarray().round(2)
    array([[0.  , 0.71, 0.  ],
           [0.71, 0.  , 0.  ],
           [0.  , 0.  , 0.  ]], dtype=float32)
    """
    rows = rows.astype(np.float64)
    n, columns = rows.shape[0], rows.T.tocsr()
    squares = np.asarray(rows.multiply(rows).sum(axis=1)).ravel()
    blocks, step = [], max(1, ENTRIES // max(1, n))
    for first in range(0, n, step):
        last = min(first + step, n)
        block = (rows[first:last] @ columns).toarray()
        # One root of the product: counts are exact, so that equal similarities stay equal.
        scale = np.sqrt(squares[first:last, None] * squares) + shrinkage
        np.divide(block, scale, out=block, where=scale > 0)
        for unit in features:
            block += content * (unit[first:last] @ unit.T)
        block = block.astype(np.float32)
        block[np.arange(last - first), np.arange(first, last)] = 0
        if 0 < count < n:
            threshold = np.partition(block, n - count, axis=1)[:, n - count, None]
            block[block < threshold] = 0
        block[block < 0] = 0
        blocks.append(sp.csr_array(block))
    return sp.csr_array(sp.vstack(blocks, format="csr")) if blocks else sp.csr_array((n, n), dtype=np.float32)


def damped(interactions: sp.csr_array, axis: int, exponent: float) -> sp.csr_array:
    """The interactions [U, I], divided by the sum of those of their user (axis 0) or item (axis 1) to the power
    `exponent`."""
    degrees = np.asarray(interactions.sum(axis=1 - axis)).ravel().astype(np.float64)
    scale = sp.diags_array(np.where(degrees > 0, degrees, 1.0) ** -exponent)
    matrix = interactions.astype(np.float64)
    return sp.csr_array(scale @ matrix if axis == 0 else matrix @ scale)
