"""Libraries beside mmssl_fast on one catalogue, with the settings that they have by themselves, which are untuned.

    python benchmarks/libraries/run.py DATA OUT PYTHON=DRIVER … [--rounds 3]

DATA: a folder with interactions.parquet (user, item, split), items.parquet and <modality>_feat.npy. PYTHON=DRIVER: the
interpreter of an environment that contains the library, and a driver of this folder without its ending, for example
`venv/bin/python=implicit_`. The drivers run one after the other, round by round, with one thread each. Prints a table:
every item is ranked except the training items of the user, metrics are means over the users with test items, and
seconds are processor time of the training alone, of which only the ratio to another row of the same run means
something. protocol.py evaluates the lists that each library returns.
"""

import argparse
import json
import os
import statistics
import subprocess
import sys
from pathlib import Path

HERE = Path(__file__).resolve().parent
BASE = ("mmssl_fast", "ease")  # the row whose training time is 1


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("drivers", nargs="*", metavar="PYTHON=DRIVER")
    parser.add_argument("--rounds", type=int, default=1)
    arguments = parser.parse_args()
    for number in range(arguments.rounds):
        for pair in arguments.drivers:
            python, _, driver = pair.rpartition("=")
            command = [python, str(HERE / f"{driver}.py"), str(arguments.data.resolve())]
            command.append(str((arguments.out / str(number)).resolve()))
            ended = subprocess.run(command, cwd=HERE, env=os.environ, capture_output=True, text=True)
            if ended.returncode:
                lines = ended.stderr.strip().splitlines()
                print(f"{driver}: {lines[-1] if lines else ended.returncode}", file=sys.stderr)
    print(table(arguments.out))


def table(out: Path) -> str:
    """The results of all rounds as a Markdown table: metrics of the first, the median of the times."""
    results: dict[tuple[str, str], list[dict]] = {}
    for path in sorted(out.glob("*/*.json")):
        result = json.loads(path.read_text())
        results.setdefault((result["library"], result["model"]), []).append(result)
    seconds = {key: statistics.median(each["seconds"] for each in found) for key, found in results.items()}
    base = seconds.get(BASE, 0.0)
    rows = ["| library | model | Recall@20 | NDCG@20 | training, × EASE of mmssl_fast |", "|---|---|---|---|---|"]
    for key, (first, *_) in results.items():
        name = f"{first['library']} {first['versions'].get(first['library'], '')}".strip()
        if "error" in first:
            rows.append(f"| {name} | {first['model']} | {first['error']} | | |")
            continue
        ratio = f"{seconds[key] / base:.3g}" if base else f"{seconds[key]:.3g} s"
        note = f" ({first['short']} lists shorter than 20)" if first["short"] else ""
        rows.append(f"| {name} | {first['model']}{note} | {first['recall']:.3f} | {first['ndcg']:.3f} | {ratio} |")
    return "\n".join(rows)


if __name__ == "__main__":
    main()
