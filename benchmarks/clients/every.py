"""Runs every public project of docs/dropin_measurements.md for which there is a checkout, and prints a table.

    python benchmarks/clients/every.py CHECKOUTS DATA [--turns 3] [--evaluations 2] [--only NAME] [--results FOLDER]

CHECKOUTS is a folder of clones, each under the name of its repository, as MMRec; `recbole` is the folder of the package
(pip install --no-deps --target CHECKOUTS/recbole recbole==1.2.1). What is not there is named and left out. DATA is a
data set in any layout that mmssl-fast reads; projects without it in the list below run on the built-in data. Ratios are
those of median processor times; with several threads (OMP_NUM_THREADS=2) those of elapsed times, for which nothing else
may run on the machine. A ratio in brackets is that of a second process of the unchanged code: the noise.
"""

from __future__ import annotations

import argparse
import json
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import NamedTuple

FOLDER = Path(__file__).parent
STEPS = "--users 1500 --items 1000"  # of the built-in data, where a turn is a step or an epoch of a second or so


class Row(NamedTuple):
    project: str
    checkout: str
    client: str
    data: bool  # whether it runs on DATA
    full: bool  # whether mmssl_fast.dropin has parts for it
    options: str = ""


ROWS = (
    Row("LightGCN-PyTorch", "LightGCN-PyTorch", "lightgcn_pytorch", True, True),
    Row("LightGCN-PyTorch, edges dropped", "LightGCN-PyTorch", "lightgcn_pytorch", True, True, "--set dropout=1"),
    Row("LightGCN++", "LightGCNpp", "lightgcn_pytorch", True, True, "--set testbatch=128"),
    Row("RecBole, LightGCN", "recbole", "recbole", True, True),
    Row("RecBole, SGL", "recbole", "recbole", False, False, f"{STEPS} --set model=SGL"),
    Row("RecBole-GNN, LightGCN", "RecBole-GNN", "recbole_gnn", True, True),
    Row("RecBole-GNN, NGCF", "RecBole-GNN", "recbole_gnn", True, True, "--set model=NGCF"),
    Row("MMRec, LightGCN", "MMRec", "mmrec", True, True, "--set model=LightGCN"),
    Row("MMRec, FREEDOM", "MMRec", "mmrec", True, True, "--set model=FREEDOM"),
    Row("MMRec, SELFCFED_LGN", "MMRec", "mmrec", True, True, "--set model=SELFCFED_LGN"),
    Row("DRAGON", "DRAGON", "mmrec", False, True, f"{STEPS} --turns 16 --keep-memory --set model=DRAGON"),
    Row("MMSSL", "MMSSL", "hkuds", False, True, f"{STEPS} --turns 8"),
    Row("PromptMM", "PromptMM", "hkuds", False, True, f"{STEPS} --turns 8 --set main=codes/main.py"),
    Row("SELFRec, LightGCN", "SELFRec", "selfrec", False, False, f"{STEPS} --turns 15 --keep-memory"),
    Row(
        "SELFRec, XSimGCL", "SELFRec", "selfrec", False, False, f"{STEPS} --turns 15 --keep-memory --set model=XSimGCL"
    ),
    Row("SELFRec, SGL", "SELFRec", "selfrec", False, False, f"{STEPS} --turns 15 --keep-memory --set model=SGL"),
    Row("SSLRec, LightGCN", "SSLRec", "sslrec", False, False, f"{STEPS} --turns 12"),
    Row("SSLRec, LightGCN on DATA", "SSLRec", "sslrec", True, False),
    Row("SSLRec, SimGCL", "SSLRec", "sslrec", False, False, f"{STEPS} --turns 12 --set model=simgcl"),
    Row("NGCF-PyTorch", "NGCF-PyTorch", "ngcf_pytorch", False, False, f"{STEPS} --set 'args=--node_dropout_flag 0'"),
    Row("NGCF-PyTorch, edges dropped", "NGCF-PyTorch", "ngcf_pytorch", False, False, STEPS),
    Row("MixGCF, LightGCN", "MixGCF", "mixgcf", False, False, STEPS),
    Row("KGAT-pytorch", "KGAT-pytorch", "kgat_pytorch", False, False, f"{STEPS} --turns 12"),
    Row("pygcn", "pygcn", "pygcn", False, False, f"{STEPS} --turns 20"),
    Row("LightGCL", "LightGCL", "lightgcl", False, False, f"{STEPS} --turns 8 --keep-memory"),
    Row("DiffMM", "DiffMM", "diffmm", False, False, STEPS),
    Row("MMHCL", "MMHCL", "mmhcl", False, False, f"{STEPS} --keep-memory"),
)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkouts", type=Path)
    parser.add_argument("data", type=Path)
    parser.add_argument("--turns", default="3", help="of the rows that do not set a number of their own")
    parser.add_argument("--evaluations", default="2")
    parser.add_argument(
        "--only",
        default="",
        metavar="NAME",
        help="rows whose name contains this text, or one of several separated by ;",
    )
    parser.add_argument("--results", type=Path, help="an existing folder for a JSON file and a log of every row")
    args = parser.parse_args()
    if args.results and not args.results.is_dir():
        parser.error(f"argument --results: there is no folder {args.results}")
    folder = args.results or Path(tempfile.mkdtemp(prefix="clients-"))
    table = ["| project | `sparse` | `accelerate` | evaluation | losses differ by |", "|---|---|---|---|---|"]
    for row in ROWS:
        if not any(part.strip().lower() in row.project.lower() for part in args.only.split(";")):
            continue
        if not (args.checkouts / row.checkout).is_dir():
            print(f"{row.project}: left out, there is no {args.checkouts / row.checkout}", file=sys.stderr)
            continue
        result = run(row, args, folder)
        if result:
            table.append(line(row, result))
            print(table[-1], flush=True)
    print("\n" + "\n".join(table) + f"\nwhat each command printed: {folder}")


