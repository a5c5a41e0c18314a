"""What is shipped, what it is linked with, what imports what, and what a build says when something is missing."""

import ast
import email
import importlib
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import tarfile
import zipfile
from pathlib import Path

import import_graph
import pytest
import torch
import torch.utils.cpp_extension
from import_graph import TREES

import mmssl_fast

ROOT = Path(__file__).resolve().parent.parent


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
                yield f"{package.replace('.', '/')}/{path.relative_to(ROOT / tree).as_posix()}"


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
CORE = {tree: package for tree, package in TREES.items() if tree != "python"}


def test_imports_go_down_and_form_no_cycle():
    found = import_graph.imports(ROOT, TREES)
    assert len(found) > 500
    assert import_graph.cycles(import_graph.graph(found)) == []
    assert import_graph.upward(found) == []


MANY_FILES = {
    "mmssl_fast/ops": "one module each",
    "python/systems": "one per file",
    "python/cli": "one file for each command",
    "python/data": "one file for each step",
}


def test_folders_are_small_or_say_why_not():
    for tree in TREES:
        for folder in {path.parent for path in (ROOT / tree).rglob("*.py")}:
            name = folder.relative_to(ROOT).as_posix()
            if len([path for path in folder.glob("*.py") if path.stem != "__init__"]) > 12:
                assert MANY_FILES[name] in " ".join((folder / "__init__.py").read_text()[:400].split()), name


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


# --- what a build says -----------------------------------------------------------------------------------------------
@pytest.fixture
def backend(monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    monkeypatch.delenv("MMSSL_FAST_CUDA", raising=False)
    return importlib.import_module("_build.backend")


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
    code = "import sys; sys.path.insert(0, '.'); import _build.backend as b; b.get_requires_for_build_wheel()"
    result = python(code, check=False, **environment)
    assert result.returncode == 1 and result.stdout == ""
    (line,) = result.stderr.splitlines()
    assert re.match(r"mmssl_fast: there is no C\+\+ compiler: `\S+` was not found; install g\+\+", line)
    build = run(sys.executable, "setup.py", "-q", "build_ext", check=False, **environment)
    assert build.returncode == 1 and build.stderr.splitlines()[-1] == line


def test_failed_compiler_is_one_sentence(tmp_path):
    """Not a traceback of setuptools or torch, whose ninja runs this compiler."""
    for name in ("_build", "csrc", "mmssl_fast"):
        shutil.copytree(ROOT / name, tmp_path / name, ignore=shutil.ignore_patterns("*.so", "kernels", "__pycache__"))
    for name in ("setup.py", "pyproject.toml", "README.md"):
        shutil.copy(ROOT / name, tmp_path / name)
    script(
        tmp_path / "c++",
        'for flag; do case $flag in */library.cpp) echo "library.cpp:1:1: error: no" >&2; exit 1;; esac; done',
        'for flag; do [ "$last" = -o ] && : > "$flag"; last=$flag; done',
    )
    command = [sys.executable, "setup.py", "-q", "build_ext"]
    build = run(*command, check=False, cwd=tmp_path, CXX=str(tmp_path / "c++"), MMSSL_FAST_CUDA="0")
    assert build.returncode == 1 and "Traceback" not in build.stderr
    assert "library.cpp:1:1: error: no" in build.stdout + build.stderr
    assert build.stderr.splitlines()[-1].startswith("mmssl_fast: the C++ library was not built (")


@pytest.mark.parametrize("value, sentence", [("2", "must be 0"), ("1", "but CUDA cannot be built: ")])
def test_cuda_that_cannot_be_built_is_one_sentence(value, sentence):
    environment = {"MMSSL_FAST_CUDA": value, "TORCH_CUDA_ARCH_LIST": "0.1"}  # with a torch for CUDA: no such GPU
    result = run(sys.executable, "setup.py", "-q", "build_ext", check=False, **environment)
    assert result.returncode == 1
    assert result.stderr.splitlines()[-1].startswith(f"mmssl_fast: MMSSL_FAST_CUDA={value}")
    assert sentence in result.stderr.splitlines()[-1]


def test_build_modules_cannot_be_hidden():
    """torch's CUDA wheels bring a namespace package `cuda`, which `import torch` loads: the build has no such names."""
    names = [path.stem for path in (ROOT / "_build").glob("*.py") if path.stem != "__init__"]
    code = f"""
import sys, types
sys.modules |= {{name: types.ModuleType(name) for name in {[*names, "cuda"]}}}
sys.path.insert(0, "")
import torch, _build.backend, _build.extension
print(_build.extension.toolkit.__file__)
"""
    assert Path(python(code).stdout.strip()) == ROOT / "_build" / "toolkit.py"


# --- which CUDA toolkit ----------------------------------------------------------------------------------------------
# Shell scripts stand in for nvcc and the C++ compiler: they look only whether the headers and libraries that they would
# need lie in the folders that they are given.
HAS_HEADER = [
    'for flag; do case $flag in -I*) [ -e "${flag#-I}/cuda_runtime.h" ] && found=1;; esac; done',
    '[ "$found" ] || { echo "launch.h:21:10: fatal error: cuda_runtime.h: No such file or directory" >&2; exit 1; }',
]
NVCC = """
case $1 in
--version) echo "Cuda compilation tools, release {release}, V{release}.1"; exit;;
--list-gpu-code) echo sm_80; echo sm_90; exit;;
--dryrun) {{ echo '#$ TOP={root}/bin/..'; echo '#$ LIBRARIES=  "-L{root}/lib64"'; }} >&2; exit;;
esac
"""
CXX = """
for flag; do case $flag in
-shared) link=1;;
-l*cudart*) cudart=${flag#-l}; [ "$cudart" = cudart ] && cudart=:libcudart.so;;
esac; done
[ "$link" ] && {
  for flag; do case $flag in -L*) [ -e "${flag#-L}/${cudart#:}" ] && exit 0;; esac; done
  echo "/usr/bin/ld: cannot find -lcudart" >&2; exit 1
}
"""


def script(path, *lines):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)


