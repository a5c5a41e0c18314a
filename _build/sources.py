"""The source files and compiler flags, for both setup.py and CMakeLists.txt. Does not need torch.

``python _build/sources.py`` prints it as CMake ``set`` commands.
"""

import os
import platform
import shlex
import shutil
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
OLDEST_TORCH = (2, 11)

SOURCES = ("csrc/*.cpp", "csrc/cpu/*.cpp")
ISA_SOURCES = ("csrc/cpu/isa/*.cpp",)
CUDA_KERNELS = ("csrc/cuda/*.cu",)
CUDA_BINDINGS = ("csrc/cuda/*.cpp",)

CXX_FLAGS = ["-std=c++20", "-O2", "-g0", "-Wall", "-fvisibility=hidden"]

# Without -ffast-math, because it would reorder sums differently for every instruction set, and ignore NaN.
ISA_FLAGS = [
    *("-std=c++17", "-O3", "-g0", "-fPIC", "-Wall", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"),
]
_AVX2 = ["-mavx2", "-mfma", "-mf16c", "-mbmi2"]
_AVX512 = [*_AVX2, "-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mprefer-vector-width=512"]
X86_LEVELS = {"baseline": ["-msse4.2", "-mpopcnt"], "avx2": _AVX2, "avx512": _AVX512}

# The first four are what torch's own build passes to nvcc, so that the gate compiles what the extension holds.
NVCC_FLAGS = [
    *("-D__CUDA_NO_HALF_OPERATORS__", "-D__CUDA_NO_HALF_CONVERSIONS__", "-D__CUDA_NO_BFLOAT16_CONVERSIONS__"),
    *("-D__CUDA_NO_HALF2_OPERATORS__", "--expt-relaxed-constexpr", "-std=c++17", "-O3"),
]
# The architectures of a build on a machine without a GPU: Ampere, Hopper and Blackwell.
CUDA_ARCHS = ("8.0", "9.0", "10.0")


def files(patterns):
    """The files that match the patterns, relative to the repository root, in a fixed order."""
    return sorted(path.relative_to(ROOT).as_posix() for pattern in patterns for path in ROOT.glob(pattern))


def isa_levels():
    """The compiler flags of every instruction set for which kernels are built on this architecture."""
    return X86_LEVELS if platform.machine().lower() in ("x86_64", "amd64") else {"baseline": []}


def compiler():
    """The C++ compiler as a command, CXX or c++. Stops the build with one sentence if there is none."""
    command = shlex.split(os.environ.get("CXX", "")) or ["c++"]
    if shutil.which(command[0]) is None:
        raise SystemExit(
            f"mmssl_fast: there is no C++ compiler: `{command[0]}` was not found; install g++ 11 or newer "
            "(on Debian and Ubuntu `apt install g++`), or name yours in the environment variable CXX"
        )
    return command


def _cmake():
    lists = {
        "SOURCES": files(SOURCES),
        "ISA_SOURCES": files(ISA_SOURCES),
        "CUDA_KERNELS": files(CUDA_KERNELS),
        "CUDA_BINDINGS": files(CUDA_BINDINGS),
        "CXX_FLAGS": CXX_FLAGS,
        "ISA_FLAGS": ISA_FLAGS,
        "ISA_LEVELS": list(isa_levels()),
        "NVCC_FLAGS": NVCC_FLAGS,
        "CUDA_ARCHS": [arch.replace(".", "") for arch in CUDA_ARCHS],
    } | {f"ISA_FLAGS_{level}": flags for level, flags in isa_levels().items()}
    for name, values in lists.items():
        print(f'set(MMSSL_{name} "{";".join(values)}")')


if __name__ == "__main__":
    _cmake()