def run(row: Row, args: argparse.Namespace, folder: Path) -> dict | None:
    """What run.py found, or None after an error, which it has printed."""
    name = "".join(letter if letter.isalnum() else "-" for letter in row.project)
    found = folder / f"{name}.json"
    command = [sys.executable, "-P", str(FOLDER / "run.py"), row.client, str(args.checkouts / row.checkout)]
    command += ["--turns", args.turns, "--evaluations", args.evaluations, *shlex.split(row.options)]
    command += ["--data", str(args.data)] if row.data else []
    command += ["--sides", "own,own2,sparse" + (",full" if row.full else ""), "--json", str(found)]
    # RecBole-GNN imports the package recbole.
    path = os.pathsep.join(filter(None, (str(args.checkouts / "recbole"), os.environ.get("PYTHONPATH"))))
    ended = subprocess.run(
        command, stdout=subprocess.PIPE, text=True, check=False, env=os.environ | {"PYTHONPATH": path}
    )
    (folder / f"{name}.txt").write_text(ended.stdout)
    if ended.returncode:
        print(f"{row.project}: failed with status {ended.returncode}", file=sys.stderr)
        return None
    return json.loads(found.read_text())


def line(row: Row, result: dict) -> str:
    """A row of the table. An evaluation is the fastest one, since all do the same."""
    key = "cpu" if os.environ.get("OMP_NUM_THREADS", "1") == "1" else "wall"
    turns = {side: [turn[key] for turn in found["turns"]] for side, found in result.items()}
    middle = {side: statistics.median(times) for side, times in turns.items()}
    ends = {
        side: min((each["cpu"] for each in found["evaluations"] if "cpu" in each), default=None)
        for side, found in result.items()
    }
    noise = f"({middle['own'] / middle['own2']:.2f}x)"
    cells = [row.project, f"{middle['own'] / middle['sparse']:.2f}x {noise}"]
    full = f"{middle['own'] / middle['full']:.2f}x" if "full" in result else ""
    evaluation = ""
    if ends["own"]:
        evaluation = f"{ends['own'] / ends['sparse']:.2f}x ({ends['own'] / ends['own2']:.2f}x)"
        if full:
            full += f", {(middle['own'] + ends['own']) / (middle['full'] + ends['full']):.2f}x with one evaluation"
            evaluation += f"; {ends['own'] / ends['full']:.2f}x with `accelerate`"
    worst = max(_difference(result["own"], result[side]) for side in result)
    return "| " + " | ".join([*cells, full, evaluation, f"{worst:.1e}" if worst else "equal"]) + " |"


def _difference(own: dict, other: dict) -> float:
    """The largest relative difference of a loss in any turn."""
    pairs = [
        (a["losses"][key], b["losses"][key])
        for a, b in zip(own["turns"], other["turns"], strict=True)
        for key in a["losses"]
        if key in b["losses"]
    ]
    return max((abs(b - a) / max(abs(a), 1e-12) for a, b in pairs), default=float("nan"))


if __name__ == "__main__":
    main()
