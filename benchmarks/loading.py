"""Loading of random interactions with text ids beside polars, which reads the table and encodes the ids by dense ranks.

python -P benchmarks/loading.py [--interactions N] [--rounds N] [--polars FOLDER] [--folder FOLDER]

The ids resemble those of Amazon: 14 characters for users, 10 for items, with item popularity 1 / rank. Every
measurement is a process of its own with one thread, and the kinds take turns. Shown are the least CPU seconds without
imports, and the growth of the resident memory since the imports. The last column divides it by the size of the table in
Arrow's layout of text: the characters, and 4 bytes per cell. FOLDER of --polars is where `pip install --target FOLDER
polars` put it, unless it is installed.
"""

import argparse
import contextlib
import io
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

THREADS = {f"{name}_NUM_THREADS": "1" for name in ("OMP", "OPENBLAS", "MKL")} | {"POLARS_MAX_THREADS": "1"}
LETTERS = "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789"
KINDS = ("polars", "read and encode", "load", "data check")


def generate(folder: Path, interactions: int) -> None:
    """interactions.csv and interactions.parquet in folders of their own."""
    import numpy as np
    import pyarrow as pa
    from pyarrow import csv, parquet

    random = np.random.default_rng(0)
    users, items = max(1, interactions // 10), max(1, interactions // 40)

    def ids(first: str, count: int, width: int):
        letters = np.array(list(LETTERS))
        texts = letters[random.integers(len(LETTERS), size=(count, width - len(first)))].view(f"U{width - len(first)}")
        return np.unique(np.char.add(first, texts[:, 0]))

    share = (1 / np.arange(1, items + 1)).cumsum()
    user_ids, item_ids = ids("A", users, 14), random.permutation(ids("B0", items, 10))
    user = pa.array(user_ids).take(pa.array(random.integers(0, len(user_ids), interactions)))
    drawn = np.minimum(np.searchsorted(share, random.random(interactions) * share[-1]), len(item_ids) - 1)
    table = pa.table({"user": user, "item": pa.array(item_ids).take(pa.array(drawn))})
    for kind, write in (("csv", csv.write_csv), ("parquet", parquet.write_table)):
        (folder / kind).mkdir(exist_ok=True)
        write(table, folder / kind / f"interactions.{kind}")


def call_of(kind: str, folder: Path) -> Callable[[], object]:
    """What is measured. Imports happen before."""
    if kind == "polars":
        import polars as pl

        read = pl.read_csv if folder.name == "csv" else pl.read_parquet

        def encoded():
            table = read(folder / f"interactions.{folder.name}", columns=["user", "item"])
            return [(table[side].unique().sort(), table[side].rank("dense").to_numpy()) for side in ("user", "item")]

        return encoded
    import pyarrow
    from mmssl_trainer import load_data
    from mmssl_trainer.cli.main import main
    from mmssl_trainer.data.ids import sorted_ids
    from mmssl_trainer.data.tables import read_table

    pyarrow.set_cpu_count(1)
    if kind == "read and encode":
        path = folder / f"interactions.{folder.name}"
        return lambda: [sorted_ids(column) for column in read_table(path, ["user", "item"]).values()]
    if kind == "load":
        return lambda: load_data(folder)

    def check():
        with contextlib.redirect_stdout(io.StringIO()) as printed:
            if main(["data", "check", str(folder)]) != 0:
                sys.exit(printed.getvalue())

    return check


def resident(name: str) -> int:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(1024 * int(line.split()[1]) for line in lines if line.startswith(f"{name}:"))


def measure(kind: str, folder: Path) -> None:
    """Runs in a process of its own."""
    call = call_of(kind, folder)
    with contextlib.suppress(OSError):
        Path("/proc/self/clear_refs").write_text("5")
    before, begun = resident("VmRSS"), time.process_time()
    result = call()
    print(json.dumps({"seconds": time.process_time() - begun, "peak": resident("VmHWM") - before}))
    del result


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--interactions", type=int, default=2_000_000)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--polars", default="", help="folder in which polars was installed")
    parser.add_argument("--folder", help="where the tables are written, or have been written")
    parser.add_argument("--measure", nargs=2, help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.measure:
        measure(options.measure[0], Path(options.measure[1]))
        return
    path = os.pathsep.join(each for each in (os.environ.get("PYTHONPATH"), options.polars) if each)
    environment = {**os.environ, **THREADS, "PYTHONPATH": path}
    with tempfile.TemporaryDirectory() as temporary:
        root = Path(options.folder or temporary)
        root.mkdir(exist_ok=True)
        if not (root / "parquet").exists():
            generate(root, options.interactions)
        characters = (14 + 10 + 2 * 4) * options.interactions
        print("| table | what | CPU s | of polars | MiB | of the table |\n|---|---|---|---|---|---|")
        for table in ("csv", "parquet"):
            found: dict[str, list[dict]] = {kind: [] for kind in KINDS}
            for _ in range(options.rounds):
                for kind, rows in found.items():
                    command = [sys.executable, "-P", __file__, "--measure", kind, str(root / table)]
                    output = subprocess.run(
                        command, env=environment, check=True, stdout=subprocess.PIPE, text=True
                    ).stdout
                    rows.append(json.loads(output.splitlines()[-1]))
            least = {kind: min(row["seconds"] for row in rows) for kind, rows in found.items()}
            for kind, rows in found.items():
                peak = min(row["peak"] for row in rows)
                print(
                    f"| {table} | {kind} | {least[kind]:.2f} | {least[kind] / least['polars']:.2f} "
                    f"| {peak / 2**20:.0f} | {peak / characters:.1f} |",
                    flush=True,
                )


if __name__ == "__main__":
    main()
