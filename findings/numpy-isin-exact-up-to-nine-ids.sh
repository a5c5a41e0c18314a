#!/usr/bin/env bash
# numpy 2.4.6: np.isin of signed and unsigned ids is exact for up to nine ids, and compares them as floats from ten on.
#
# A catalogue's ids are int64, those that a vector index or a hash returns uint64. One would guess that np.isin compares
# two arrays of integers as integers, or that it rounds both to float64 always, as np.intersect1d does (2^53 + 1 is in
# [2^53]). What it does depends on how many there are and how far apart they lie. One id against nine is compared with
# each and is right; against ten the arrays are put together and sorted, as float64, and 2^53 + 1 is in an array that
# holds 2^53. For a catalogue of 5000 ids the border is 34: with 34 ids that are not in it none is found, with 35 all
# are. If the ids lie close together, a table is used instead, and the answer is exact again for any number; then
# kind="sort", which is said to change the speed, changes the answer.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet numpy==2.4.6
"$work/venv/bin/python" -W error - <<'PYTHON'
import numpy as np

print("NumPy", np.__version__)
one = np.array([2**53 + 1], np.int64)
found = {}
for count in (1, 5, 9, 10, 100):
    ids = np.array([2**53, *range(1, count)], np.uint64)
    found[count] = bool(np.isin(one, ids)[0])
    assert not np.isin(one, ids.astype(np.int64))[0]
    assert np.intersect1d(one, ids).tolist() == [2.0**53]
print("is 2^53 + 1 among 2^53 and n - 1 small ids, for n =", found)
assert found == {1: False, 5: False, 9: False, 10: True, 100: True}

catalogue = np.unique(np.random.default_rng(0).integers(2**62, 2**63, 5000))
counted = {}
for count in (20, 34, 35, 200):
    strangers = (catalogue[:count] + 1).astype(np.uint64)
    assert not np.isin(catalogue, strangers.astype(np.int64)).any()
    counted[count] = int(np.isin(catalogue, strangers).sum())
print("ids of 5000 that are found among n ids of which none is theirs, for n =", counted)
assert counted[20] == counted[34] == 0 and counted[35] >= 34 and counted[200] >= 190

even = np.arange(2**60, 2**60 + 2000, 2)
odd = (even + 1).astype(np.uint64)
close = {str(kind): int(np.isin(even, odd, kind=kind).sum()) for kind in (None, "table", "sort")}
print("even numbers among odd numbers, all close together, by kind:", close)
assert close["None"] == close["table"] == 0 and close["sort"] > 900
PYTHON
