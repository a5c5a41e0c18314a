#!/usr/bin/env bash
# duckdb 2.0.1 (Python): sql("SELECT setseed(0.5)") sets no seed; where it is set, two threads do not repeat a large split.
#
# A split is drawn with random() < 0.1 after setseed, to be the same tomorrow. One would guess that sql() runs a statement. A
# SELECT becomes a lazy relation; nobody fetches the single row of setseed, so it never runs, and the split differs from run to
# run. execute(), or sql(...).fetchall(), sets the seed. Then the split is repeatable with one thread, and with two as long as
# the table is no longer than about one row group (122880 rows): with 300 thousand rows, two runs from the same seed differ again,
# because the threads take row groups in the order in which they become free. USING SAMPLE ... (bernoulli, 7) with a seed of
# its own is the same in every run and with any number of threads.
#
# Prints what it sees and fails if that changes. Needs Python 3.11, two cores and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet duckdb==2.0.1
"$work/venv/bin/python" - <<'PYTHON'
import duckdb

print("duckdb", duckdb.__version__)
SEED = "SELECT setseed(0.5)"
SEEDED = {
    "sql(setseed)": lambda base: base.sql(SEED),
    "sql(setseed).fetchall()": lambda base: base.sql(SEED).fetchall(),
    "execute(setseed)": lambda base: base.execute(SEED),
}


def splits(rows: int, threads: int, seed=None, query="SELECT sum(id) FROM log WHERE random() < 0.1", times: int = 8) -> int:
    """How many different splits come out of `times` new connections that do the same."""
    found = set()
    for _ in range(times):
        base = duckdb.connect()
        base.execute(f"SET threads = {threads}")
        base.execute(f"CREATE TABLE log AS SELECT range AS id FROM range({rows})")
        if seed:
            seed(base)
        found.add(base.execute(query).fetchone())
    return len(found)


for rows in (1000, 100_000, 300_000):
    for threads in (1, 2):
        times = 40 if threads == 2 and rows > 100_000 else 8  # a busy machine may repeat a few runs
        counts = {name: splits(rows, threads, seed, times=times) for name, seed in SEEDED.items()}
        print(f"{rows} rows, {threads} threads, different splits in {times} runs:", counts)
        assert counts["sql(setseed)"] == times
        repeatable = {counts["sql(setseed).fetchall()"], counts["execute(setseed)"]} == {1}
        assert repeatable == (threads == 1 or rows <= 100_000)
sample = "SELECT sum(id) FROM log USING SAMPLE 10% (bernoulli, 7)"
counts = [splits(300_000, threads, query=sample) for threads in (1, 2)]
print("300000 rows, USING SAMPLE 10% (bernoulli, 7), one and two threads:", counts)
assert counts == [1, 1]
PYTHON