class Machine:
    """A folder with a CUDA toolkit and a compiler of shell scripts, and the environment that leads there."""

    def __init__(self, folder, monkeypatch):
        self.folder, self.set, self.root = folder, monkeypatch.setenv, folder / "cuda-13.0"
        script(folder / "c++", CXX, *HAS_HEADER)
        for name in ("CUDA_PATH", "CUDA_HOME", "CONDA_PREFIX", "PYTORCH_NVCC", "TORCH_CUDA_ARCH_LIST", "CC"):
            # Set first, so that what toolkit.use() leaves there is undone.
            monkeypatch.setenv(name, "")
        monkeypatch.setenv("MMSSL_FAST_CUDA", "")
        monkeypatch.setenv("CXX", str(folder / "c++"))
        monkeypatch.setenv("PATH", str(folder / "path"))

    def toolkit(self, release="13.0", headers=True, libraries=True):
        script(self.root / "bin/nvcc", NVCC.format(release=release, root=self.root), *HAS_HEADER)
        for name in ["include/cuda_runtime.h"] * headers + ["lib64/libcudart.so"] * libraries:
            (self.root / name).parent.mkdir()
            (self.root / name).touch()

    def wheels(self):
        for name in ("include/cuda_runtime.h", "lib/libcudart.so.13"):
            path = self.folder / "site/nvidia/cu13" / name
            path.parent.mkdir(parents=True)
            path.touch()

    def wrapper(self):
        script(self.folder / "path/nvcc", f'exec {self.root}/bin/nvcc "$@"')


@pytest.fixture
def machine(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(ROOT))
    extension = importlib.import_module("_build.extension")
    toolkit = extension.toolkit
    monkeypatch.setattr(torch.version, "cuda", "13.0")
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 0)
    monkeypatch.setattr(torch.utils.cpp_extension, "CUDA_HOME", None)
    monkeypatch.setattr(toolkit, "DEFAULT_ROOT", str(tmp_path / "nothing"))
    monkeypatch.setattr(toolkit, "SITE", [str(tmp_path / "site")])
    toolkit.choose.cache_clear()
    yield Machine(tmp_path, monkeypatch)
    toolkit.choose.cache_clear()


def chosen():
    return sys.modules["_build.toolkit"].choose()


def no_libraries(machine):
    machine.toolkit(libraries=False)
    machine.set("CUDA_HOME", str(machine.root))


def test_cuda_toolkit_named_by_cuda_home(machine):
    machine.toolkit()
    machine.set("CUDA_HOME", str(machine.root))
    assert chosen().note == f"built with CUDA 13.0, nvcc from CUDA_HOME={machine.root}"
    assert chosen().archs == "8.0;9.0", "what this nvcc can compile for"


@pytest.mark.parametrize("variable", ["CUDA_PATH", "CONDA_PREFIX"])
def test_cuda_toolkit_of_other_variables(machine, variable):
    machine.toolkit()
    machine.set(variable, str(machine.root))
    assert chosen().toolkit.root == str(machine.root)


def test_cuda_toolkit_behind_a_wrapper(machine, tmp_path):
    """The wrapper's folder is nobody's toolkit: the extension gets the folders that nvcc itself names."""
    machine.toolkit()
    machine.wrapper()
    made = sys.modules["_build.extension"].core_extension(tmp_path / "generated")
    assert {"csrc/cuda/spmm.cu", "csrc/cuda/spmm_cuda.cpp"} <= set(made.sources)
    assert str(machine.root / "include") in made.include_dirs and str(machine.root / "lib64") in made.library_dirs
    assert torch.utils.cpp_extension.CUDA_HOME == str(machine.root)
    assert os.environ["PYTORCH_NVCC"] == str(tmp_path / "path/nvcc"), "what was tried is what compiles"
    note = (tmp_path / "generated/build_note.h").read_text()
    assert '#define MMSSL_CUDA_NOTE "built with CUDA 13.0, nvcc from PATH"' in note
    assert '#define MMSSL_CUDA_ARCHS "8.0;9.0"' in note


