"""What `mmssl-fast doctor` looks at, and how `mmssl-fast benchmark` is run."""

from __future__ import annotations

import importlib.util
import os
import platform
import subprocess
import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

from ..errors import InputError, install_command

PACKAGES = (
    "torch", "numpy", "scipy", "triton", "typer", "rich", "pydantic", "safetensors", "matplotlib", "pyarrow", "jinja2",
    "optuna",
)  # fmt: skip


def examine() -> tuple[dict[str, Any], list[str]]:
    """(findings by name, with backends() under "ops"; problems as sentences). Importing mmssl_fast is part of the
    examination: an import that fails is a problem, and "ops" is then missing."""
    findings: dict[str, Any] = {"python": platform.python_version(), "platform": platform.platform()}
    problems = []
    for name in PACKAGES:
        findings[name] = _version(name)
        if findings[name] == "not installed" and name not in ("triton", "torch", "numpy", "scipy"):
            problems.append(f"{name} is not installed; {install_command('train')}")
    try:
        import mmssl_fast
    except ImportError as error:
        return findings, [*problems, str(error)]
    import torch

    built = mmssl_fast.build_info()
    findings |= {
        "mmssl_fast": mmssl_fast.__version__,
        "built against torch": built["torch"],
        "compiler": built["compiler"],
        "instruction sets built": ", ".join(built["isa_levels"]),
        "instruction set in use": built["isa"],
        "CUDA in the build": ", ".join(built["cuda_archs"]) if built["cuda"] else "no",
        "threads": f"{torch.get_num_threads()} of {os.cpu_count()} processors",
        "GPU": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none that torch can use",
    }
    findings["ops"] = mmssl_fast.backends()
    if torch.cuda.is_available() and not built["cuda"]:
        problems.append("torch has a GPU, mmssl_fast was built without CUDA; reinstall it where nvcc is on the path")
    return findings, problems


def run_benchmarks(checkout: Path, arguments: list[str]) -> int:
    """Run pytest-benchmark on a checkout's benchmarks/ and return pytest's exit code. Raises InputError where the
    checkout, pytest or pytest-benchmark is missing."""
    if not (checkout / "benchmarks").is_dir() or not (checkout / "pyproject.toml").is_file():
        raise InputError(
            f"{checkout.resolve()}: holds no benchmarks; run this in a source checkout of mmssl_fast, or name one with "
            "--checkout"
        )
    for module, package in (("pytest", "pytest"), ("pytest_benchmark", "pytest-benchmark")):
        if importlib.util.find_spec(module) is None:
            raise InputError(f"{package} is not installed; {install_command('bench')}")
    command = [sys.executable, "-P", "-m", "pytest", "benchmarks", "--benchmark-only", *arguments]
    return subprocess.run(command, cwd=checkout, check=False).returncode


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"
