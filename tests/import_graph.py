"""Which module imports which: levels, imports that go up, and cycles, in the parsed sources.

`python tests/import_graph.py` prints a summary of the tree it lies in, `python tests/import_graph.py FOLDER` that of
another checkout, so that two states can be compared. Late imports and those under TYPE_CHECKING count like any other: a
cycle is no better for being hidden in a function. `from package import name` counts as an import of the submodule
`name` where there is one, else of the package's __init__. That Python runs the __init__ of every package above a module
does not count.
"""

from __future__ import annotations

import argparse
import ast
from collections import defaultdict
from graphlib import TopologicalSorter
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
TREES = {"mmssl_fast": "mmssl_fast", "kernels": "mmssl_fast.kernels", "python": "mmssl_trainer"}

# Groups from the bottom up. A module may import from its own line and from those before it. The longest matching name
# decides; what is not named here lies at UNRANKED, beside the ops.
LAYERS = (
    ("mmssl_fast._C", "mmssl_fast._version"),
    ("mmssl_fast.kernels", "mmssl_fast.library"),
    (
        "mmssl_fast.modes",
        "mmssl_fast.precision",
        "mmssl_fast.python_op",
        "mmssl_fast.static_shapes",
        "mmssl_fast.tiles",
    ),
    ("mmssl_fast.ops",),
    ("mmssl_fast.relation.algebra",),
    ("mmssl_fast.relation",),
    ("mmssl_fast.distributed",),
    ("mmssl_fast.nn", "mmssl_fast.dropin"),
    ("mmssl_fast.__init__",),
    ("mmssl_trainer.errors", "mmssl_trainer.threads"),
    ("mmssl_trainer.console", "mmssl_trainer.files"),
    ("mmssl_trainer.config",),
    ("mmssl_trainer.data",),
    ("mmssl_trainer.embeddings", "mmssl_trainer.optimisers"),
    ("mmssl_trainer.memory", "mmssl_trainer.ranking"),
    ("mmssl_trainer.systems",),
    ("mmssl_trainer.training",),
    ("mmssl_trainer.runs",),
    ("mmssl_trainer.inference",),
    ("mmssl_trainer.exports", "mmssl_trainer.features", "mmssl_trainer.serving", "mmssl_trainer.study"),
    ("mmssl_trainer",),
    ("mmssl_trainer.cli",),
    ("mmssl_trainer.__main__",),
)
UNRANKED = 3
RANKS = {name: rank for rank, layer in enumerate(LAYERS) for name in layer}


class Import(NamedTuple):
    module: str
    target: str
    line: int

    def __str__(self) -> str:
        return f"{self.module}:{self.line} imports {self.target}"


def modules(root: Path = ROOT, trees: dict[str, str] = TREES) -> dict[str, Path]:
    """Dotted name → file of every module; a package goes by its own name."""
    found = {}
    for tree, package in trees.items():
        for path in sorted((root / tree).rglob("*.py")):
            parts = path.relative_to(root / tree).with_suffix("").parts
            found[".".join([package, *(parts[:-1] if parts[-1] == "__init__" else parts)])] = path
    return found


def every_import(root: Path = ROOT, trees: dict[str, str] = TREES) -> list[Import]:
    """Every import in the trees, of other packages too, targets as written: package.module or package.module.name."""
    found = []
    for module, path in modules(root, trees).items():
        package = module if path.name == "__init__.py" else module.rpartition(".")[0]
        targets = _targets(ast.parse(path.read_text(encoding="utf-8"), str(path)), package)
        found += [Import(module, target, line) for target, line in targets]
    return found


def imports(root: Path = ROOT, trees: dict[str, str] = TREES) -> list[Import]:
    """Every import of one of our modules by another."""
    ours = modules(root, trees)
    resolved = [edge._replace(target=_module_of(edge.target, ours)) for edge in every_import(root, trees)]
    return [edge for edge in resolved if edge.target not in (None, edge.module)]


def _targets(tree: ast.AST, package: str):
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            above = package.split(".")[: len(package.split(".")) - node.level + 1] if node.level else []
            base = ".".join([*above, *([node.module] if node.module else [])])
            yield from ((f"{base}.{alias.name}", node.lineno) for alias in node.names)


def _module_of(target: str, ours: dict[str, Path]) -> str | None:
    """The module that a dotted name means: itself, or the one that defines its last part."""
    above = target.rpartition(".")[0]
    return target if target in ours else above if above in ours else None


def graph(found: list[Import]) -> dict[str, set[str]]:
    edges = defaultdict(set)
    for edge in found:
        edges[edge.module].add(edge.target)
    return edges


def cycles(edges: dict[str, set[str]]) -> list[list[str]]:
    """The groups of modules that reach each other, sorted (Tarjan's strongly connected components)."""
    index, low, stack, groups = {}, {}, [], []

    def visit(module: str) -> None:
        index[module] = low[module] = len(index)
        stack.append(module)
        for target in sorted(edges.get(module, ())):
            if target not in index:
                visit(target)
                low[module] = min(low[module], low[target])
            elif target in stack:
                low[module] = min(low[module], index[target])
        if low[module] == index[module]:
            group = stack[stack.index(module) :]
            del stack[stack.index(module) :]
            if len(group) > 1:
                groups.append(sorted(group))

    for module in sorted(edges):
        if module not in index:
            visit(module)
    return sorted(groups)


def levels(edges: dict[str, set[str]]) -> int:
    """Modules on the longest chain of imports; every cycle counts as one."""
    representative = {module: group[0] for group in cycles(edges) for module in group}
    merged = defaultdict(set)
    for module, targets in edges.items():
        source = representative.get(module, module)
        merged[source] |= {representative.get(target, target) for target in targets} - {source}
    depth: dict[str, int] = {}
    for module in TopologicalSorter(merged).static_order():
        depth[module] = 1 + max((depth[target] for target in merged.get(module, ())), default=0)
    return max(depth.values(), default=0)


def rank(module: str) -> int:
    if module == "mmssl_fast":  # its __init__ stands above all, but does not stand for what lies in the package
        return RANKS["mmssl_fast.__init__"]
    parts = module.split(".")
    return next((RANKS[key] for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in RANKS), UNRANKED)


def upward(found: list[Import]) -> list[Import]:
    return [edge for edge in found if rank(edge.target) > rank(edge.module)]


def summary(root: Path, trees: dict[str, str]) -> str:
    found = imports(root, trees)
    edges = graph(found)
    rings, rising = cycles(edges), upward(found)
    lines = [
        f"{len(modules(root, trees))} modules, {levels(edges)} levels, {sum(map(len, edges.values()))} edges, "
        f"{len(rising)} upward, {len(rings)} cycles",
        *(f"  upward: {edge}" for edge in rising),
        *(f"  cycle: {', '.join(ring)}" for ring in rings),
    ]
    return "\n".join(lines)


def main() -> None:
    parser = argparse.ArgumentParser(description="Modules, levels, edges, upward imports and import cycles.")
    parser.add_argument("root", nargs="?", type=Path, default=ROOT, help="a checkout; by default this one")
    root = parser.parse_args().root
    core = {tree: package for tree, package in TREES.items() if tree != "python"}
    for name, trees in (("mmssl_fast and kernels", core), ("python", {"python": TREES["python"]}), ("all", TREES)):
        print(f"{name}: {summary(root, trees)}")


if __name__ == "__main__":
    main()
