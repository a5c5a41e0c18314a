#!/usr/bin/env bash
# keras-rs 0.4.0: BruteForceRetrieval cuts candidate ids to 32 bits, so long ids come back as other items' ids.
#
# candidate_ids are the item ids that a lookup returns. One would guess that int64 ids come back as they are, or that ids which do
# not fit are refused. They are stored as int32: 2^40 + 10 comes back as 10, which is another item of the same catalogue, and
# 2^31 + 5 as a negative number. Scores and order are right, nothing is raised, and update_candidates does the same.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet keras==3.15.1 keras-rs==0.4.0 numpy==2.4.6 torch==2.13.0
HOME="$work" KERAS_BACKEND=torch "$work/venv/bin/python" -W ignore - <<'PYTHON'
import keras
import keras_rs
import numpy as np

print("keras", keras.__version__, "keras_rs", keras_rs.__version__)
ids = np.array([10, 2**40 + 10, 2**31 + 5, 13])
vectors = np.diag([4.0, 3.0, 2.0, 1.0]).astype("float32")
query = np.ones((1, 4), "float32")  # its scores are 4, 3, 2, 1: the candidates in their order


def found(layer) -> list[int]:
    return layer(query).cpu().numpy()[0].tolist()


made = keras_rs.layers.BruteForceRetrieval(candidate_embeddings=vectors, candidate_ids=ids, k=4, return_scores=False)
updated = keras_rs.layers.BruteForceRetrieval(
    candidate_embeddings=vectors, candidate_ids=np.arange(4), k=4, return_scores=False
)
updated.update_candidates(vectors, ids)
print("ids of the candidates, best first:", ids.tolist())
for title, layer in (("given at the beginning", made), ("by update_candidates", updated)):
    print(f"{title}, found:", found(layer))
    assert found(layer) == [10, 10, 5 - 2**31, 13]
PYTHON
