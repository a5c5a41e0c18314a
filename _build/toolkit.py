"""Decides by a test compilation whether this build contains the CUDA kernels, and for which GPUs."""

import os
import re
import shlex
import shutil
import subprocess
import sys
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import NamedTuple

from . import sources

DEFAULT_ROOT = "/usr/local/cuda"
SITE = sys.path  # where installed packages lie

KERNEL = """#include "cuda/launch.h"
{includes}
__global__ void probe_kernel(float* x) {{ x[threadIdx.x] = 1.0f; }}
void probe(float* x, cudaStream_t stream) {{
  mmssl::cuda::launch("probe", probe_kernel, dim3(1), dim3(32), 0, stream, x);
}}
"""
BINDING = """#include <c10/cuda/CUDAGuard.h>
#include <c10/cuda/CUDAStream.h>
void probe(float* x, cudaStream_t stream);
void probe_binding(float* x) {
  c10::cuda::CUDAGuard guard(0);
  probe(x, c10::cuda::getCurrentCUDAStream().stream());
}
"""


class Toolkit(NamedTuple):
    """An nvcc, and the folders and libraries that the host compiler and the linker need."""

    nvcc: tuple[str, ...]  # the command
    root: str  # what torch calls CUDA_HOME
    release: str  # "13.0"
    include_dirs: tuple[str, ...]
    library_dirs: tuple[str, ...]
    cudart: str  # what the linker is given after -l


class Choice(NamedTuple):
    """toolkit: None for a build without CUDA. archs: the value of TORCH_CUDA_ARCH_LIST. note: why, in one sentence."""

    toolkit: Toolkit | None
    archs: str
    note: str


class Unusable(Exception):
    """The reason why a toolkit cannot build the kernels, and a remedy, each in one sentence."""

    def __init__(self, reason, mend=None):
        super().__init__(f"{reason}; {mend}" if mend else reason)
        self.reason = reason


def requested():
    """MMSSL_FAST_CUDA: "0", "1" or "" (automatic). Stops the build at any other value."""
    value = os.environ.get("MMSSL_FAST_CUDA", "")
    if value not in ("", "0", "1"):
        raise SystemExit(f"mmssl_fast: MMSSL_FAST_CUDA={value}: must be 0 (without CUDA), 1 (with it) or unset")
    return value


@cache
def choose() -> Choice:
    """Chooses by MMSSL_FAST_CUDA: 0 builds without CUDA, and 1 stops the build if the test compilation fails. If it is
    unset and the test compilation fails, the build is without CUDA, and the note gives the reason."""
    if requested() == "0":
        return Choice(None, "", "built with MMSSL_FAST_CUDA=0")
    try:
        return _first_usable()
    except Unusable as error:
        if requested() == "1":
            raise SystemExit(f"mmssl_fast: MMSSL_FAST_CUDA=1, but CUDA cannot be built: {error}") from None
        return Choice(None, "", str(error))


def require_nvcc():
    """Stops a build with MMSSL_FAST_CUDA=1 if there is no nvcc. Called before torch is installed."""
    if requested() == "1" and not any(shutil.which(command[0]) for _, command in candidates()):
        raise SystemExit(f"mmssl_fast: MMSSL_FAST_CUDA=1, but CUDA cannot be built: {_no_nvcc()}")


def libraries(extension, toolkit):
    """The libraries of a CUDAExtension, with the name of cudart in this toolkit."""
    return [toolkit.cudart if name == "cudart" else name for name in extension.libraries]


def use(choice):
    """Makes torch compile with this toolkit for these GPUs."""
    from torch.utils import cpp_extension

    cpp_extension.CUDA_HOME = choice.toolkit.root
    os.environ["PYTORCH_NVCC"] = shlex.join(choice.toolkit.nvcc)
    os.environ["TORCH_CUDA_ARCH_LIST"] = choice.archs


# --- the toolkits that may be there ----------------------------------------------------------------------------------
def candidates():
    """The pairs (where it was found, nvcc as a command), in the order in which they are tried."""
    if command := shlex.split(os.environ.get("PYTORCH_NVCC", "")):
        return [("PYTORCH_NVCC", command)]
    found = [
        (f"{name}={os.environ[name]}", f"{os.environ[name]}/bin/nvcc")
        for name in ("CUDA_HOME", "CUDA_PATH")
        if os.environ.get(name)
    ]
    if nvcc := shutil.which("nvcc"):
        found.append(("PATH", nvcc))
    if prefix := os.environ.get("CONDA_PREFIX"):
        found.append(("CONDA_PREFIX", f"{prefix}/bin/nvcc"))
    found.append((DEFAULT_ROOT, f"{DEFAULT_ROOT}/bin/nvcc"))
    found += [("the nvidia packages beside torch", str(path)) for path in _in_wheels("*/bin/nvcc")]
    named = ("CUDA_HOME", "CUDA_PATH")
    # Without an nvcc, only what the user named is worth a word.
    return [(where, [nvcc]) for where, nvcc in found if shutil.which(nvcc) or where.startswith(named)]


