"""How an op takes part in differentiation: autograd, forward mode and the transforms of torch.func.

An op of torch.library has a backward formula, and that is all torch knows of it: forward mode gives a tangent of zero
without an error, and torch.func.grad refuses. So every differentiable op is called through what `differentiable`
returns. Outside torch.func and forward mode that is the op itself. Inside, it is an autograd.Function with the same
backward, a forward-mode formula where there is one, and vmap by looping over the batch where there is no better way.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.autograd.function import once_differentiable

_stack = torch._C._functorch.peek_interpreter_stack


def is_transforming() -> bool:
    """Whether a transform of torch.func or a level of forward-mode differentiation is active."""
    if torch.compiler.is_compiling():
        return False
    return _stack() is not None or forward_ad._current_level >= 0


def is_tracked(x: Tensor) -> bool:
    """Whether a transform of torch.func or forward mode, one of which is active, follows x."""
    return torch._C._functorch.is_functorch_wrapped_tensor(x) or forward_ad.unpack_dual(x).tangent is not None


def differentiable(
    name: str,
    backward: Callable,
    setup_context: Callable,
    *,
    jvp: Callable | None = None,
    vmap: Callable | None = None,
    once: bool = False,
    public: str | None = None,
) -> Callable:
    """Registers the backward formula of ``torch.ops.mmssl_fast.<name>`` and returns what to call in the op's place.

    Args:
        name: of the op.
        backward, setup_context: as for torch.library.register_autograd. A formula that calls other ops calls what
            `differentiable` returned for them.
        jvp: (inputs, outputs, tangents of the inputs, None for none) → the tangent of the output, or of each output,
            None for those that have none. Without it forward mode raises NotImplementedError.
        vmap: as torch.autograd.Function's.
        once: whether autograd refuses a second derivative. Within torch.func what `backward` calls has to.
        public: the function of mmssl_fast.ops and mmssl_fast.reference that errors name, if that is not the op's name
            without "_bwd".
    """
    # once_differentiable turns gradients off, which within torch.func hides a second derivative instead of refusing it.
    registered = once_differentiable(backward) if once else backward
    torch.library.register_autograd(f"mmssl_fast::{name}", registered, setup_context=setup_context)
    public = public or name.removesuffix("_bwd")

    def no_jvp(*_):
        raise NotImplementedError(
            f"{public}: no forward-mode derivative here; use reverse mode once (torch.func.vjp, jacrev), or "
            f"mmssl_fast.reference.{public}"
        )

    return _callable(name, backward, setup_context, jvp or no_jvp, vmap)


def no_context(ctx, inputs, output) -> None:
    """The setup_context of a formula that needs nothing."""


def undifferentiable(name: str, message: str) -> Callable:
    """What to call in the place of an op without any derivative: where one is asked for it raises NotImplementedError
    with `message`, in torch.func and forward mode too."""

    def refuse(*_):
        raise NotImplementedError(message)

    return _callable(name, refuse, no_context, refuse, None)


def _callable(name, backward, setup_context, jvp, vmap) -> Callable:
    op = getattr(torch.ops.mmssl_fast, name)

    def call(*args):
        return function.apply(*args) if is_transforming() else op(*args)

    def setup(ctx, inputs, output):
        setup_context(ctx, inputs, output)
        outputs = output if isinstance(output, tuple) else (output,)
        ctx.tensors = [isinstance(x, Tensor) for x in inputs]
        ctx.rest = [None if isinstance(x, Tensor) else x for x in inputs]
        ctx.save_for_forward(*(x for x in (*inputs, *outputs) if isinstance(x, Tensor)))

    def forward_mode(ctx, *tangents):
        saved = iter(ctx.saved_tensors)
        inputs = [next(saved) if is_tensor else x for x, is_tensor in zip(ctx.rest, ctx.tensors, strict=True)]
        return jvp(inputs, tuple(saved), tangents)

    def loop(info, in_dims, *args):
        calls = [
            call(*(x if dim is None else x.select(dim, at) for x, dim in zip(args, in_dims, strict=True)))
            for at in range(info.batch_size)
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
