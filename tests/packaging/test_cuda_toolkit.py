"""Which CUDA toolkit a build takes, and why it leaves CUDA out."""

import importlib
import os
import re
import shutil
import sys
from pathlib import Path

import pytest
import torch
import torch.utils.cpp_extension
from child_processes import ROOT, run, script

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
    assert "csrc/cuda/spmm.cu" in made.sources
    bindings = [Path(file).read_text() for file in made.sources if "cuda/bindings_" in file]
    assert f'#include "{ROOT / "csrc/cuda/spmm_cuda.cpp"}"' in "".join(bindings)
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
