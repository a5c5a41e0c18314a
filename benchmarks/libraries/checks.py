"""What a library can do, run or searched: the rows of docs/comparison.md. Each `can_<library>.py` prints its column.

    PYTHON benchmarks/libraries/can_implicit.py DATA

A row is "yes" if the calls ran and the assertions in them held, "partly" if they did and something is missing, "no" if
the words below occur nowhere in the source of the installed package. A failed call is printed as such.
"""

from __future__ import annotations

import importlib.util
import re
import traceback
from collections.abc import Callable
from pathlib import Path

ROWS = (
    "features from raw texts",
    "features from raw pictures",
    "split by time",
    "minimum rating",
    "k-core",
    "own column names",
    "Parquet or SQL",
    "features of items in training",
    "items without features",
    "new items by features, ranked beside the others",
    "new users by history, without training",
    "similar items",
    "exclude what was bought since",
    "candidates or filters",
    "diversity",
    "warm start on new data",
    "export of embeddings",
    "approximate index",
    "ONNX or torch.export",
    "HTTP service",
    "metrics beyond accuracy",
    "confidence intervals",
    "paired tests",
    "multi-modal systems",
    "sequence models",
    "rating prediction",
    "hyper-parameter search",
    "training on a GPU",
)

OTHERS = re.compile(r"(^|/)(datasets?|tests?)(/|$)|test_")  # readers of public data sets, and tests


class Checks:
    """Prints one line a row: row | answer | call | detail."""

    def __init__(self, package: str, version: str) -> None:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{package}: is not installed")
        self.root, self.done = Path(next(iter(spec.submodule_search_locations))), set()
        print(f"# {package} {version}")

    def say(self, row: str, answer: str, call: str, detail: str = "") -> None:
        if row not in ROWS or row in self.done:
            raise SystemExit(f"{row}: no such row, or twice")
        self.done.add(row)
        print(" | ".join([row, answer, call, detail.replace("\n", " ")[:200]]), flush=True)

    def can(self, row: str, call: str, missing: str = "") -> Callable[[Callable[[], object]], None]:
        """Decorator: run the function now. missing: what the library lacks all the same."""

        def run(function: Callable[[], object]) -> None:
            try:
                found = function()
            except Exception as error:
                place = traceback.extract_tb(error.__traceback__)[-1]
                self.say(
                    row, "failed", call, f"{type(error).__name__}: {str(error)[:120]} ({place.name}:{place.lineno})"
                )
            else:
                self.say(row, "partly" if missing else "yes", call, missing or str(found or ""))

        return run

    def searched(self, row: str, pattern: str, detail: str = "") -> None:
        """A row whose answer is "no": the pattern occurs nowhere in the Python files of the package, tests apart."""
        found = self.hits(pattern)
        names = ", ".join(sorted({str(path.relative_to(self.root)) for path in found})[:4])
        self.say(row, "hits, look" if found else "no", f"grep -ri '{pattern}'", names or detail)

    def none(self, row: str, how: str) -> None:
        """A row whose answer is "no", found in another way."""
        self.say(row, "no", how)

    def hits(self, pattern: str) -> list[Path]:
        wanted = re.compile(pattern, re.IGNORECASE)
        files = [path for path in self.root.rglob("*.py") if not OTHERS.search(path.relative_to(self.root).as_posix())]
        return [path for path in files if wanted.search(path.read_text(encoding="utf-8", errors="replace"))]

    def end(self) -> None:
        for row in ROWS:
            if row not in self.done:
                print(f"{row} | MISSING |  | ")
