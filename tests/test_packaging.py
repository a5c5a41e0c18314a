"""What is shipped, what it is linked with, what imports what, and what a build says when something is missing."""

import ast
import email
import importlib.util
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import pytest
import torch

import mmssl_fast

ROOT = Path(__file__).resolve().parent.parent
TREES = {"mmssl_fast": "mmssl_fast", "kernels": "mmssl_fast/kernels", "python": "mmssl_trainer"}


def run(*command, check=True, cwd=ROOT, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def python(code, **options):
    """Runs code against the installed package: without PYTHONSAFEPATH the source tree would come first."""
    return run(sys.executable, "-c", code, PYTHONSAFEPATH="1", **options)


def shipped_modules():
    """Path inside the wheel of every module and marker in the three trees."""
    for tree, package in TREES.items():
        for path in (ROOT / tree).rglob("*"):
            if (
                path.suffix == ".py"
                or path.name == "py.typed"
                or path.parent.name in ("presets", "searches", "templates")
            ):
                yield f"{package}/{path.relative_to(ROOT / tree).as_posix()}"


# --- wheel and sdist -------------------------------------------------------------------------------------------------
@pytest.fixture(scope="session")
def wheel(tmp_path_factory):
    """The wheel built from this tree. Objects in build/ that are up to date are not compiled again."""
    folder = tmp_path_factory.mktemp("wheel")
    commands = ["build", "--build-lib", f"{folder}/lib", "bdist_wheel", "--bdist-dir", f"{folder}/bdist"]
    run(sys.executable, "setup.py", "-q", *commands, "--dist-dir", str(folder))
    (path,) = folder.glob("*.whl")
    return zipfile.ZipFile(path)


def test_wheel_holds_every_module_and_the_library(wheel):
    names = {name for name in wheel.namelist() if ".dist-info/" not in name}
    (library,) = (name for name in names if name.endswith((".so", ".pyd")))
    assert re.fullmatch(r"mmssl_fast/_C\..*", library)
    assert names - {library} == set(shipped_modules())


def test_wheel_metadata(wheel):
    (name,) = (name for name in wheel.namelist() if name.endswith(".dist-info/METADATA"))
    metadata = email.message_from_bytes(wheel.read(name))
    assert metadata["Version"] == mmssl_fast.__version__
    needed = [each for each in metadata.get_all("Requires-Dist") if "extra ==" not in each]
    assert sorted(re.match(r"\w+", each)[0] for each in needed) == ["numpy", "scipy", "torch"]
    assert {"train", "test", "bench", "dev"} <= set(metadata.get_all("Provides-Extra"))
    scripts = wheel.read(name.replace("METADATA", "entry_points.txt")).decode()
    assert "mmssl-fast = mmssl_trainer.cli.main:main" in scripts
    assert any(name.endswith("LICENSE") for name in wheel.namelist())


def test_sdist_holds_the_sources(tmp_path):
    run(sys.executable, "setup.py", "-q", "sdist", "--formats=gztar", "--dist-dir", str(tmp_path))
    (path,) = tmp_path.glob("*.tar.gz")
    with tarfile.open(path) as archive:
        names = {name.split("/", 1)[1] for name in archive.getnames() if "/" in name}
    folders = ["_build", "benchmarks", "cmake", "csrc", "kernels", "mmssl_fast", "python", "tests"]
    suffixes = {".py", ".toml", ".j2", ".cpp", ".h", ".cu", ".cuh", ".cmake", ".typed"}
    files = {
        path.relative_to(ROOT).as_posix()
        for folder in folders
        for path in (ROOT / folder).rglob("*")
        if path.suffix in suffixes
    }
    files |= {"setup.py", "pyproject.toml", "CMakeLists.txt", "LICENSE", "README.md", "CHANGELOG.md", "CONTRIBUTING.md"}
    assert files - names == set()
    assert not [name for name in names if name.endswith((".so", ".o", ".pyc"))]


# --- the library -----------------------------------------------------------------------------------------------------
def objects(level):
    """The object files of one instruction set, as the last build in this tree left them."""
    tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}-torch{torch.__version__}"
    found = sorted((ROOT / "build" / f"temp.{tag}" / "isa" / level).glob("*.o"))
    assert len(found) == len(list((ROOT / "csrc/cpu/isa").glob("*.cpp"))), f"objects of {level}: {found}"
    return found


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not here")
@pytest.mark.parametrize("level", mmssl_fast.build_info()["isa_levels"])
def test_kernels_leak_no_weak_symbol(wheel, level):
    """A weak symbol outside mmssl::<level>, compiled for AVX-512, could be the copy the linker keeps for everybody."""
    for path in objects(level):
        symbols = [line.split(maxsplit=2) for line in run("nm", "-C", str(path)).stdout.splitlines()]
        weak = [symbol[2] for symbol in symbols if len(symbol) == 3 and symbol[1] in "WVu"]
        leaked = [name for name in weak if not re.search(rf"\bmmssl::{level}::", name)]
        assert leaked == [], f"{path.name} ({level}) defines weak symbols outside mmssl::{level}"


