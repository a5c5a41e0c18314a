#!/usr/bin/env bash
# usearch 2.26.6: a vector that is added under the key -1 is accepted, listed, and never found.
#
# Keys are uint64. Given int64 keys (a catalogue's ids, -1 for "unknown", say) one would guess that negative ones are
# refused, or that they wrap around and work like any other. They wrap around without a word, -2 works, but the key
# 2**64 - 1 is also what the library marks a removed vector with. add() returns it, len() counts it, `in` and
# index.keys have it. search() leaves it out, although it is the nearest, and so does search(exact=True). A batch has the
# key 0 in its place. After save and restore it is gone: the index is one vector shorter.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet usearch==2.26.6 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" - <<'PYTHON'
import numpy as np
import usearch
from usearch.index import Index

print("usearch", usearch.__version__)
vectors = np.array([[3, 0], [2, 0], [1, 0]], np.float32)
query, last = vectors[0], 2**64 - 1
index = Index(ndim=2, metric="ip", dtype="f32")
added = index.add(np.array([-1, -2, 5]), vectors)
print("added", added.tolist(), "length", len(index), "contains it:", last in index)
assert added.tolist() == [last, last - 1, 5] and len(index) == 3 and last in index
assert last in [int(key) for key in index.keys]

found = {exact: index.search(query, 3, exact=exact).keys.tolist() for exact in (False, True)}
batch = index.search(np.stack([query, query]), 3)
print("best three by inner product:", found[False], "exact:", found[True], "in a batch:", batch.keys[0].tolist())
assert found == {False: [last - 1, 5], True: [last - 1, 5]} and batch.keys[0].tolist() == [last - 1, 5, 0]

index.save("index.usearch")
restored = Index.restore("index.usearch")
print("restored: length", len(restored), "contains it:", last in restored)
assert len(restored) == 2 and last not in restored
PYTHON
