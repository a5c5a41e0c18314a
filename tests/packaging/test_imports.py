"""Imports go down between the packages, form no cycle, and need nothing that is not installed."""

import ast
import re
import sys

import import_graph
from child_processes import ROOT
from import_graph import TREES

CORE = {tree: package for tree, package in TREES.items() if tree != "python"}


def test_imports_go_down_and_form_no_cycle():
    found = import_graph.imports(ROOT, TREES)
    assert len(found) > 500
    assert import_graph.cycles(import_graph.graph(found)) == []
    assert import_graph.upward(found) == []


MANY_FILES = {f"mmssl_fast/{name}" for name in ("distributed", "dropin", "nn", "ops")}
MANY_FILES |= {"python/systems", "python/cli", "python/data"}


def test_folders_are_small_or_say_why_not():
    """The first lines of a folder with many modules say what has a file there."""
    for tree in TREES:
        for folder in {path.parent for path in (ROOT / tree).rglob("*.py")}:
            name = folder.relative_to(ROOT).as_posix()
            if len([path for path in folder.glob("*.py") if path.stem != "__init__"]) > 12:
                assert name in MANY_FILES
                assert re.search(r"\b(file|module)\b", (folder / "__init__.py").read_text()[:400]), name


# Besides the names of the package: what is printed, the names of options, the room for people outside the data, and
# lists in chunks, which need not fit into memory, with the ids in a file.
PUBLIC_ONLY = {
    f"mmssl_trainer.{name}"
    for name in "config.names console data.ids errors exports inference runs.recommend serving threads".split()
}
PROCESSES = {"main", "launch"}  # they start and end the process, so they know training.ranks
DEVELOPERS = {"benchmark"}  # measures a checkout of this repository


def test_commands_use_the_public_functions_alone():
    """A command imports `from mmssl_trainer import …`, besides errors, what is printed, and names of options."""
    package, found = "mmssl_trainer", []
    for edge in import_graph.imports(ROOT, TREES):
        room, _, command = edge.module.rpartition(".")
        inside = edge.target.startswith(package) and not edge.target.startswith(f"{package}.cli")
        if room != f"{package}.cli" or command in PROCESSES | DEVELOPERS or not inside:
            continue
        public = edge.target == package
        if not public and not any(f"{edge.target}.".startswith(f"{name}.") for name in PUBLIC_ONLY):
            found.append(str(edge))
    assert found == []


def test_a_late_import_is_found(tmp_path):
    """A cycle and an upward import, each hidden from Python: one in a function, one under TYPE_CHECKING."""
    sources = {
        "ops/__init__": "",
        "ops/a": "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    from ..nn.d import D",
        "ops/b": "from . import a\nfrom .c import C",
        "ops/c": "def f():\n    import mmssl_fast.ops.b",
        "nn/d": "from ..ops import b, c",
    }
    for name, text in sources.items():
        path = tmp_path / "mmssl_fast" / f"{name}.py"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    found = import_graph.imports(tmp_path, {"mmssl_fast": "mmssl_fast"})
    ops = "mmssl_fast.ops"
    assert import_graph.cycles(import_graph.graph(found)) == [["mmssl_fast.nn.d", f"{ops}.a", f"{ops}.b", f"{ops}.c"]]
    assert [str(edge) for edge in import_graph.upward(found)] == [f"{ops}.a:3 imports mmssl_fast.nn.d"]
    down = [edge for edge in found if edge.target != "mmssl_fast.nn.d"]
    assert import_graph.cycles(import_graph.graph(down)) == [[f"{ops}.b", f"{ops}.c"]]
    assert import_graph.levels(import_graph.graph(down)) == 3


def test_packages_import_only_what_they_require():
    allowed = {"mmssl_fast": {"torch", "numpy", "scipy", "mmssl_fast"}, "mmssl_fast.kernels": {"torch", "triton"}}
    foreign = []
    for module, target, line in import_graph.every_import(ROOT, CORE):
        kernels = module.startswith("mmssl_fast.kernels")
        known = allowed["mmssl_fast.kernels" if kernels else "mmssl_fast"] | sys.stdlib_module_names
        if target.split(".")[0] not in known and not (kernels and target.startswith("mmssl_fast.kernels")):
            foreign.append(f"{module}:{line} imports {target}")
    assert foreign == []


def test_one_extra_holds_all_that_the_trainer_imports():
    """README's installation is ".[train]"; every command works after it but `serve`, and some formats of `export`,
    databases and logs, which name their extra."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]

    def installed(extra):
        return {re.match(r"[\w-]+", each)[0] for each in [*project["dependencies"], *extras["train"], *extras[extra]]}

    ours = {"mmssl_fast", "mmssl_trainer"} | set(sys.stdlib_module_names)
    trained, served = (_imported(folder) - ours for folder in ("", "serving"))
    assert "optuna" in trained and trained <= installed("train")
    assert "uvicorn" in served and served - {"pydantic_core"} <= installed("serve")  # pydantic brings its core
    late = {"faiss": "faiss-cpu", "usearch": "usearch", "hnswlib": "hnswlib"} | {
        name: name for name in ("onnx", "onnxruntime", "onnxscript")
    }
    sources = "".join(path.read_text() for path in (ROOT / "python" / "exports").rglob("*.py"))
    asked = set(re.findall(r'needed\("(\w+)[\w.]*", "export"\)', sources)) | {"onnx", "onnxscript"}
    assert asked == late.keys()
    assert set(late.values()) <= installed("export")
    distributions = {"PIL": "pillow"}
    for name in ("text", "image", "audio"):
        source = "".join((ROOT / "python" / "features" / file).read_text() for file in (f"{name}.py", "programs.py"))
        packages = {package.partition(".")[0] for package in re.findall(r'library\("([\w.]+)", "?\w+"?\)', source)}
        late = {distributions.get(package, package.replace("_", "-")) for package in packages}
        brought = {"transformers"}  # by sentence-transformers
        assert len(late) >= 2 and late - brought <= installed(name) | ({"onnxruntime"} if name == "text" else set())
    for file, extra in (("data/sql.py", "sql"), ("runs/logs.py", "log")):
        source = (ROOT / "python" / file).read_text()
        named = {name.replace("_", "-") for name in re.findall(rf'needed\("(\w+)[\w.]*", "{extra}"\)', source)}
        assert named and {"mlflow-skinny" if name == "mlflow" else name for name in named} <= installed(extra)


def _imported(folder):
    """The top-level packages that the modules of a folder of python/ import; "": those of all other folders."""
    imported = set()
    for path in (ROOT / "python" / folder).rglob("*.py"):
        if not folder and "serving" in path.relative_to(ROOT).parts:
            continue
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    return imported
