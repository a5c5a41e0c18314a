"""The ops, one module each; import the module of the op that is needed."""

from . import _triton  # noqa: F401  the CUDA key of the ops whose owner there is Triton
