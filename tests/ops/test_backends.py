"""backends() and the public surface: what is promised is there, and nothing is listed that the library lacks."""

import pytest
import torch

import mmssl_fast
from mmssl_fast.backends import OPS, TRITON

# The ops another op or its backward is made of; they have no row of their own in backends().
PARTS = {
    "coo_to_csr",
    "coo_to_csr_values",
    "csr_transpose",
    "philox4x32",
    "philox_bits",
    "sampled_dot",
    "spmm",
    "spmm_add_",
    "unit_rows",
}
# Registered from Python, made of torch's operations and the parts above.
COMPOSED = {"gradient_norm", "relation_linear", "relation_row_norm"}
# Called with CPU tensors alone: a faster way to what other ops of the same row do on either device.
ON_CPU_ALONE = {"infonce_with_grad"}


def registered():
    names = (name for name in torch._C._dispatch_get_all_op_names() if name.startswith("mmssl_fast::"))
    return {name.removeprefix("mmssl_fast::").partition(".")[0] for name in names}


def test_backends_every_registered_op_belongs_to_a_row():
    rows = {kernel for _, kernels in OPS.values() for kernel in kernels}
    forward = {name for name in registered() if "_bwd" not in name}
    assert forward - PARTS - COMPOSED - ON_CPU_ALONE - rows == set()
    assert rows - forward == set(), "backends() names ops that the library does not register"
    assert TRITON <= rows


def test_backends_cpu_runs_every_op():
    isa = mmssl_fast.build_info()["isa"]
    for name, row in mmssl_fast.backends().items():
        assert row["cpu"] in ("torch", f"C++ ({isa})"), f"{name}: {row}"


def test_backends_every_op_is_public():
    assert set(OPS) <= set(mmssl_fast.__all__)
    for name in mmssl_fast.__all__:
        assert getattr(mmssl_fast, name) is not None


@pytest.mark.parametrize("name", sorted(OPS))
def test_docstring_names_its_equation(name):
    text = getattr(mmssl_fast, name).__doc__
    assert text and ("quation" in text or "Eq." in text or OPS[name][0] == "training"), f"{name} names no equation"


def test_every_kernel_has_an_owner_on_cuda(emulated):
    """In CUDA C++ (compiled for the emulator here), in Triton or in torch's operations: a training step falls back on
    nothing."""
    owned = {
        name
        for name in registered()
        if torch._C._dispatch_has_kernel_for_dispatch_key(f"mmssl_fast_emulated::{name}", "CPU")
        or torch._C._dispatch_has_kernel_for_dispatch_key(f"mmssl_fast::{name}", "CUDA")
        or torch._C._dispatch_has_kernel_for_dispatch_key(f"mmssl_fast::{name}", "CompositeExplicitAutograd")
    }
    composed = {name for name in registered() if name.removesuffix("_bwd") in COMPOSED}
    assert registered() - owned - composed - ON_CPU_ALONE == set()
