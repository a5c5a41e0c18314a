"""Differentiation of the ops: autograd, forward mode and the transforms of torch.func.

torch.library lets an op register a backward formula and nothing else. Forward mode then silently gives a tangent of
zero, and torch.func.grad raises an error. Every differentiable op is therefore called through the function that
`differentiable` returns. Outside torch.func and forward mode, this function calls the op itself. Inside, it calls an
autograd.Function with the same backward formula, a forward-mode formula if the op has one, and a vmap rule, which by
default loops over the batch.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

_stack = torch._C._functorch.peek_interpreter_stack


def is_transforming() -> bool:
    """Whether a torch.func transform or forward-mode differentiation is active."""
    if torch.compiler.is_compiling():
        return False
    return _stack() is not None or forward_ad._current_level >= 0


def is_tracked(x: Tensor) -> bool:
    """Whether the active torch.func transform or forward mode tracks x. Call it only if `is_transforming()`."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or forward_ad.unpack_dual(x).tangent is not None


def differentiable(
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., Any],
    *,
    jvp: Callable[..., Any] | None = None,
    vmap: Callable[..., Any] | None = None,
    once: bool = False,
    public: str | None = None,
) -> Callable[..., Any]:
    """Registers the backward formula of ``torch.ops.mmssl_fast.<name>`` and returns the function to call instead of
    the op.

    Args:
        name: name of the op.
        backward, setup_context: as for torch.library.register_autograd. If `backward` calls other ops, it must call the
            functions that `differentiable` returned for them.
        jvp: function of (inputs, outputs, tangents of the inputs) that returns the tangent of each output. A tangent is
            None if there is none. Without jvp, forward mode raises NotImplementedError.
        vmap: as the vmap method of torch.autograd.Function.
        once: whether autograd raises an error for a second derivative. Inside torch.func, `backward` must raise it.
        public: name of the function in mmssl_fast.ops and mmssl_fast.reference that errors mention. Default: name
            without "_bwd".
    """
    # Not used inside torch.func: once_differentiable disables gradients, which would give a wrong second derivative
    # there instead of an error.
    registered = once_differentiable(backward) if once else backward
    torch.library.register_autograd(f"mmssl_fast::{name}", registered, setup_context=setup_context)
    public = public or name.removesuffix("_bwd")

    def no_jvp(*_: Any) -> NoReturn:
        raise NotImplementedError(
            f"{public}: forward-mode differentiation is not supported; use reverse mode once (torch.func.vjp, jacrev), "
            f"or mmssl_fast.reference.{public}"
        )

    return _callable(name, backward, setup_context, jvp or no_jvp, vmap)


def no_context(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
    """A setup_context for a backward formula that needs no saved values."""


def undifferentiable(name: str, message: str) -> Callable[..., Any]:
    """The function to call instead of an op that has no derivative.

    If a derivative is requested, also inside torch.func or in forward mode, it raises NotImplementedError with
    `message`.
    """

    def refuse(*_: Any) -> NoReturn:
        raise NotImplementedError(message)

    torch.library.register_autograd(f"mmssl_fast::{name}", refuse, setup_context=no_context)
    return _callable(name, refuse, no_context, refuse, None)


def _callable(
    name: str,
    backward: Callable[..., Any],
    setup_context: Callable[..., Any],
    jvp: Callable[..., Any],
    vmap: Callable[..., Any] | None,
) -> Callable[..., Any]:
    op = getattr(torch.ops.mmssl_fast, name)
    function: Any  # the autograd.Function class defined below

    def call(*args: Any) -> Any:
        return function.apply(*args) if is_transforming() else op(*args)

    def setup(ctx: Any, inputs: tuple[Any, ...], output: Any) -> None:
        setup_context(ctx, inputs, output)
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.tensors = [isinstance(x, Tensor) for x in inputs]
        ctx.rest = [None if isinstance(x, Tensor) else x for x in inputs]
        ctx.save_for_forward(*(x for x in (*inputs, *outputs) if isinstance(x, Tensor)))

    def forward_mode(ctx: Any, *tangents: tuple[Any, ...]) -> Any:
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if is_tensor else x for x, is_tensor in zip(ctx.rest, ctx.tensors, strict=True)]
        return jvp(inputs, tuple(saved), tangents)

    def loop(info: Any, in_dims: tuple[int | None, ...], *args: Any) -> tuple[Any, Any]:
        calls = [
            call(*(x if dim is None else x.select(dim, index) for x, dim in zip(args, in_dims, strict=True)))
            for index in range(info.batch_size)
        ]
        if isinstance(calls[0], Tensor):
            return torch.stack(calls), 0
        return tuple(torch.stack(parts) for parts in zip(*calls, strict=True)), (0,) * len(calls[0])

    function = type(
        f"mmssl_fast_{name}",
        (torch.autograd.Function,),
        {
            "forward": staticmethod(lambda *args: op(*args)),
            "setup_context": staticmethod(setup),
            "backward": staticmethod(backward),
            "jvp": staticmethod(forward_mode),
            "vmap": staticmethod(vmap or loop),
        },
    )
    return call