def _in_wheels(pattern):
    """The matching paths in the folder `nvidia` of the installed packages, which contains the files of NVIDIA's wheels."""
    return [path for folder in SITE for path in sorted(Path(folder or ".", "nvidia").glob(pattern))]


def _no_nvcc():
    return Unusable(
        "no nvcc was found under CUDA_HOME, CUDA_PATH, CONDA_PREFIX or /usr/local/cuda, on PATH or among the installed "
        "nvidia packages",
        "install the CUDA toolkit of torch's CUDA version and name its folder in CUDA_HOME",
    )


def _first_usable():
    import torch

    if not sources.files(sources.CUDA_KERNELS):
        raise Unusable("this version has no CUDA kernels")
    if torch.version.cuda is None:
        raise Unusable(f"the installed torch {torch.__version__} is built without CUDA")
    failures = []
    for where, command in candidates():
        try:
            toolkit = inspect(where, command, torch.version.cuda)
            archs = choose_archs(toolkit)
            probe(toolkit, archs)
        except Unusable as error:
            failures.append(error)
            continue
        passed_over = "".join(f"; passed over, {error.reason}" for error in failures)
        return Choice(toolkit, archs, f"built with CUDA {toolkit.release}, nvcc from {where}{passed_over}")
    raise failures[0] if failures else _no_nvcc()


def inspect(where, command, torch_cuda):
    """The Toolkit of an nvcc, from the output of nvcc. Raises Unusable."""
    mend = f"install CUDA {torch_cuda} and name its folder in CUDA_HOME"
    if shutil.which(command[0]) is None:
        raise Unusable(f"{where} holds no bin/nvcc", mend)
    version = _run([*command, "--version"])
    release = re.search(r"release (\d+)\.(\d+)", version.stdout)
    if release is None:
        said = _first_error(version.stdout + version.stderr)
        raise Unusable(f"`{shlex.join(command)} --version` names no release ({said})", mend)
    if release[1] != torch_cuda.split(".")[0]:
        raise Unusable(
            f"nvcc from {where} is of CUDA {release[1]}.{release[2]}, the installed torch of CUDA {torch_cuda}", mend
        )
    with TemporaryDirectory() as folder:
        empty = Path(folder, "empty.cu")
        empty.touch()
        plan = _run([*command, "--dryrun", "-c", str(empty), "-o", f"{folder}/empty.o"])
    plan = dict(re.findall(r"^#\$ (\w+)=[ \t]*(.*)$", plan.stdout + plan.stderr, flags=re.M))
    # A wrapper's folder is not the toolkit's: TOP is.
    root = os.path.realpath(plan["TOP"].strip()) if plan.get("TOP") else None
    if root is None or shutil.which(f"{root}/bin/nvcc") is None:
        root = str(Path(os.path.realpath(shutil.which(command[-1]) or command[-1])).parent.parent)
    includes = _folders(plan.get("INCLUDES", ""), "-I")
    includes += [f"{root}/include", f"{root}/targets/x86_64-linux/include"]
    libraries = _folders(plan.get("LIBRARIES", ""), "-L")
    libraries += [f"{root}/lib64", f"{root}/lib", f"{root}/targets/x86_64-linux/lib"]
    if not any(Path(folder, "cuda_runtime.h").exists() for folder in includes):
        includes += [str(path.parent) for path in _in_wheels("*/include/cuda_runtime.h")]
    cudart = "cudart"
    if not any(Path(folder, "libcudart.so").exists() for folder in libraries):
        for path in _in_wheels(f"*/lib/libcudart.so.{release[1]}"):  # wheels hold no libcudart.so
            libraries.append(str(path.parent))
            cudart = f":{path.name}"
    number = f"{release[1]}.{release[2]}"
    return Toolkit(tuple(command), root, number, _existing(includes), _existing(libraries), cudart)


def _folders(flags, prefix):
    return [os.path.realpath(flag.removeprefix(prefix)) for flag in shlex.split(flags) if flag.startswith(prefix)]


def _existing(folders):
    """The folders that exist, without repetitions and without /usr/include, which in -I would hide compiler headers."""
    return tuple(folder for folder in dict.fromkeys(folders) if os.path.isdir(folder) and folder != "/usr/include")


