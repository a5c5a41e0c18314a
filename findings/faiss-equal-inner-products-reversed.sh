#!/usr/bin/env bash
# faiss-cpu 1.15.1: which of several equal vectors comes first depends on the metric and on k.
#
# Six copies of one vector (duplicate products, say, or untrained embeddings). One would guess that equal scores come in
# the order of their ids for every metric and every k, so that the best item of a list of 1 also leads a list of 10.
# With L2 that is so. With the inner product, the k LOWEST ids are kept but listed highest first: the list of 1 is
# [0], the list of 3 is [2, 1, 0], the list of 6 is [5, 4, 3, 2, 1, 0]. Item 0 is first, third and sixth. IndexIVFFlat
# and faiss.knn do the same. Metrics at a small K computed from a longer list therefore differ from those of a short one.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet faiss-cpu==1.15.1 numpy==2.4.6
OMP_NUM_THREADS=1 "$work/venv/bin/python" - <<'PYTHON'
import faiss
import numpy as np

print("faiss", faiss.__version__, "numpy", np.__version__)
copies = np.ones((6, 8), np.float32)
seen = {}
for name, index in (("inner product", faiss.IndexFlatIP(8)), ("L2", faiss.IndexFlatL2(8))):
    index.add(copies)
    seen[name] = {k: index.search(copies[:1], k)[1][0].tolist() for k in (1, 3, 6)}
    print(name, seen[name])
assert seen["inner product"] == {1: [0], 3: [2, 1, 0], 6: [5, 4, 3, 2, 1, 0]}
assert seen["L2"] == {1: [0], 3: [0, 1, 2], 6: [0, 1, 2, 3, 4, 5]}

coarse = faiss.IndexFlatIP(8)
clustered = faiss.IndexIVFFlat(coarse, 8, 1, faiss.METRIC_INNER_PRODUCT)
clustered.train(np.random.default_rng(0).random((50, 8), np.float32))
clustered.add(copies)
lists = clustered.search(copies[:1], 3)[1][0].tolist(), faiss.knn(copies[:1], copies, 3, faiss.METRIC_INNER_PRODUCT)[1][0].tolist()
print("IndexIVFFlat and knn, k = 3:", lists)
assert lists == ([2, 1, 0], [2, 1, 0])
PYTHON
