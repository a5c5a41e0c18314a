#!/usr/bin/env bash
# keras-rs 0.4.0: RemoveAccidentalHits removes nothing; the constant that it adds to a logit is the smallest positive float.
#
# With in-batch negatives, the same item can be the positive of one row and a negative of another. RemoveAccidentalHits is
# there to give such a negative "an extremely small logit". One would guess about -3.4e38, so that softmax gives it 0. The
# layer adds 1.2e-40 (the smallest normal float divided by 100) instead: small, but not negative. Every logit comes back as it
# was, accidental hits keep their share of the softmax, and the gradient goes on pushing a user's own item away. No
# error, and the result has the right shape and type.
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
import torch

print("keras", keras.__version__, "keras_rs", keras_rs.__version__)
layer = keras_rs.layers.RemoveAccidentalHits()
items = np.array([7, 8, 7], "int32")  # the third candidate is the first row's positive once more
labels = np.array([[1, 0, 0], [0, 1, 0]], "float32")
logits = np.array([[2.0, 1.0, 2.0], [0.5, 3.0, -1.0]], "float32")

result = layer(logits, labels, items).cpu().numpy()
print("logits before:", logits.tolist())
print("logits after: ", result.tolist())
assert np.array_equal(result, logits)

share = torch.softmax(torch.tensor(result[0]), 0)[2].item()
print(f"softmax of the accidental hit: {share:.3f}; removed, it would be 0")
assert share > 0.4

zero = layer(np.zeros((1, 3), "float32"), labels[:1], items).cpu().numpy()[0]
print("logits of 0 after:", zero.tolist())
assert zero[1] == 0 and 0 < zero[2] < 1e-38
PYTHON
