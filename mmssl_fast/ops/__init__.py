"""The operations, one module each. Import an operation from its own module.

The modules stand side by side because each has a counterpart of the same name in csrc/, kernels/, tests/ops/ and
benchmarks/. What is composed of these operations, without a kernel of its own, is in mmssl_fast.relation.
"""

from . import _triton  # noqa: F401  registers the CUDA implementations that are written in Triton
