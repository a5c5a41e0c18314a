#!/usr/bin/env bash
# RecTools 0.19.0: EASEModel scores by the transposed weights of EASE, which are another model.
#
# EASE (Steck, WWW 2019) scores x_u B with B_ij = -P_ij / P_jj: each column of P, the inverse of the regularised Gram
# matrix, is divided by its own diagonal element, and B is not symmetric. EASEModel.weight is this B. One would guess that
# its lists are those of EASE, as in other libraries with the same penalty. They are ordered by x_u Bᵀ: the matrix goes
# to the ranker as item factors, one row an item, and the product with the rows sums B_ji over the items j of the user.
# The scores agree with x_u Bᵀ to seven digits and differ from x_u B by as much as the scores themselves.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet rectools==0.19.0
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from rectools import Columns
from rectools.dataset import Dataset
from rectools.models import EASEModel

print("RecTools", version("rectools"), "NumPy", np.__version__)
n_users, n_items, penalty = 200, 12, 5.0
popularity = np.linspace(0.6, 0.1, n_items)
bought = (np.random.default_rng(0).random((n_users, n_items)) < popularity).astype(float)
users, items = bought.nonzero()
pairs = pd.DataFrame({Columns.User: users, Columns.Item: items, Columns.Weight: 1.0, Columns.Datetime: "2026-01-01"})
dataset = Dataset.construct(pairs)
model = EASEModel(regularization=penalty).fit(dataset)
lists = model.recommend(np.unique(users), dataset, k=n_items, filter_viewed=False)

inverse = np.linalg.inv(bought.T @ bought + penalty * np.eye(n_items))
weights = -inverse / np.diag(inverse)  # columns divided by their diagonal elements
np.fill_diagonal(weights, 0)
order = [dataset.item_id_map.convert_to_internal([item])[0] for item in range(n_items)]
assert np.allclose(model.weight[np.ix_(order, order)], weights, atol=1e-5)


def difference(scores: np.ndarray) -> float:
    """The largest difference from what RecTools returned."""
    found = scores[lists[Columns.User], lists[Columns.Item]]
    return float(np.abs(found - lists[Columns.Score]).max())


right, transposed = difference(bought @ weights), difference(bought @ weights.T)
first = lists[lists[Columns.Rank] == 1].set_index(Columns.User)[Columns.Item]
others = int((first != pd.Series((bought @ weights).argmax(1))[first.index]).sum())
print("its weights are those of EASE; largest difference of its scores from x B:", round(right, 3))
print("from x Bᵀ:", transposed)
print(f"{others} of {len(first)} users get another first item than by x B")
assert right > 0.1 and transposed < 1e-5 and others > len(first) // 20
PYTHON
