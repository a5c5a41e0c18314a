"""csrc/cuda compiled for the CPU: torch.ops.mmssl_fast_emulated.*, CUDA kernels and bindings on CPU tensors."""

import sys
import sysconfig
from pathlib import Path

import torch
from torch.utils.cpp_extension import include_paths

import mmssl_fast.library  # noqa: F401  the schemas

ROOT = Path(__file__).resolve().parents[2]
NAMESPACE = "mmssl_fast_emulated"

_library = None


def load():
    """Compiles what changed, registers the ops of mmssl_fast that csrc/cuda implements, and returns their namespace."""
    global _library
    if _library is None:
        target = _build()
        _library = torch.library.Library(NAMESPACE, "DEF")
        for name in torch._C._dispatch_get_all_op_names():
            if name.startswith("mmssl_fast::"):
                (schema,) = torch._C._jit_get_schemas_for_operator(name)
                _library.define(str(schema).removeprefix("mmssl_fast::"))
        torch.ops.load_library(target)
    return getattr(torch.ops, NAMESPACE)


class OnGpu:
    """``OnGpu().spmm(...)``: torch.ops.mmssl_fast.spmm on a GPU, of CPU tensors to CPU tensors."""

    def __getattr__(self, name: str):
        op = getattr(torch.ops.mmssl_fast, name)

        def run(*args):
            there = [x.cuda() if isinstance(x, torch.Tensor) else x for x in args]
            result = op(*there)
            for given, moved, declared in zip(args, there, op.default._schema.arguments, strict=False):
                if declared.alias_info is not None and declared.alias_info.is_write:
                    given.copy_(moved)
            return torch.utils._pytree.tree_map_only(torch.Tensor, torch.Tensor.cpu, result)

        return run


def _build() -> Path:
    sys.path.insert(0, str(ROOT))
    try:
        from _build import extension, sources
    finally:
        sys.path.remove(str(ROOT))
    folder = ROOT / "build" / f"emulated-torch{torch.__version__}"
    includes = [str(ROOT / "csrc"), str(ROOT / "tests" / "emulator")]
    # -U: glibc's checked longjmp takes a jump to another stack for an error.
    common = [
        *sources.compiler(),
        "-O1",
        "-g0",
        "-Wall",
        "-fPIC",
        "-U_FORTIFY_SOURCE",
        "-DMMSSL_CUDA_EMULATED",
        *(f"-I{path}" for path in includes),
    ]
    torch_flags = ["-std=c++20", *(f"-isystem{path}" for path in [*include_paths(), sysconfig.get_paths()["include"]])]
    jobs = []
    for file in [*sources.files(sources.CUDA_KERNELS), "tests/emulator/cuda_emulated.cpp"]:
        jobs.append(_job(file, [*common, "-std=c++17", "-Wno-unknown-pragmas", "-x", "c++"], folder))
    for file in extension.combined(sources.files(sources.CUDA_BINDINGS), folder / "generated", units=1):
        jobs.append(_job(file, [*common, *torch_flags], folder))
    extension.compile_stale(jobs)
    target = folder / "libmmssl_fast_emulated.so"
    objects = [str(object_file) for object_file, _ in jobs]
    libraries = Path(torch.__file__).parent / "lib"
    link = [*sources.compiler(), "-shared", *objects, "-o", str(target), f"-L{libraries}", "-lc10", "-ltorch_cpu"]
    if not target.exists() or any(Path(name).stat().st_mtime > target.stat().st_mtime for name in objects):
        extension.compile_one(target, link)
    return target


def _job(file: str, command: list[str], folder: Path) -> tuple[Path, list[str]]:
    target = folder / f"{Path(file).name}.o"
    return target, [*command, "-MMD", "-c", str(ROOT / file), "-o", str(target)]
