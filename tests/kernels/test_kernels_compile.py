"""Every Triton kernel compiles to machine code without a GPU or spills; CUDA finds its kernels, or says why not."""

import ast
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from mmssl_fast.ops import _triton

ROOT = Path(__file__).resolve().parents[2]


def python(*arguments, **environment):
    """Runs Python outside Triton's interpreter, against the installed package."""
    environment = {**os.environ, "TRITON_INTERPRET": "0", "OMP_NUM_THREADS": "1", "PYTHONSAFEPATH": "1", **environment}
    return subprocess.run([sys.executable, *arguments], cwd=ROOT, env=environment, capture_output=True, text=True)


def kernels_written():
    """Names of the functions in kernels/ that launchers start: those called something_kernel."""
    trees = (ast.parse(path.read_text()) for path in (ROOT / "kernels").glob("*.py"))
    functions = (f.name for tree in trees for f in tree.body if isinstance(f, ast.FunctionDef))
    return {name for name in functions if name.endswith("_kernel")}


@pytest.mark.source
def test_every_kernel_compiles_for_sm_90_without_spills(tmp_path):
    pytest.importorskip("triton", reason="triton is not installed")
    report = tmp_path / "gate.json"
    done = python("-m", "mmssl_fast.kernels.compile_gate", "--arch", "90", "--once", "--json", str(report))
    assert done.returncode == 0, done.stdout + done.stderr
    reports = json.loads(report.read_text())
    assert {r["kernel"] for r in reports} == kernels_written()
    assert all(0 < r["registers"] <= 255 and r["stack"] == 0 and r["shared"] <= 227 * 1024 for r in reports)


def test_gate_refuses_the_interpreter(monkeypatch, capsys):
    triton = pytest.importorskip("triton", reason="triton is not installed")
    from mmssl_fast.kernels import compile_gate

    monkeypatch.setattr(triton.knobs.runtime, "interpret", True)
    monkeypatch.setattr(sys, "argv", ["compile_gate"])
    assert compile_gate.main() == 2 and "TRITON_INTERPRET is set" in capsys.readouterr().err


@pytest.mark.parametrize("op", _triton.KERNELS)
def test_op_has_a_cuda_kernel(op):
    pytest.importorskip("triton", reason="triton is not installed")
    assert torch._C._dispatch_has_kernel_for_dispatch_key(f"mmssl_fast::{op}", "CUDA")
    assert callable(_triton.kernel(op))


def test_ops_do_not_import_triton_and_name_it_on_cuda():
    code = """
import sys
from mmssl_fast.ops import _triton, modality_attention
assert "triton" not in sys.modules
sys.modules["triton"] = None
try:
    _triton.kernel("modality_mix")
except ImportError as error:
    print(error)
"""
    done = python("-c", code)
    assert done.stdout.startswith("modality_mix: on CUDA this op is a Triton kernel, and triton is not installed"), done
