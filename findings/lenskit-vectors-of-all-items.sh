#!/usr/bin/env bash
# LensKit 2025.8.1: item vectors are stored only if an item has none; if all have one, they cannot be read, and the table
# gives them to other items.
#
# DatasetBuilder.add_vector_attribute takes the ids of the items and one row of numbers for each. With a vector for three
# of four items, the data set has the attribute, and each item its own vector. One would guess that a vector for the
# fourth item changes nothing. Then the attribute is unknown (KeyError), and the column of the same name in the table of
# items has the rows in the order in which they were given, whatever items they were given for.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet lenskit==2025.8.1
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import pandas as pd
from lenskit.data import DatasetBuilder

print("LensKit", version("lenskit"), "NumPy", np.__version__)
pairs = pd.DataFrame({"user_id": [1, 1, 2, 2], "item_id": [10, 11, 12, 13]})


def built(items: list[int]):
    """The items of a data set in which the vector of item i is [i, i]."""
    builder = DatasetBuilder()
    builder.add_interactions("view", pairs, entities=["user", "item"], missing="insert", default=True)
    builder.add_vector_attribute("item", "text", items, np.array([[i, i] for i in items], np.float32))
    return builder.build().entities("item")


def vectors(entities) -> dict[int, float]:
    """{item: the first number of its vector} in the table of items."""
    table = entities.arrow().to_pandas()
    rows = zip(table["item_id"], table["text"], strict=True)
    return {int(item): float(vector[0]) for item, vector in rows if vector is not None and not np.isnan(vector[0])}


some, every = built([13, 11, 10]), built([13, 12, 11, 10])
print("three items have a vector:", vectors(some), list(some.schema.attributes))
print("all four have one:", vectors(every), list(every.schema.attributes))
assert vectors(some) == {10: 10, 11: 11, 13: 13} and "text" in some.schema.attributes
assert vectors(every) == {10: 13, 11: 12, 12: 11, 13: 10} and "text" not in every.schema.attributes
try:
    every.attribute("text")
except KeyError as error:
    print("reading the attribute: KeyError", error)
else:
    raise SystemExit("the attribute is there")
PYTHON
