"""Ops whose computation is a Python function."""

from __future__ import annotations

import functools
import sys
from collections.abc import Callable
from typing import Any, TypeVar

import torch

F = TypeVar("F", bound=Callable[..., Any])


def python_op(name: str, fake: Callable[..., Any]) -> Callable[[F], F]:
    """Decorator. Equals ``torch.library.custom_op(f"mmssl_fast::{name}", mutates_args=())`` with `fake` registered.

    custom_op imports torch's compiler at the first call, to tell it not to trace the function. That loads 800 modules,
    which take 2 s and 140 MB of each process (torch 2.13). Here, the compiler is told as soon as it is loaded.

    Args:
        name: of the op, torch.ops.mmssl_fast.<name>. Its schema follows from the annotations of the function, which
            must return new tensors.
        fake: function of the same arguments that returns tensors of the right shape and dtype with any content, as for
            torch.library.register_fake.
    """

    def register(function: F) -> F:
        qualified = f"mmssl_fast::{name}"
        schema = torch.library.infer_schema(function, mutates_args=())
        torch.library.define(qualified, schema, tags=(torch.Tag.pt2_compliant_tag,))
        torch.library.impl(qualified, "default", _never_traced(function))
        torch.library.register_fake(qualified, fake)
        return function

    return register


def _never_traced(function: Callable[..., Any]) -> Callable[..., Any]:
    """Equals ``torch.compiler.disable(function)``, which imports the compiler."""
    disabled = functools.cache(lambda: torch.compiler.disable(function))

    def call(*args: Any) -> Any:
        return disabled()(*args) if "torch._dynamo" in sys.modules else function(*args)

    return call
