"""The output of the programs can_<library>.py as Markdown: a table of answers, and the evidence behind them.

    python benchmarks/libraries/table.py can_mmssl_fast.txt can_implicit.txt …

The columns are in the order of the files. "failed" and "hits, look" are no answers: look at them and mend the check.
"""

import sys
from pathlib import Path

from checks import ROWS

ANSWERS = {"yes": "yes", "partly": "partly", "no": "–"}


def read(path: Path) -> tuple[str, dict[str, list[str]]]:
    """(package and version, {row: [answer, kind, call, detail]}). Other lines are messages of the libraries."""
    lines = path.read_text(encoding="utf-8").splitlines()
    title = next(line for line in lines if line.startswith("# ")).removeprefix("# ")
    rows = [line.split("\t") for line in lines]
    return title, {row[0]: row[1:] for row in rows if len(row) == 5 and row[0] in ROWS}


def main() -> None:
    columns = [read(Path(name)) for name in sys.argv[1:]]
    print("| | " + " | ".join(title.split()[0] for title, _ in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for row in ROWS:
        answers = [found.get(row, ["MISSING"])[0] for _, found in columns]
        print(f"| {row} | " + " | ".join(ANSWERS.get(answer, answer) for answer in answers) + " |")
    for title, found in columns:
        print(f"\n### {title}\n\n| | answer | evidence | call or search | |\n|---|---|---|---|---|")
        for row in ROWS:
            answer, kind, call, detail = (cell.replace("|", "\\|") for cell in found.get(row, ["MISSING", "", "", ""]))
            print(f"| {row} | {answer} | {kind} | {f'`{call}`' if call else ''} | {detail} |")


if __name__ == "__main__":
    main()
