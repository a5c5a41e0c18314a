#!/usr/bin/env bash
# orjson 3.13.0: integers of 2^64 and above are read as floats, so that different ids become one.
#
# Python's integers have no limit and json.loads returns them exactly. One would guess that orjson does so too, or
# refuses what it cannot hold, as orjson.dumps does with the same integer. But loads returns a float with 53 bits: ids
# made from a 128-bit hash lose their last 75 bits, two that differ only there are equal, and writing the value again
# gives a float. 2^64 - 1 is still exact. The same holds below -2^63. msgspec 0.22.0 reads all of them exactly.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet orjson==3.13.0 msgspec==0.22.0
"$work/venv/bin/python" - <<'PYTHON'
import json

import msgspec
import orjson

print("orjson", orjson.__version__, "msgspec", msgspec.__version__)
ids = [2**63, 2**64 - 1, -(2**63), 2**64, 2**127, 2**127 + 1, -(2**63) - 1]
text = json.dumps(ids)
assert json.loads(text) == msgspec.json.decode(text) == ids
read = orjson.loads(text)
for value, got in zip(ids, read):
    print(value, "read as", got)
assert [type(value) for value in read] == [int] * 3 + [float] * 4
assert read[:3] == ids[:3] and read[4] == read[5] and len(set(ids)) == 7
assert type(json.loads(orjson.dumps(read[4]))) is float
for value in ids[3:]:
    try:
        orjson.dumps(value)
    except TypeError as error:
        print("dumps:", error)
    else:
        raise AssertionError(f"dumps writes {value}")
PYTHON