@pytest.mark.skipif(sys.platform != "linux", reason="at::parallel_for is OpenMP on Linux")
def test_library_runs_on_torchs_own_threads():
    """One libgomp in the process, torch's, and the op's second thread comes from it."""
    code = """
import os, re, numpy, torch
torch.set_num_threads(2)
from mmssl_fast.ops.sampled_dot import sampled_dot
crow, col = (torch.from_numpy(x) for x in (numpy.arange(0, 64001, 64), numpy.zeros(64000, dtype=numpy.int64)))
u, v = torch.empty(1000, 64), torch.empty(1, 64)  # filling them would start the threads
before = len(os.listdir("/proc/self/task"))
sampled_dot(crow, col, u, v)
threads = len(os.listdir("/proc/self/task")) - before
libraries = {line.split()[-1] for line in open("/proc/self/maps") if re.search(r"lib(g|i)?omp", line)}
print(threads, len(libraries))
"""
    assert python(code, OMP_NUM_THREADS="2").stdout.split() == ["1", "1"]


SAMPLED_DOT = """
import os, torch, mmssl_fast
from mmssl_fast.ops.sampled_dot import sampled_dot
random = torch.Generator().manual_seed(0)
crow, col = torch.arange(0, 401, 10), torch.randint(50, (400,), generator=random)
u, v = (torch.randn(n, 67, generator=random, dtype=torch.float64) for n in (40, 50))
results = {"isa": mmssl_fast.build_info()["isa"]}
for dtype in (torch.float32, torch.float64, torch.bfloat16):
    leaves = [x.to(dtype).requires_grad_() for x in (u, v)]
    s = sampled_dot(crow, col, *leaves)
    results[str(dtype)] = [s.detach(), *torch.autograd.grad(s.sum(), leaves)]
torch.save(results, os.environ["RESULTS"])
"""


def test_every_instruction_set_gives_the_same_results(tmp_path):
    info = mmssl_fast.build_info()
    levels = info["isa_levels"][: info["isa_levels"].index(info["isa"]) + 1]
    results = []
    for level in levels:
        python(SAMPLED_DOT, RESULTS=str(tmp_path / level), MMSSL_FAST_ISA=level)
        results.append(torch.load(tmp_path / level))
        assert results[-1].pop("isa") == level
    for other in results[1:]:
        torch.testing.assert_close(other, results[0])


def test_unknown_instruction_set_is_refused():
    error = python("import mmssl_fast", check=False, MMSSL_FAST_ISA="sse9").stderr
    assert "MMSSL_FAST_ISA=sse9: must be one of baseline" in error.splitlines()[-1]


def test_library_of_another_torch_is_refused():
    error = python("import torch; torch.__version__ = '2.99.0'; import mmssl_fast", check=False).stderr
    assert re.search(r"built against torch 2\.\d+\.\S+, but torch 2\.99\.0 is installed; reinstall", error)


def test_missing_library_is_one_sentence(tmp_path):
    shutil.copytree(ROOT / "mmssl_fast", tmp_path / "mmssl_fast", ignore=shutil.ignore_patterns("*.so"))
    # An editable install's finder would look for _C in the source tree.
    no_finder = "import sys; sys.meta_path = [f for f in sys.meta_path if 'editable' not in repr(f)]; "
    error = python(no_finder + "import mmssl_fast", check=False, PYTHONPATH=str(tmp_path)).stderr
    assert error.splitlines()[-1].startswith("ImportError: mmssl_fast: the C++ library is not built; reinstall")


# --- imports go down -------------------------------------------------------------------------------------------------
RANKS = {"mmssl_trainer": 6, "mmssl_fast.nn": 5, "mmssl_fast.dropin": 5, "mmssl_fast.relation": 4}
RANKS |= {"mmssl_fast.ops": 3, "mmssl_fast.kernels": 1, "mmssl_fast.library": 1, "mmssl_fast._C": 0}
UNRANKED = 3  # graph.py, reference.py and whatever else lies beside the ops


def rank(module):
    parts = module.split(".")
    return next((RANKS[key] for n in range(len(parts), 0, -1) if (key := ".".join(parts[:n])) in RANKS), UNRANKED)


