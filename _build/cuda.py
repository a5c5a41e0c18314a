"""Whether this build holds the CUDA kernels, and for which GPUs."""

import os
import re
import shutil
import subprocess
from pathlib import Path

import sources
import torch
from torch.utils.cpp_extension import CUDA_HOME


def _missing():
    """What keeps CUDA out of this build, as the end of a sentence, or None."""
    if not sources.files(sources.CUDA_KERNELS):
        return "this version has no CUDA kernels"
    if torch.version.cuda is None:
        return f"the installed torch {torch.__version__} is built without CUDA"
    nvcc = str(Path(CUDA_HOME) / "bin" / "nvcc") if CUDA_HOME else None
    if nvcc is None or shutil.which(nvcc) is None:
        return "nvcc was not found on PATH or under CUDA_HOME"
    release = re.search(
        r"release (\d+)\.(\d+)", subprocess.run([nvcc, "--version"], capture_output=True, text=True).stdout
    )
    if release is None:
        return f"{nvcc} --version names no release"
    if release[1] != torch.version.cuda.split(".")[0]:
        return f"nvcc is of CUDA {release[1]}.{release[2]}, torch {torch.__version__} of CUDA {torch.version.cuda}"
    return None


def wanted():
    """(build for CUDA?, why or why not). MMSSL_FAST_CUDA=0 leaves it out, =1 insists, unset takes what is there."""
    choice = os.environ.get("MMSSL_FAST_CUDA", "")
    if choice not in ("", "0", "1"):
        raise SystemExit(f"mmssl_fast: MMSSL_FAST_CUDA={choice}: must be 0 (without CUDA), 1 (with it) or unset")
    if choice == "0":
        return False, "built with MMSSL_FAST_CUDA=0"
    missing = _missing()
    if missing is None:
        return True, "built with nvcc"
    if choice == "1":
        raise SystemExit(f"mmssl_fast: MMSSL_FAST_CUDA=1, but CUDA cannot be built: {missing}")
    return False, missing


def choose_archs():
    """The value of TORCH_CUDA_ARCH_LIST: the user's, else the visible GPUs', else sources.CUDA_ARCHS."""
    if not os.environ.get("TORCH_CUDA_ARCH_LIST"):
        visible = {torch.cuda.get_device_capability(i) for i in range(torch.cuda.device_count())}
        archs = [f"{major}.{minor}" for major, minor in sorted(visible)] or sources.CUDA_ARCHS
        os.environ["TORCH_CUDA_ARCH_LIST"] = ";".join(archs)
    return os.environ["TORCH_CUDA_ARCH_LIST"].replace(" ", ";")
