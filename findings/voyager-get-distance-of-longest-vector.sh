#!/usr/bin/env bash
# voyager 2.2.3: in the space InnerProduct, get_distance of two vectors depends on the longest vector in the index.
#
# get_distance(a, b) takes two vectors. One would guess that it is what a query reports, 1 minus their inner product,
# whatever the index holds. For an empty index it is. But the library searches by vectors with one more component,
# about sqrt(longest^2 - |v|^2), so that all are equally long. In a query this component is 0, and the inner product
# stays as it is; get_distance sets it for both vectors, and adds the product of the two. [1, 0] and [2, 0] have the
# distance -1, then -5 once [3, 0] was added, then -842 once [30, 0] was added. Sorting by get_distance gives another
# order than query(). Cosine and Euclidean are right.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet voyager==2.2.3 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from voyager import Index, Space

print("voyager", version("voyager"))
for space, want in ((Space.InnerProduct, [-1, -5, -842]), (Space.Cosine, [0, 0, 0]), (Space.Euclidean, [1, 1, 1])):
    index = Index(space, 2)
    distances = [index.get_distance([1, 0], [2, 0])]
    for length in (3, 30):
        index.add_item(np.array([length, 0], np.float32))
        distances.append(index.get_distance([1, 0], [2, 0]))
    print(space, "distance of [1, 0] and [2, 0] with no vector, [3, 0], and [30, 0] in the index:", distances)
    assert np.allclose(distances, want, atol=1e-6)

index = Index(Space.InnerProduct, 2)
vectors, query = np.array([[30, 0], [3, 0], [0, 20]], np.float32), np.array([1, 0], np.float32)
index.add_items(vectors)
ids, asked = index.query(query, 3)
computed = [index.get_distance(query, vector) for vector in vectors]
print("query:", ids.tolist(), asked.tolist(), "get_distance:", computed, "1 - dot:", (1 - vectors @ query).tolist())
assert ids.tolist() == [0, 1, 2] and np.allclose(asked, 1 - vectors @ query)
assert np.allclose(computed[0], asked[0])  # the longest vector's additional component is 0
assert computed[1] < computed[2] < -500
PYTHON
