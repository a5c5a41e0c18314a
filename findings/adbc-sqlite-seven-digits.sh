#!/usr/bin/env bash
# adbc-driver-sqlite 1.13.0: one text in a column cuts the column's numbers to seven digits, and two ids become one.
#
# A column of SQLite may hold values of several types, and a column of Arrow may not, so that the driver widens it:
# integers to double, numbers to text. One would guess that a number becomes the text that SQLite itself makes of it
# (CAST AS TEXT: 0.123456789012). It is printed with six decimals instead, 1.234568e-01. Where integers, a fraction and
# a text come together, the integers have become doubles first, and are printed like that too: the ids 16777217 and
# 16777218 are both '1.677722e+07'. Which of the two happens depends on the order of the rows: with the text ahead of
# the fraction, integers keep all digits.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet adbc-driver-sqlite==1.13.0 adbc-driver-manager==1.13.0 pyarrow==26.0.1
"$work/venv/bin/python" - <<'PYTHON'
from importlib.metadata import version

from adbc_driver_sqlite import dbapi

print("adbc-driver-sqlite", version("adbc-driver-sqlite"))


def read(*values: str) -> tuple[list, list]:
    """The column as Arrow has it, and as SQLite's own texts."""
    with dbapi.connect() as connection, connection.cursor() as cursor:
        cursor.execute("CREATE TABLE t (a)")
        cursor.execute("INSERT INTO t VALUES " + ", ".join(f"({value})" for value in values))
        cursor.execute("SELECT a, CAST(a AS TEXT) AS s FROM t ORDER BY rowid")
        table = cursor.fetch_arrow_table()
    print(values, "->", table["a"].to_pylist(), "SQLite's own:", table["s"].to_pylist())
    return table["a"].to_pylist(), table["s"].to_pylist()


got, own = read("0.123456789012", "'unknown'")
assert got == ["1.234568e-01", "unknown"] and own == ["0.123456789012", "unknown"]
assert read("16777217", "16777218", "'unknown'")[0] == ["16777217", "16777218", "unknown"]
got, own = read("16777217", "16777218", "0.5", "'unknown'")
assert got == ["1.677722e+07", "1.677722e+07", "5.000000e-01", "unknown"]
assert own == ["16777217", "16777218", "0.5", "unknown"]
assert read("16777217", "16777218", "'unknown'", "0.5")[0] == ["16777217", "16777218", "unknown", "5.000000e-01"]
PYTHON
