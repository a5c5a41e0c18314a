"""The imports of a package as a graph, late and TYPE_CHECKING ones too: modules, levels, edges, upward edges, cycles.

python tests/import_graph_trainer.py [FOLDER PACKAGE] prints them; without arguments, for the trainer in python/.
"""

import ast
import sys
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

# From the top down: a room imports from those after it, and rooms in one set not from each other.
ROOMS = (
    {"__main__"},
    {"cli"},
    {""},  # what a person imports, mmssl_trainer itself
    {"api"},
    {"study"},
    {"runs"},
    {"training"},
    {"systems"},
    {"memory", "ranking"},
    {"data"},
    {"config"},
    {"console", "files"},
    {"errors"},
)


def imports(root: Path, package: str) -> dict[str, set[str]]:
    """{module: modules of the package that it imports}, by their full names."""
    paths = {_name(path, root, package): path for path in sorted(root.rglob("*.py"))}
    graph = {}
    for module, path in paths.items():
        folder = module if path.name == "__init__.py" else module.rpartition(".")[0]
        found = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                found |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom):
                parts = folder.split(".")[: len(folder.split(".")) - node.level + 1] if node.level else []
                base = ".".join([*parts, *([node.module] if node.module else [])])
                found |= {f"{base}.{a.name}" if f"{base}.{a.name}" in paths else base for a in node.names}
        graph[module] = found & set(paths) - {module}
    return graph


def _name(path: Path, root: Path, package: str) -> str:
    parts = path.relative_to(root).with_suffix("").parts
    return ".".join([package, *(part for part in parts if part != "__init__")])


def level_of(module: str) -> int:
    """The place of a module's room in ROOMS, counted from below."""
    return next(len(ROOMS) - at for at, rooms in enumerate(ROOMS) if _room(module) in rooms)


def _room(module: str) -> str:
    return module.partition(".")[2].partition(".")[0]


def upward(graph: dict[str, set[str]]) -> list[str]:
    """Edges to a room above, or to another one beside."""
    edges = ((module, target) for module, targets in graph.items() for target in targets)
    return [
        f"{module} imports {target}"
        for module, target in sorted(edges)
        if level_of(target) >= level_of(module) and _room(module) != _room(target)
    ]


def cycle(graph: dict[str, set[str]]) -> list[str]:
    """The modules of one cycle, none where there is none."""
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return error.args[1]
    return []


def levels(graph: dict[str, set[str]]) -> int:
    """How many modules the longest chain of imports has."""
    depth: dict[str, int] = {}
    for module in TopologicalSorter(graph).static_order():
        depth[module] = 1 + max((depth[target] for target in graph[module]), default=0)
    return max(depth.values())


def main(root: Path, package: str) -> None:
    graph = imports(root, package)
    found = cycle(graph)
    print(f"modules {len(graph)}, edges {sum(map(len, graph.values()))}")
    print("levels", "unknown, there is a cycle" if found else levels(graph))
    print("cycle:", " → ".join(found) or "none")
    edges = upward(graph)
    print("upward:", *edges or ["none"], sep="\n  ")


if __name__ == "__main__":
    place, name = sys.argv[1:] or (Path(__file__).resolve().parents[1] / "python", "mmssl_trainer")
    main(Path(place), name)
