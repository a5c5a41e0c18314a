"""What the wheel and the source distribution hold, and how the library is linked and loaded."""

import importlib.metadata
import json
import re
import shutil
import sys
import sysconfig
import tarfile

import pytest
import torch
import torch.utils.cpp_extension
from child_processes import ROOT, python, run
from import_graph import TREES

import mmssl_fast


def shipped_modules():
    """Path inside the wheel of every module and marker in the three trees."""
    for tree, package in TREES.items():
        for path in (ROOT / tree).rglob("*"):
            if (
                path.suffix == ".py"
                or path.name == "py.typed"
                or path.parent.name in ("presets", "searches", "templates", "static")
            ):
                yield f"{package.replace('.', '/')}/{path.relative_to(ROOT / tree).as_posix()}"


@pytest.fixture(scope="module")
def installed():
    """The distribution as pip installed it from the wheel that it built from this tree."""
    distribution = importlib.metadata.distribution("mmssl_fast")
    origin = json.loads(distribution.read_text("direct_url.json") or '{"dir_info": {"editable": true}}')
    if origin.get("dir_info", {}).get("editable"):
        pytest.skip("the source folder is installed itself, without a wheel")
    return distribution


def test_wheel_holds_every_module_and_the_library(installed):
    names = {file.as_posix() for file in installed.files if file.suffix != ".pyc"}
    names = {name for name in names if ".dist-info/" not in name and not name.endswith("bin/mmssl-fast")}
    (library,) = (name for name in names if name.endswith((".so", ".pyd")))
    assert re.fullmatch(r"mmssl_fast/_C\..*", library)
    assert names - {library} == set(shipped_modules())


def test_metadata(installed):
    assert installed.version == mmssl_fast.__version__
    needed = [each for each in installed.requires if "extra ==" not in each]
    assert sorted(re.match(r"\w+", each)[0] for each in needed) == ["numpy", "scipy", "torch"]
    assert {"train", "test", "bench", "dev"} <= set(installed.metadata.get_all("Provides-Extra"))
    (script,) = installed.entry_points.select(group="console_scripts")
    assert (script.name, script.value) == ("mmssl-fast", "mmssl_trainer.cli.main:main")
    assert any(file.name == "LICENSE" for file in installed.files)


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


def objects(level):
    """The object files of one instruction set, as the last build in this tree left them."""
    tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}-torch{torch.__version__}"
    found = sorted((ROOT / "build" / f"temp.{tag}" / "isa" / level).glob("*.o"))
    if not found:
        pytest.skip("the library was built elsewhere")
    assert len(found) == len(list((ROOT / "csrc/cpu/isa").glob("*.cpp"))), f"objects of {level}: {found}"
    return found


@pytest.mark.skipif(shutil.which("nm") is None, reason="nm (binutils) is not here")
@pytest.mark.parametrize("level", mmssl_fast.build_info()["isa_levels"])
def test_kernels_leak_no_weak_symbol(level):
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
    (tmp_path / "setup.py").touch()
    error = python(no_finder + "import mmssl_fast", check=False, PYTHONPATH=str(tmp_path)).stderr
    assert f"imported from its source folder {tmp_path}, where the C++ library is not built" in error.splitlines()[-1]
