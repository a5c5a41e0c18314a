#!/usr/bin/env bash
# milvus-lite 3.2.2: with an INVERTED index on a column of integers, filters compare with the whole part of the bound, once
# the rows are flushed.
#
# Ratings are integers from 1 to 5, and a filter keeps what is rated below 3.5. One would guess that an index changes the
# speed. Without one, `rating < 3.5` finds 1, 2 and 3, and `rating == 3.5` nothing. With one, each bound becomes
# int(bound) before the look-up (_normalize_value in index/scalar/inverted.py): `rating < 3.5` finds 1 and 2,
# `rating >= 3.5` finds 3 as well, `rating == 3.5` and `rating in [3.5]` find the rating 3, `rating != 3.5` loses it, and
# `delta > -0.5` does not find 0. query and search do the same. New rows have no index until flush(): the same filter is
# right before, wrong afterwards, and half of each in a collection that is written to. With `rating < 4` both are right.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet milvus-lite==3.2.2 pymilvus==3.0.2 faiss-cpu==1.15.1 pyarrow==26.0.1 numpy==2.4.6
cd "$work"
HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

from pymilvus import DataType, MilvusClient

print("milvus-lite", version("milvus-lite"), "pymilvus", version("pymilvus"))
client = MilvusClient("ratings.db")
right = {"rating < 3.5": [1, 2, 3], "rating >= 3.5": [4, 5], "rating == 3.5": [], "rating in [3.5]": []}
right |= {"rating != 3.5": [1, 2, 3, 4, 5], "delta > -0.5": [3, 4, 5], "rating < 4": [1, 2, 3]}
wrong = {"rating < 3.5": [1, 2], "rating >= 3.5": [3, 4, 5], "rating == 3.5": [3], "rating in [3.5]": [3]}
wrong |= {"rating != 3.5": [1, 2, 4, 5], "delta > -0.5": [4, 5], "rating < 4": [1, 2, 3]}


def found(name: str) -> dict[str, list[int]]:
    lists = {}
    for condition in right:
        lists[condition] = sorted(row["id"] for row in client.query(name, filter=condition, output_fields=["id"]))
        hits = client.search(name, [[1.0, 0.0]], limit=10, filter=condition)[0]
        assert sorted(hit["id"] for hit in hits) == lists[condition]
    return lists


for name, indexed in (("plain", False), ("indexed", True)):
    schema = client.create_schema(auto_id=False)
    schema.add_field("id", DataType.INT64, is_primary=True)
    schema.add_field("vector", DataType.FLOAT_VECTOR, dim=2)
    schema.add_field("rating", DataType.INT8)
    schema.add_field("delta", DataType.INT64)
    indexes = client.prepare_index_params()
    indexes.add_index("vector", index_type="FLAT", metric_type="IP")
    for field in ("rating", "delta") if indexed else ():
        indexes.add_index(field, index_type="INVERTED")
    client.create_collection(name, schema=schema, index_params=indexes)
    client.insert(name, [{"id": i, "vector": [1.0, 0.0], "rating": i, "delta": i - 3} for i in range(1, 6)])
    before = found(name)
    client.flush(name)
    after = found(name)
    print(f"{name}, before flush: {before}")
    print(f"{name}, after flush:  {after}")
    assert before == right
    assert after == (wrong if indexed else right)

client.insert("indexed", [{"id": i + 10, "vector": [1.0, 0.0], "rating": i, "delta": i - 3} for i in range(1, 6)])
mixed = sorted(row["id"] for row in client.query("indexed", filter="rating >= 3.5", output_fields=["id"]))
print("indexed, the same rows once more as 11 to 15, rating >= 3.5:", mixed)
assert mixed == [3, 4, 5, 14, 15]
client.close()
PYTHON
