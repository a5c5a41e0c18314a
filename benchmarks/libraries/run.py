"""Libraries beside mmssl_fast on one catalogue, with the settings that they have by themselves, which are untuned.

    python benchmarks/libraries/run.py DATA OUT PYTHON=DRIVER[:MODEL,…] … [--rounds 3] [--limit 600]

DATA: a folder with interactions.parquet (user, item, split, rating), items.parquet and <modality>_feat.npy. OUT: a new
folder for the results. PYTHON=DRIVER: the interpreter of an environment that contains the library, and a driver of this
folder without its ending, for example `venv/bin/python=implicit_`; `:ALS,BPR` after it runs these models only. The
drivers run one after the other, round by round, with one thread each. --limit: seconds after which a driver is stopped;
the models that it has finished remain. Prints a table: every item is ranked except the training items of the user,
metrics are means over the users with test items, and seconds are processor time of the training alone, of which only
the ratio to another row of the same run means something. protocol.py evaluates the lists that each library returns.
"""

import argparse
import json
import os
import shutil
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
    parser.add_argument("drivers", nargs="+", metavar="PYTHON=DRIVER[:MODEL,…]")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--limit", type=float)
    arguments = parser.parse_args()
    if arguments.out.exists() and any(arguments.out.iterdir()):
        parser.error(f"{arguments.out} contains something, and a table must come from one run; name a new folder")
    drivers = [parsed(parser, text) for text in arguments.drivers]
    for number in range(arguments.rounds):
        for python, driver, models in drivers:
            command = [python, str(driver), str(arguments.data.resolve())]
            command += [str((arguments.out / str(number)).resolve()), *models]
            if fault := failure(command, arguments.limit):
                print(f"{driver.stem}: {fault}", file=sys.stderr)
    print(table(arguments.out))


def parsed(parser: argparse.ArgumentParser, text: str) -> tuple[str, Path, list[str]]:
    """PYTHON=DRIVER:MODEL,… as (path of the interpreter, file of the driver, models)."""
    python, _, named = text.rpartition("=")
    driver, _, models = named.partition(":")
    path, found = HERE / f"{driver}.py", shutil.which(python)
    if not path.is_file() or found is None:
        parser.error(f"{text}: {path.name if found else python} does not exist")
    # not resolve(): the interpreter of a virtual environment is a link, and its own path makes the environment
    return os.path.abspath(found), path, [name for name in models.split(",") if name]


def failure(command: list[str], limit: float | None) -> str:
    """Run a driver. Returns why it failed, "" if it did not."""
    # the drivers import protocol.py, which is beside them
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONSAFEPATH"}
    try:
        ended = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=limit)
    except subprocess.TimeoutExpired:
        return f"stopped after {limit:g} seconds"
    lines = ended.stderr.strip().splitlines()
    return (lines[-1] if lines else str(ended.returncode)) if ended.returncode else ""


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