def imports():
    """(importing module, imported module, line) for every import in the three trees."""
    for tree, package in TREES.items():
        for path in sorted((ROOT / tree).rglob("*.py")):
            parts = [*package.split("/"), *path.relative_to(ROOT / tree).with_suffix("").parts]
            inside = parts[:-1]
            module = ".".join(inside if parts[-1] == "__init__" else parts)
            for node in ast.walk(ast.parse(path.read_text(), str(path))):
                if isinstance(node, ast.Import):
                    yield from ((module, alias.name, node.lineno) for alias in node.names)
                elif isinstance(node, ast.ImportFrom):
                    base = ".".join(inside[: len(inside) - node.level + 1]) if node.level else ""
                    target = ".".join(filter(None, [base, node.module]))
                    ours = target.split(".")[0] in ("mmssl_fast", "mmssl_trainer")
                    for alias in node.names:
                        yield module, f"{target}.{alias.name}" if ours else target, node.lineno


def test_imports_go_down():
    everything = list(imports())
    assert len(everything) > 10
    upward = [
        f"{module}:{line} imports {target}"
        for module, target, line in everything
        if module != "mmssl_fast" and target.split(".")[0] in ("mmssl_fast", "mmssl_trainer")
        if target != "mmssl_fast.__version__" and rank(target) > rank(module)
    ]
    assert upward == []
    assert not [module for module, target, _ in everything if module == "mmssl_fast" and "mmssl_trainer" in target]


def test_packages_import_only_what_they_require():
    allowed = {"mmssl_fast": {"torch", "numpy", "scipy", "mmssl_fast"}, "mmssl_fast.kernels": {"torch", "triton"}}
    foreign = []
    for module, target, line in imports():
        if module.startswith("mmssl_trainer"):
            continue
        kernels = module.startswith("mmssl_fast.kernels")
        known = allowed["mmssl_fast.kernels" if kernels else "mmssl_fast"] | sys.stdlib_module_names
        if target.split(".")[0] not in known and not (kernels and target.startswith("mmssl_fast.kernels")):
            foreign.append(f"{module}:{line} imports {target}")
    assert foreign == []


# --- what a build says -----------------------------------------------------------------------------------------------
@pytest.fixture
def backend(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT / "_build"))
    spec = importlib.util.spec_from_file_location("backend", ROOT / "_build" / "backend.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize("version, needed", [("2.13.0+cpu", []), ("2.10.1", ["torch>=2.11", "numpy"]), (None, None)])
def test_backend_builds_against_the_installed_torch(backend, monkeypatch, tmp_path, version, needed):
    if version is not None:
        (tmp_path / f"torch-{version}.dist-info").mkdir()
        metadata = f"Metadata-Version: 2.1\nName: torch\nVersion: {version}\n"
        (tmp_path / f"torch-{version}.dist-info" / "METADATA").write_text(metadata)
    path = [str(tmp_path / "isolated")]
    monkeypatch.setattr(sys, "path", path)
    monkeypatch.setattr(sysconfig, "get_paths", lambda: {"platlib": str(tmp_path)})
    requirements = backend.get_requires_for_build_wheel()
    assert requirements == backend.get_requires_for_build_editable()
    if needed == []:
        assert requirements == [] and path == [str(tmp_path / "isolated"), str(tmp_path)]
    else:
        assert requirements == ["torch>=2.11", "numpy"] and len(path) == 1


@pytest.mark.parametrize("environment", [{"CXX": "/nonexistent/g++"}, {"CXX": "", "PATH": ""}])
def test_build_without_compiler_is_one_sentence(environment):
    code = "import sys; sys.path.insert(0, '_build'); import backend; backend.get_requires_for_build_wheel()"
    result = python(code, check=False, **environment)
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert re.match(r"mmssl_fast: there is no C\+\+ compiler: `\S+` was not found; install g\+\+", line)
    build = run(sys.executable, "setup.py", "-q", "build_ext", check=False, **environment)
    assert build.returncode == 1 and build.stderr.splitlines()[-1] == line


@pytest.mark.parametrize("value, sentence", [("2", "must be 0"), ("1", "but CUDA cannot be built: ")])
def test_cuda_that_cannot_be_built_is_one_sentence(value, sentence):
    if value == "1" and torch.version.cuda is not None:
        pytest.skip("this torch has CUDA")
    result = run(sys.executable, "setup.py", "-q", "build_ext", check=False, MMSSL_FAST_CUDA=value)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"mmssl_fast: MMSSL_FAST_CUDA={value}")
    assert sentence in result.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "release, choice, expected",
    [
        ("13.0", "", "True 8.0;9.0;10.0 built with nvcc"),
        ("13.2", "1", "True 8.0;9.0;10.0 built with nvcc"),
        ("13.0", "0", "False built with MMSSL_FAST_CUDA=0"),
        ("12.8", "", "False nvcc is of CUDA 12.8, torch 2.99.0 of CUDA 13.0"),
        (None, "", "False nvcc was not found on PATH or under CUDA_HOME"),
        (
            None,
            "1",
            "mmssl_fast: MMSSL_FAST_CUDA=1, but CUDA cannot be built: nvcc was not found on PATH or under CUDA_HOME",
        ),
    ],
)
def test_cuda_is_built_where_nvcc_and_torch_agree(tmp_path, release, choice, expected):
    shutil.copytree(ROOT / "_build", tmp_path / "_build")
    (tmp_path / "csrc/cuda").mkdir(parents=True)
    (tmp_path / "csrc/cuda/op.cu").touch()
    (tmp_path / "csrc/cuda/bindings.cpp").touch()
    (tmp_path / "bin").mkdir()
    if release:
        (tmp_path / "bin/nvcc").write_text(
            f"#!/bin/sh\necho 'Cuda compilation tools, release {release}, V{release}.1'\n"
        )
        (tmp_path / "bin/nvcc").chmod(0o755)
    code = """
import os, sys, torch, torch.utils.cpp_extension
torch.version.cuda, torch.__version__, torch.cuda.device_count = "13.0", "2.99.0", lambda: 0
torch.utils.cpp_extension.CUDA_HOME = os.environ["CUDA_HOME"]  # a CPU torch does not look for it
sys.path.insert(0, "_build")
import extension
made = extension.core_extension()
macros = {name: value.strip('"') for name, value in made.define_macros}
print("csrc/cuda/op.cu" in made.sources and "csrc/cuda/bindings.cpp" in made.sources, *sorted(macros.values()))
"""
    environment = {"CUDA_HOME": str(tmp_path), "MMSSL_FAST_CUDA": choice, "TORCH_CUDA_ARCH_LIST": ""}
    result = python(code, check=False, cwd=tmp_path, **environment)
    assert (result.stdout or result.stderr).strip().splitlines()[-1] == expected


