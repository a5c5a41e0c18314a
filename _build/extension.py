"""The build of mmssl_fast._C: torch's BuildExtension, plus the CPU kernels once per instruction set."""

import os
import platform
import shlex
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import torch
from torch.utils.cpp_extension import BuildExtension, CppExtension, get_cxx_compiler

ROOT = Path(__file__).resolve().parent.parent

# CMakeLists.txt reads the same folders with the same patterns.
SOURCES = ("csrc/*.cpp", "csrc/cpu/*.cpp")
ISA_SOURCES = "csrc/cpu/isa/*.cpp"

# -ffast-math is not here on purpose: it would let a sum be reordered differently per instruction set and drop NaN.
ISA_FLAGS = [
    *("-std=c++17", "-O3", "-g0", "-fPIC", "-Wall", "-fvisibility=hidden"),
    *("-fno-math-errno", "-fno-trapping-math", "-fopenmp-simd"),
]
X86_LEVELS = {
    "baseline": ["-msse4.2", "-mpopcnt"],
    "avx2": ["-mavx2", "-mfma", "-mf16c", "-mbmi2"],
    "avx512": ["-mavx512f", "-mavx512dq", "-mavx512bw", "-mavx512vl", "-mavx2", "-mfma", "-mf16c", "-mbmi2"]
    + ["-mprefer-vector-width=512"],
}


def isa_levels():
    """Compiler flags of every instruction set the kernels are built for on this machine's architecture."""
    return X86_LEVELS if platform.machine().lower() in ("x86_64", "amd64") else {"baseline": []}


def core_extension():
    sources = sorted(str(path.relative_to(ROOT)) for pattern in SOURCES for path in ROOT.glob(pattern))
    flags = ["-O2", "-g0", "-Wall", "-fvisibility=hidden"]
    if sys.platform == "linux":
        # Compiled with OpenMP and linked without it: at::parallel_for then runs on the libgomp that torch has loaded.
        # A second OpenMP runtime in the process would spin against torch's threads.
        flags.append("-fopenmp")
    return CppExtension("mmssl_fast._C", sources, include_dirs=[str(ROOT / "csrc")], extra_compile_args={"cxx": flags})


class BuildCore(BuildExtension):
    """Compiles csrc/cpu/isa once per instruction set and links the objects into the extension."""

    def finalize_options(self):
        super().finalize_options()
        # Kept between builds, editable ones too; one folder per torch, whose headers no dependency file lists.
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}-torch{torch.__version__}"
        self.build_temp = str(ROOT / "build" / f"temp.{tag}")

    def build_extensions(self):
        (extension,) = self.extensions
        extension.extra_objects = compile_isa_objects(Path(self.build_temp) / "isa")
        super().build_extensions()


def compile_isa_objects(folder):
    """Compiles every kernel file for every level into `folder`, in parallel, those that are out of date only."""
    compiler = shlex.split(get_cxx_compiler())
    jobs = []
    for level, flags in isa_levels().items():
        (folder / level).mkdir(parents=True, exist_ok=True)
        for source in sorted(ROOT.glob(ISA_SOURCES)):
            target = folder / level / (source.stem + ".o")
            command = [*compiler, *ISA_FLAGS, *flags, f"-DMMSSL_ISA={level}", f"-I{ROOT / 'csrc'}"]
            jobs.append((target, [*command, "-MMD", "-c", str(source), "-o", str(target)]))
    stale = [(target, command) for target, command in jobs if not up_to_date(target, command)]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS", os.cpu_count() or 1))) as pool:
        list(pool.map(compile_one, *zip(*stale, strict=True))) if stale else None
    return [str(target) for target, _ in jobs]


def up_to_date(target, command):
    """Whether `target` was made by this very command and is newer than everything its dependency file lists."""
    record, depfile = target.with_suffix(".cmd"), target.with_suffix(".d")
    if not (target.exists() and depfile.exists() and record.exists() and record.read_text() == shlex.join(command)):
        return False
    inputs = depfile.read_text().replace("\\\n", " ").split(":", 1)[1].split()
    made = target.stat().st_mtime
    return all(os.path.exists(path) and os.stat(path).st_mtime <= made for path in inputs)


def compile_one(target, command):
    print(shlex.join(command), flush=True)
    target.unlink(missing_ok=True)
    subprocess.run(command, check=True)
    target.with_suffix(".cmd").write_text(shlex.join(command))
