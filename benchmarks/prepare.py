"""`data prepare` of random interactions in Parquet: seconds and peak memory, as JSON.

python benchmarks/prepare.py [--interactions N] [--users N] [--items N] [--text] [--split RULE] [--folder FOLDER]
"""

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import pyarrow as pa
from pyarrow import parquet

PART = 2_000_000  # rows of a part


def generate(folder: Path, interactions: int, users: int, items: int, text: bool) -> int:
    """Parts with item popularity 1 / rank, and times. Returns their bytes."""
    random = np.random.default_rng(0)
    share = (1 / np.arange(1, items + 1)).cumsum()
    for at, begin in enumerate(range(0, interactions, PART)):
        count = min(PART, interactions - begin)
        drawn = np.searchsorted(share, random.random(count) * share[-1])
        user, item = pa.array(random.integers(0, users, count)), pa.array(drawn)
        if text:
            user, item = (pa.compute.binary_join_element_wise("id-", side.cast("string"), "") for side in (user, item))
        table = pa.table({"user": user, "item": item, "timestamp": random.integers(0, 2**31, count)})
        parquet.write_table(table, folder / f"part-{at:05d}.parquet")
    return sum(path.stat().st_size for path in folder.iterdir())


def prepare(source: str, destination: str, split: str) -> None:
    """Runs in a process of its own, whose peak memory is that of the preparation."""
    from mmssl_trainer import prepare_data

    def peak() -> int:
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024

    before, begun = peak(), time.perf_counter()
    data = prepare_data(source, destination, split=split)
    seconds = time.perf_counter() - begun
    found = {"seconds": seconds, "peak_rss": peak(), "rss_of_imports": before}
    found |= {"users": data.n_users, "items": data.n_items, "fingerprint": data.fingerprint[:16]}
    print(json.dumps(found | {split: int(getattr(data, split).nnz) for split in ("train", "val", "test")}))


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--interactions", type=int, default=20_000_000)
    parser.add_argument("--users", type=int, default=1_000_000)
    parser.add_argument("--items", type=int, default=500_000)
    parser.add_argument("--text", action="store_true", help="ids are text")
    parser.add_argument("--split", default="auto")
    parser.add_argument("--folder", default=None, help="where the temporary folder is created")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder) as folder:
        source = Path(folder) / "source" / "interactions.parquet"
        source.mkdir(parents=True)
        size = generate(source, options.interactions, options.users, options.items, options.text)
        command = [sys.executable, "-P", __file__, "prepare", str(source.parent), f"{folder}/prepared", options.split]
        found = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
        written = sum(path.stat().st_size for path in (Path(folder) / "prepared").iterdir())
    print(json.dumps(vars(options) | {"parquet_bytes": size, "prepared_bytes": written} | found))


if __name__ == "__main__":
    if sys.argv[1:2] == ["prepare"]:
        prepare(*sys.argv[2:])
    else:
        main()