# --- what to install -------------------------------------------------------------------------------------------------
def test_one_extra_holds_all_that_the_trainer_imports():
    """README's installation is ".[train]"; every command works after it."""
    import tomllib

    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    named = [*project["dependencies"], *project["optional-dependencies"]["train"]]
    installed = {re.match(r"[\w-]+", each)[0] for each in named}
    imported = set()
    for path in (ROOT / "python").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                imported |= {name.name.partition(".")[0] for name in node.names}
            elif isinstance(node, ast.ImportFrom) and not node.level:
                imported.add(node.module.partition(".")[0])
    ours = {"mmssl_fast", "mmssl_trainer"}
    assert "optuna" in imported and imported - set(sys.stdlib_module_names) - ours <= installed


@pytest.mark.parametrize(
    "url, said",
    [
        (None, 'in the folder of the mmssl_fast checkout: pip install ".[train]"'),
        ("file://{}/check%20out", 'pip install "{}/check out[train]"'),
        ("file://{}/gone", 'in the folder of the mmssl_fast checkout: pip install ".[train]"'),
        ("https://example.org/mmssl_fast.whl", 'in the folder of the mmssl_fast checkout: pip install ".[train]"'),
    ],
)
def test_advice_never_names_the_project_on_an_index(tmp_path, monkeypatch, url, said):
    """No project of that name is on the index; whoever registers it would be installed."""
    import json
    from importlib import metadata

    from mmssl_trainer.errors import install_command

    class Found:
        def read_text(self, name):
            assert name == "direct_url.json"
            return url and json.dumps({"url": url.format(tmp_path)})

    (tmp_path / "check out").mkdir()
    monkeypatch.setattr(metadata, "distribution", lambda name: Found())
    assert install_command("train") == said.format(tmp_path)


def test_no_message_or_page_says_to_install_the_bare_name():
    paths = [*(ROOT / "python").rglob("*.py"), *(ROOT / "mmssl_fast").rglob("*.py"), *ROOT.glob("*.md")]
    paths += [*(ROOT / "docs").glob("*.md"), *(ROOT / "kernels").glob("*.py")]
    for path in paths:
        assert not re.search(r"pip install\s+[\"']?mmssl", path.read_text(encoding="utf-8")), path
