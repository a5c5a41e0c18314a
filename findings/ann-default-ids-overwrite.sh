#!/usr/bin/env bash
# hnswlib 0.8.0 and voyager 2.2.3: vectors added without ids may replace vectors that were added with ids.
#
# Five vectors are added under ids of one's own (a catalogue's, 2 to 6), then five more without ids. One would guess that
# the new ones get ids after the largest, or that the call is refused. Neither happens, nothing is raised:
# * hnswlib numbers on from the NUMBER of vectors, 5 to 9: ids 5 and 6 now hold new vectors, 8 of 10 are left.
# * voyager numbers from its own counter, which ids of one's own do not move, 0 to 4: ids 2, 3, 4 are replaced, 7 are
#   left. add_items returns the ids it chose, so the collision can be seen there.
#
# Prints what it sees and fails if that changes. Needs Python 3.11, a C++ compiler (for hnswlib) and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet hnswlib==0.8.0 voyager==2.2.3 numpy==2.4.6
"$work/venv/bin/python" - <<'PYTHON'
import hnswlib
import numpy as np
import voyager

vectors = np.eye(10, 8, dtype=np.float32) + np.arange(10, dtype=np.float32)[:, None]
first, second, own = vectors[:5], vectors[5:], [2, 3, 4, 5, 6]

index = hnswlib.Index("l2", 8)
index.init_index(50)
index.add_items(first, ids=np.array(own))
index.add_items(second)
ids = sorted(index.get_ids_list())
replaced = [i for i in own if not np.allclose(index.get_items([i])[0], first[own.index(i)])]
print("hnswlib 0.8.0: ids", ids, "replaced", replaced)
assert ids == [2, 3, 4, 5, 6, 7, 8, 9] and replaced == [5, 6]

index = voyager.Index(voyager.Space.Euclidean, 8)
index.add_items(first, ids=own)
chosen = index.add_items(second)
ids = sorted(index.ids)
replaced = [i for i in own if not np.allclose(index.get_vector(i), first[own.index(i)])]
print("voyager 2.2.3: ids", ids, "replaced", replaced, "returned", list(chosen))
assert ids == [0, 1, 2, 3, 4, 5, 6] and replaced == [2, 3, 4] and list(chosen) == [0, 1, 2, 3, 4]
PYTHON