def choose_archs(toolkit):
    """The value of TORCH_CUDA_ARCH_LIST: the user's value, else the architectures of the visible GPUs, else those of
    sources.CUDA_ARCHS that nvcc supports."""
    import torch

    if named := os.environ.get("TORCH_CUDA_ARCH_LIST"):
        return ";".join(re.split(r"[ ;]+", named.strip(" ;")))
    if visible := {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}:
        return ";".join(f"{major}.{minor}" for major, minor in sorted(visible))
    known = _run([*toolkit.nvcc, "--list-gpu-code"]).stdout.split()
    return ";".join(arch for arch in sources.CUDA_ARCHS if not known or f"sm_{arch.replace('.', '')}" in known)


# --- the probe -------------------------------------------------------------------------------------------------------
def probe(toolkit, archs):
    """Compiles a kernel and a binding with the flags and folders of the extension, and links them with its libraries.
    Raises Unusable."""
    from torch.utils import cpp_extension

    used = f"nvcc of {toolkit.root}, CUDA {toolkit.release},"
    mend = f"name the folder of a complete CUDA {toolkit.release} toolkit in CUDA_HOME"
    before = cpp_extension.CUDA_HOME, os.environ.get("TORCH_CUDA_ARCH_LIST")
    cpp_extension.CUDA_HOME, os.environ["TORCH_CUDA_ARCH_LIST"] = toolkit.root, archs
    try:
        extension = cpp_extension.CUDAExtension(
            "probe", [], include_dirs=list(toolkit.include_dirs), library_dirs=list(toolkit.library_dirs)
        )
        arch_flags = cpp_extension._get_cuda_arch_flags()
    except ValueError as error:
        raise Unusable(f"TORCH_CUDA_ARCH_LIST={archs}: {error}") from None
    finally:
        cpp_extension.CUDA_HOME = before[0]
        os.environ.pop("TORCH_CUDA_ARCH_LIST")
        if before[1] is not None:
            os.environ["TORCH_CUDA_ARCH_LIST"] = before[1]
    includes = [f"-I{folder}" for folder in [str(sources.ROOT / "csrc"), *extension.include_dirs]]
    link = [f"-L{folder}" for folder in extension.library_dirs]
    link += [f"-l{name}" for name in libraries(extension, toolkit)]
    host = ["-ccbin", os.environ["CC"]] if os.environ.get("CC") else []  # as torch calls nvcc
    flags = [*sources.NVCC_FLAGS, "--compiler-options", "-fPIC", *arch_flags, *host]
    with TemporaryDirectory() as folder:
        kernel, binding = Path(folder, "kernel.cu"), Path(folder, "binding.cpp")
        kernel.write_text(KERNEL.format(includes=_includes_of_kernels()))
        binding.write_text(BINDING)
        objects = [f"{folder}/kernel.o", f"{folder}/binding.o"]
        steps = [
            (
                f"{used} cannot compile the kernels",
                [*toolkit.nvcc, *includes, *flags, "-c", str(kernel), "-o", objects[0]],
            ),
            (
                f"{sources.compiler()[0]} cannot compile against the headers of CUDA and torch",
                [*sources.compiler(), *includes, *sources.CXX_FLAGS, "-fPIC", "-c", str(binding), "-o", objects[1]],
            ),
            (
                f"the kernels compiled by {used} cannot be linked",
                [*sources.compiler(), "-shared", "-Wl,-z,defs", *objects, *link, "-o", f"{folder}/probe.so"],
            ),
        ]
        for fault, command in steps:
            result = _run(command)
            if result.returncode != 0:
                raise Unusable(f"{fault} ({_first_error(result.stderr + result.stdout, folder)})", mend)


def _includes_of_kernels():
    """The #include <...> lines of all .cu files."""
    texts = (sources.ROOT.joinpath(file).read_text() for file in sources.files(sources.CUDA_KERNELS))
    return "\n".join(sorted({line for text in texts for line in re.findall(r"^#include <.*>", text, flags=re.M)}))


def _run(command):
    try:
        return subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, errors="replace")
    except OSError as error:
        return subprocess.CompletedProcess(command, 126, "", str(error))


def _first_error(output, folder=None):
    """The line with the first error in the output of a compiler, shortened."""
    lines = [line.strip() for line in output.splitlines() if line.strip()] or ["it printed nothing"]
    telling = re.compile(r"\b(error|fatal|cannot|undefined|not found|unsupported)\b", re.I)
    marked = [line for line in lines if telling.search(line)]
    line = (marked or lines)[0]
    if folder is not None:
        line = line.replace(f"{folder}/", "")
    return line if len(line) <= 200 else f"{line[:200]} ..."
