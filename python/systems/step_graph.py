"""A training step as a CUDA graph: recorded once, replayed with new inputs, so that the GPU never waits for Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[..., dict[str, Tensor]]
WARM_UP = 3  # eager steps before the first recording: libraries set themselves up, optimisers make their state


class StepGraph:
    """``run(*inputs)``, recorded at the call after WARM_UP and replayed from then on.

    `run` must be a pure sequence of device work: no shape that depends on values, no number read from the host (seeds
    and steps are tensors), optimisers with capturable=True. What it returns is valid until the next call.

    run: the step; record: how it is recorded (a test's stand-in, else `record_cuda`): given a function without
        arguments, it returns one that repeats what that did.
    """

    def __init__(self, run: Run, record: Callable[[Callable[[], None]], Callable[[], None]] | None = None) -> None:
        self._run, self._record = run, record or record_cuda
        self._calls = 0
        self.forget()

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._run(*inputs)
        if self._replay is None or [(x.shape, x.dtype) for x in inputs] != [(x.shape, x.dtype) for x in self._inputs]:
            self._inputs = [x.clone() for x in inputs]
            self._replay = self._record(self._once)
        for held, given in zip(self._inputs, inputs, strict=True):
            held.copy_(given)
        self._replay()
        return self._outputs

    def forget(self) -> None:
        """Record anew at the next call: something the step reads is no longer where it was."""
        self._inputs: list[Tensor] = []
        self._outputs: dict[str, Tensor] = {}
        self._replay: Callable[[], None] | None = None

    def _once(self) -> None:
        self._outputs = {name: value.detach() for name, value in self._run(*self._inputs).items()}


def record_cuda(body: Callable[[], None]) -> Callable[[], None]:
    """Record body() as a CUDA graph; returns its replay. Recording runs nothing on the device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay
