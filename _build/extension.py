"""The build of mmssl_fast._C: torch's BuildExtension, plus the CPU kernels once per instruction set."""

import importlib
import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import sysconfig
from concurrent.futures import ThreadPoolExecutor
from importlib.util import find_spec
from pathlib import Path

import torch
from setuptools import Extension
from setuptools.errors import BaseError, CCompilerError
from torch.utils.cpp_extension import BuildExtension, CppExtension, CUDAExtension

from . import sources, toolkit
from .sources import ROOT

EXTENSION = "mmssl_fast._C"
UNITS = 2  # files that the bindings are combined to

if shutil.which("ninja") is None and find_spec("ninja"):
    # The interpreter of a virtual environment that is not activated: torch looks for ninja on PATH alone.
    os.environ["PATH"] += os.pathsep + importlib.import_module("ninja").BIN_DIR


def core_extension(generated) -> Extension:
    """The extension mmssl_fast._C for the CPU, and for CUDA if toolkit.choose() has found a toolkit. `generated` is the
    folder of build_note.h, which csrc/library.cpp includes."""
    choice = toolkit.choose()
    write_note(generated / "build_note.h", choice)
    files = combined(sources.files(sources.SOURCES), generated / "cpu")
    flags = {"cxx": list(sources.CXX_FLAGS)}
    includes = [str(ROOT / "csrc"), str(generated)]
    if sys.platform == "linux":
        # Compiled with OpenMP and linked without it: at::parallel_for then runs on the libgomp that torch has loaded.
        # A second OpenMP runtime in the process would spin against torch's threads.
        flags["cxx"].append("-fopenmp")
    if choice.toolkit is None:
        return CppExtension(EXTENSION, files, include_dirs=includes, extra_compile_args=flags)
    toolkit.use(choice)
    flags["nvcc"] = list(sources.NVCC_FLAGS)
    files += sources.files(sources.CUDA_KERNELS) + combined(sources.files(sources.CUDA_BINDINGS), generated / "cuda")
    extension = CUDAExtension(
        EXTENSION,
        files,
        include_dirs=[*includes, *choice.toolkit.include_dirs],
        library_dirs=list(choice.toolkit.library_dirs),
        extra_compile_args=flags,
    )
    extension.libraries = toolkit.libraries(extension, choice.toolkit)
    return extension


def combined(files, folder, units=UNITS):
    """Generated sources that together include `files`; their paths relative to the repository.

    A binding is about 9 seconds of compilation, nearly all for torch's headers. Included in one file, the bindings share
    them: the 22 of csrc/cpu take 71 s of processor time in four files, 50 s in two and 40 s in one (g++ 12.2, AMD EPYC
    with other work). Two files, so that two processors have work.
    """
    texts = {
        folder / f"bindings_{first}.cpp": "".join(f'#include "{ROOT / file}"\n' for file in files[first::units])
        for first in range(min(units, len(files)))
    }
    for path, text in texts.items():
        write_if_changed(path, text)
    return [os.path.relpath(path, ROOT) for path in texts]


def write_if_changed(path, text):
    """What includes an unchanged file is not compiled again."""
    if not path.exists() or path.read_text() != text:
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)


def write_note(path, choice):
    """Writes the CUDA part of build_info() to a header. As a macro on the command line, it would cause all files to be
    compiled again when it changes."""
    printable = re.sub(r"[^ -~]", "", choice.note)
    lines = ["#pragma once", f"#define MMSSL_CUDA_NOTE {json.dumps(printable)}"]
    if choice.toolkit is not None:
        lines.append(f"#define MMSSL_CUDA_ARCHS {json.dumps(choice.archs)}")
    write_if_changed(path, "\n".join([*lines, ""]))


class BuildCore(BuildExtension):
    """Compiles csrc/cpu/isa once per instruction set and links the objects into the extension."""

    def run(self):
        # Filled in here, not in setup.py, which runs for the metadata too: choosing CUDA takes seconds. Anew each time,
        # because BuildExtension adds to the flags in place and bdist_wheel runs this twice.
        (extension,) = self.extensions
        vars(extension).update(vars(core_extension(Path(self.build_temp) / "generated")))
        print(f"mmssl_fast: CUDA kernels: {toolkit.choose().note}", flush=True)
        try:
            super().run()
        except (RuntimeError, CCompilerError, BaseError) as error:
            # RuntimeError is what torch makes of a failed compiler.
            raise SystemExit(
                f"mmssl_fast: the C++ library was not built ({error}); the compiler's message is above"
            ) from None

    def finalize_options(self):
        super().finalize_options()
        # Kept between builds, editable ones too; one folder per torch, so that a change of torch mixes nothing.
        tag = f"{sysconfig.get_platform()}-{sys.implementation.cache_tag}-torch{torch.__version__}"
        self.build_temp = str(ROOT / "build" / f"temp.{tag}")

    def build_extensions(self):
        compiler = sources.compiler()
        folder = Path(self.build_temp)
        for tool in ("compiler_so", "compiler_so_cxx", "linker_so", "linker_so_cxx"):
            # A Python that was built with a compiler this machine lacks would call that one.
            command = getattr(self.compiler, tool, None)
            if sys.platform == "linux" and command and shutil.which(command[0]) is None:
                self.compiler.set_executable(tool, [*compiler, *command[1:]])
        (extension,) = self.extensions
        jobs = isa_jobs(compiler, folder / "isa")
        extension.extra_objects = [str(target) for target, _ in jobs]
        compile_stale(jobs)
        super().build_extensions()


def isa_jobs(compiler, folder):
    """The pair (object, command) for every kernel file and every level."""
    jobs = []
    for level, flags in sources.isa_levels().items():
        for file in sources.files(sources.ISA_SOURCES):
            target = folder / level / (Path(file).stem + ".o")
            command = [*compiler, *sources.ISA_FLAGS, *flags, f"-DMMSSL_ISA={level}", f"-I{ROOT / 'csrc'}"]
            jobs.append((target, [*command, "-MMD", "-c", str(ROOT / file), "-o", str(target)]))
    return jobs


def compile_stale(jobs):
    """Runs the jobs that are out of date, in parallel."""
    stale = [job for job in jobs if not up_to_date(*job)]
    with ThreadPoolExecutor(int(os.environ.get("MAX_JOBS") or os.cpu_count() or 1)) as pool:
        for _ in pool.map(lambda job: compile_one(*job), stale):
            pass


def up_to_date(target, command):
    """Whether `target` was created by the same command and is newer than all files in its dependency file."""
    record, dependencies = target.with_suffix(".cmd"), target.with_suffix(".d")
    if not (
        target.exists() and dependencies.exists() and record.exists() and record.read_text() == shlex.join(command)
    ):
        return False
    inputs = dependencies.read_text().replace("\\\n", " ").split(":", 1)[1].replace("\\ ", "\0").split()
    made = target.stat().st_mtime
    return all(
        os.path.exists(path) and os.stat(path).st_mtime <= made for path in (name.replace("\0", " ") for name in inputs)
    )


def compile_one(target, command):
    print(shlex.join(command), flush=True)
    target.parent.mkdir(parents=True, exist_ok=True)
    target.with_suffix(".cmd").unlink(missing_ok=True)
    if subprocess.run(command).returncode != 0:
        raise SystemExit(f"mmssl_fast: {target.stem} did not compile; see the compiler's message above")
    target.with_suffix(".cmd").write_text(shlex.join(command))
