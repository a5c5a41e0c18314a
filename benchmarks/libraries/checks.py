"""What a library can do, run or searched: the rows of docs/comparison.md. Each `can_<library>.py` prints its column.

    PYTHON benchmarks/libraries/can_implicit.py DATA

One line a row, with tabs between: row, answer, kind of evidence (KINDS), call or search, detail. The answer is "yes",
"partly" (yes, and something is missing) or "no". A failed call is printed as "failed".
"""

from __future__ import annotations

import dis
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

KINDS = {
    "run": "the call ran, and the assertions in the program held",
    "import": "the name is in the installed package; nothing was called",
    "read": "signatures, documentation and sources were read",
    "search": "the pattern was looked for in the Python files of the package, tests apart",
    "test": "a test of this repository runs it",
}

# What is looked for in the sources of a library that seems to lack the row, unless its program says something else.
PATTERNS = {
    "features from raw texts": r"sentence.transformers|tokeni[sz]er|TfidfVectorizer",
    "features from raw pictures": r"\bPIL\b|torchvision|timm",
    "Parquet or SQL": r"parquet|sqlite|duckdb|read_sql",
    "diversity": r"\bmmr\b|maximal.marginal",
    "approximate index": r"\bfaiss|hnswlib|annoy|nmslib",
    "ONNX or torch.export": r"onnx|torch\.export",
    "HTTP service": r"fastapi|flask|starlette|http\.server",
    "confidence intervals": r"confidence_interval|bootstrap|stderr",
    "paired tests": r"paired|wilcoxon|ttest_rel|significance_test",
    "multi-modal systems": r"multi.?modal|visual feature|vbpr",
}

OTHERS = re.compile(r"(^|/)(datasets?|tests?)(/|$)|test_")  # readers of public data sets, and tests


class Checks:
    """Prints one line a row. `package` is the folder that is searched."""

    def __init__(self, package: str, version: str) -> None:
        spec = importlib.util.find_spec(package)
        if spec is None or not spec.submodule_search_locations:
            raise SystemExit(f"{package}: is not installed")
        self.root, self.done = Path(next(iter(spec.submodule_search_locations))), set()
        print(f"# {package} {version}")

    def say(self, row: str, answer: str, kind: str, call: str, detail: str = "") -> None:
        if row not in ROWS or row in self.done:
            raise SystemExit(f"{row}: no such row, or twice")
        self.done.add(row)
        print("\t".join([row, answer, kind, call, " ".join(detail.split())[:200]]), flush=True)

    def can(self, row: str, call: str, missing: str = "") -> Callable[[Callable[[], object]], None]:
        """Decorator: run the function now. missing: what the library lacks all the same. Raises SystemExit if the
        function calls nothing, which belongs to `exists`."""

        def run(function: Callable[[], object]) -> None:
            if not any(step.opname.startswith("CALL") for step in dis.get_instructions(function)):
                raise SystemExit(f"{row}: calls nothing; use exists")
            self._answer(row, "run", call, missing, function)

        return run

    def cannot(self, row: str, call: str) -> Callable[[Callable[[], object]], None]:
        """Decorator: run the function now. It makes the nearest call and asserts what is missing. What it returns is
        the detail, and the answer is "no"."""
        return lambda function: self._answer(row, "run", call, "", function, "no")

    def exists(self, row: str, call: str, missing: str = "") -> Callable[[Callable[[], object]], None]:
        """Decorator like `can` of a function that only imports or looks up names."""
        return lambda function: self._answer(row, "import", call, missing, function)

    def _answer(
        self, row: str, kind: str, call: str, missing: str, function: Callable[[], object], answer: str = ""
    ) -> None:
        try:
            found = function()
        except Exception as error:
            place = traceback.extract_tb(error.__traceback__)[-1]
            reason = f"{type(error).__name__}: {str(error)[:120]} ({place.name}:{place.lineno})"
            self.say(row, "failed", kind, call, reason)
        else:
            answer = answer or ("partly" if missing else "yes")
            self.say(row, answer, kind, call, missing or str(found or ""))

    def searched(self, row: str, pattern: str | None = None, detail: str = "") -> None:
        """A row whose answer is "no": the pattern (default: that of PATTERNS) occurs nowhere in the Python files of the
        package, tests apart."""
        pattern = pattern or PATTERNS[row]
        found = self.hits(pattern)
        names = ", ".join(sorted({str(path.relative_to(self.root)) for path in found})[:4])
        self.say(row, "hits, look" if found else "no", "search", f"grep -ri '{pattern}'", names or detail)

    def found(self, row: str, pattern: str, call: str, missing: str) -> None:
        """A row whose answer is "partly": the pattern occurs."""
        self.say(row, "partly" if self.hits(pattern) else "failed", "search", call, missing)

    def none(self, row: str, how: str) -> None:
        """A row whose answer is "no", read in the sources."""
        self.say(row, "no", "read", how)

    def tested(self, row: str, call: str, test: str) -> None:
        """A row whose answer is "yes", which a test of this repository runs. test: its file or folder."""
        there = (Path(__file__).resolve().parents[2] / test).exists()
        self.say(row, "yes" if there else "failed", "test", call, test)

    def hits(self, pattern: str) -> list[Path]:
        wanted = re.compile(pattern, re.IGNORECASE)
        files = [path for path in self.root.rglob("*.py") if not OTHERS.search(path.relative_to(self.root).as_posix())]
        return [path for path in files if wanted.search(path.read_text(encoding="utf-8", errors="replace"))]

    def end(self) -> None:
        for row in ROWS:
            if row not in self.done:
                print(f"{row}\tMISSING\t\t\t")
