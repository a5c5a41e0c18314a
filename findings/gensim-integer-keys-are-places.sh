#!/usr/bin/env bash
# gensim 4.4.0: the vector of an integer item that is not in the vocabulary is that of another item.
#
# Word2Vec takes sessions of item ids, strings or integers, and drops the items that are rarer than min_count. One would guess
# that a dropped or unknown item raises KeyError, as it does with strings, and that `item in model.wv` tells which items are
# there. But an integer that is no key is taken for a place in the table (KeyedVectors.get_index in models/keyedvectors.py):
# item 3, which is too rare, gets the vector of the fourth most frequent item, `3 in model.wv` is True, and similarity, distance,
# most_similar and n_similarity go by that item too. Only ids beyond the size of the vocabulary raise KeyError, so that a test
# with an unknown id of 999999 passes. A negative id raises KeyError as well. model.wv.key_to_index tells the truth, and
# strings are right. The documentation of get_index calls its argument a key.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet gensim==4.4.0 numpy==2.4.6
HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from gensim.models import Word2Vec

print("gensim", version("gensim"), "NumPy", np.__version__)
# Items 10 to 29 are common, item 29 most of all; item 3 occurs once and falls to min_count=2.
sessions = [[item, 10 + (item - 9) % 20, 29] for item in range(10, 30)] * 5 + [[3, 12]]
options = {"vector_size": 8, "min_count": 2, "seed": 0, "workers": 1}
wv = Word2Vec(sessions, **options).wv
fourth = wv.index_to_key[3]
print(f"{len(wv)} items in the vocabulary, the fourth is {fourth}; 3 is a key: {3 in wv.key_to_index}; 3 in wv: {3 in wv}")
assert len(wv) == 20 and 3 not in wv.key_to_index and 3 in wv and wv.has_index_for(3)
assert np.array_equal(wv[3], wv[fourth]) and np.array_equal(wv.get_vector(3, norm=True), wv.get_vector(fourth, norm=True))
print(f"similarity of 3 and {fourth}: {wv.similarity(3, fourth):.3f}; nearest to 3: {wv.most_similar(3, topn=2)}")
assert wv.similarity(3, fourth) > 0.999 and wv.distance(3, 29) == wv.distance(fourth, 29)
assert wv.most_similar(3, topn=5) == wv.most_similar(fourth, topn=5)
assert wv.n_similarity([3], [29]) == wv.n_similarity([fourth], [29])
unknown = [item for item in range(-5, 40) if item not in wv.key_to_index]
print("unknown items that have a vector:", [item for item in unknown if item in wv])
assert [item for item in unknown if item in wv] == list(range(10))
for item in (-1, 30, 999999):
    try:
        wv[item]
    except KeyError as error:
        print(f"item {item}: KeyError {error}")
    else:
        raise AssertionError(f"item {item} has a vector")

texts = Word2Vec([[str(item) for item in session] for session in sessions], **options).wv
assert "3" not in texts and np.array_equal(texts[str(fourth)], texts.vectors[texts.key_to_index[str(fourth)]])
try:
    texts["3"]
except KeyError as error:
    print("as a string: KeyError", error)
else:
    raise AssertionError("the rare item has a vector")
PYTHON
