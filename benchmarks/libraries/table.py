"""The output of the programs can_<library>.py as Markdown: a table of answers, and the calls behind them.

    python benchmarks/libraries/table.py can_mmssl_fast.txt can_implicit.txt …

The columns are in the order of the files. "failed" and "hits, look" are no answers: look at them and mend the check.
"""

import sys
from pathlib import Path

from checks import ROWS

ANSWERS = {"yes": "yes", "partly": "partly", "no": "–"}


def read(path: Path) -> tuple[str, dict[str, list[str]]]:
    """(package and version, {row: [answer, call, detail]})."""
    lines = [line for line in path.read_text(encoding="utf-8").splitlines() if line.startswith("# ") or " | " in line]
    rows = [line.split(" | ") for line in lines if not line.startswith("# ")]
    title = next(line for line in lines if line.startswith("# ")).removeprefix("# ")
    return title, {row[0]: [*row[1:], "", ""][:3] for row in rows if row[0] in ROWS}


def main() -> None:
    columns = [read(Path(name)) for name in sys.argv[1:]]
    print("| | " + " | ".join(title.split()[0] for title, _ in columns) + " |")
    print("|---" * (len(columns) + 1) + "|")
    for row in ROWS:
        answers = [found.get(row, ["MISSING"])[0] for _, found in columns]
        print(f"| {row} | " + " | ".join(ANSWERS.get(answer, answer) for answer in answers) + " |")
    for title, found in columns:
        print(f"\n### {title}\n\n| | answer | call or search | |\n|---|---|---|---|")
        for row in ROWS:
            answer, call, detail = (cell.replace("|", "\\|") for cell in found.get(row, ["MISSING", "", ""]))
            print(f"| {row} | {answer} | {f'`{call}`' if call else ''} | {detail} |")


if __name__ == "__main__":
    main()
