"""mmssl-fast doctor: show the installation."""

from __future__ import annotations

import json
import os
import platform
from importlib.metadata import PackageNotFoundError, version
from typing import TYPE_CHECKING, Any

import typer

from .. import threads
from ..errors import install_command
from .options import JsonOption

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = (
    "torch",
    "numpy",
    "scipy",
    "triton",
    "typer",
    "rich",
    "pydantic",
    "safetensors",
    "matplotlib",
    "pyarrow",
    "jinja2",
    "optuna",
)


def doctor(as_json: JsonOption = False) -> None:
    """Describe the installation: packages, build and devices. For each op, the supported devices are listed."""
    from ..console import output

    findings, problems = examine()
    if as_json:
        print(json.dumps({**findings, "problems": problems}, indent=2))
    else:
        for table in _tables(findings):
            output.OUT.print(table)
    for problem in problems:
        output.ERR.print(f"problem: {problem}", markup=False)
    if problems:
        raise typer.Exit(1)


def examine() -> tuple[dict[str, Any], list[str]]:
    """(findings by name, with backends() under "ops"; problems as sentences).

    If mmssl_fast cannot be imported, that is one of the problems, and "ops" is missing.
    """
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
        "CUDA in the build": ", ".join(built["cuda_archs"]) if built["cuda"] else f"no: {built['cuda_note']}",
        "threads": f"{torch.get_num_threads()} on {threads.available()} available processors",
        "waiting threads": ", ".join(
            f"{name}={os.environ[name]}" for name in threads.WAIT_SETTINGS if name in os.environ
        )
        or "default of the OpenMP runtime",
        "GPU": torch.cuda.get_device_name(0) if torch.cuda.is_available() else "none available to torch",
    }
    findings["ops"] = mmssl_fast.backends()
    if torch.cuda.is_available() and not built["cuda"]:
        problems.append(f"torch can use a GPU, but mmssl_fast was built without CUDA: {built['cuda_note']}")
    return findings, problems


def _version(name: str) -> str:
    try:
        return version(name)
    except PackageNotFoundError:
        return "not installed"


def _tables(findings: dict[str, Any]) -> list[Table]:
    from ..console.tables import table

    findings = dict(findings)
    ops = findings.pop("ops", {})
    tables = [table("mmssl_fast", ["", ""], [[name, str(value)] for name, value in findings.items()])]
    if ops:
        columns = ["equation", "cpu", "cuda"]
        tables.append(
            table("ops", ["op", *columns], [[name, *(op[column] for column in columns)] for name, op in ops.items()])
        )
    return tables