def test_cuda_home_without_a_toolkit_is_passed_over_and_said_so(machine):
    machine.toolkit()
    machine.wrapper()
    machine.set("CUDA_HOME", "/nonexistent")
    assert chosen().toolkit.root == str(machine.root)
    assert chosen().note.endswith("nvcc from PATH; passed over, CUDA_HOME=/nonexistent holds no bin/nvcc")


def test_cuda_headers_and_library_of_the_nvidia_wheels(machine, tmp_path):
    machine.toolkit(headers=False, libraries=False)
    machine.wrapper()
    machine.wheels()
    made = sys.modules["_build.extension"].core_extension(tmp_path / "generated")
    assert str(tmp_path / "site/nvidia/cu13/include") in made.include_dirs
    assert ":libcudart.so.13" in made.libraries and "cudart" not in made.libraries


FAULTS = {
    "no headers": (
        lambda machine: (machine.toolkit(headers=False), machine.wrapper()),
        r"nvcc of \S+, CUDA 13\.0, cannot compile the kernels \(launch\.h:21:10: fatal error: cuda_runtime\.h: "
        r"No such file or directory\); name the folder of a complete CUDA 13\.0 toolkit in CUDA_HOME",
    ),
    "no library": (
        no_libraries,
        r"the kernels compiled by nvcc of \S+, CUDA 13\.0, cannot be linked \(/usr/bin/ld: cannot find -lcudart\);",
    ),
    "another release": (
        lambda machine: (machine.toolkit("12.8"), machine.wrapper()),
        r"nvcc from PATH is of CUDA 12\.8, the installed torch of CUDA 13\.0; install CUDA 13\.0 and name its",
    ),
    "no release": (
        lambda machine: script(machine.folder / "path/nvcc", "echo module cuda is not loaded >&2; exit 3"),
        r"`\S+nvcc --version` names no release \(module cuda is not loaded\); install CUDA 13\.0",
    ),
    "no program": (
        lambda machine: script(machine.folder / "path/nvcc", "exec /nonexistent"),
        r"`\S+nvcc --version` names no release \(.*not found.*\); install CUDA 13\.0",
    ),
    "no nvcc": (lambda machine: None, r"no nvcc was found under CUDA_HOME, .*; install the CUDA toolkit of torch's"),
    "empty CUDA_HOME": (
        lambda machine: machine.set("CUDA_HOME", str(machine.folder)),
        r"CUDA_HOME=\S+ holds no bin/nvcc; install CUDA 13\.0 and name its folder in CUDA_HOME",
    ),
    "unknown GPU": (
        lambda machine: (machine.toolkit(), machine.wrapper(), machine.set("TORCH_CUDA_ARCH_LIST", "0.1")),
        r"TORCH_CUDA_ARCH_LIST=0\.1: Unknown CUDA arch",
    ),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_cuda_that_fails_the_probe_is_left_out_with_the_reason(machine, fault):
    arrange, sentence = FAULTS[fault]
    arrange(machine)
    assert chosen().toolkit is None and re.match(sentence, chosen().note), chosen().note
    sys.modules["_build.toolkit"].choose.cache_clear()
    machine.set("MMSSL_FAST_CUDA", "1")
    with pytest.raises(SystemExit, match="mmssl_fast: MMSSL_FAST_CUDA=1, but CUDA cannot be built: ") as stopped:
        chosen()
    assert re.search(sentence, str(stopped.value))


def test_cuda_left_out_on_request_tries_nothing(machine):
    script(machine.folder / "path/nvcc", f": > {machine.folder}/called")
    machine.set("MMSSL_FAST_CUDA", "0")
    assert chosen() == (None, "", "built with MMSSL_FAST_CUDA=0") and not (machine.folder / "called").exists()


def test_cuda_demanded_without_nvcc_stops_before_torch_is_fetched(machine, backend, monkeypatch):
    machine.set("MMSSL_FAST_CUDA", "1")
    monkeypatch.setattr(backend, "_find_torch", lambda: pytest.fail("torch was looked for"))
    with pytest.raises(SystemExit, match="but CUDA cannot be built: no nvcc was found"):
        backend.get_requires_for_build_wheel()


@pytest.mark.skipif(shutil.which("nvcc") is None, reason="nvcc is not here")
def test_real_nvcc_behind_a_wrapper_names_its_toolkit(machine, monkeypatch):
    monkeypatch.undo()
    toolkit = sys.modules["_build.toolkit"]
    nvcc = shutil.which("nvcc")
    script(machine.folder / "path/nvcc", f'exec {nvcc} "$@"')
    release = re.search(r"release (\S+),", run(nvcc, "--version").stdout)[1]
    found = toolkit.inspect("PATH", [str(machine.folder / "path/nvcc")], release)
    assert found.release == release and Path(found.root, "bin/nvcc").exists()
    assert any(Path(folder, "cuda_runtime.h").exists() for folder in found.include_dirs)


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
