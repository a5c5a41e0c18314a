"""A training step as a CUDA graph: captured once and replayed with new inputs, so that the GPU does not wait for
Python."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

Run = Callable[..., dict[str, Tensor]]
WARM_UP = 3  # eager steps before the first capture, in which libraries initialise and optimisers create their state


class StepGraph:
    """Equals ``run(*inputs)``, but is captured after WARM_UP calls and replayed from then on.

    `run` must only launch work on the device: no shape may depend on values, no number may come from the host (seeds
    and steps are tensors), and optimisers need capturable=True. The returned tensors are overwritten by the next call.

    run: the training step.
    record: captures a function without arguments and returns a function that replays it. Default: `record_cuda`; tests
        pass a substitute.
    """

    def __init__(self, run: Run, record: Callable[[Callable[[], None]], Callable[[], None]] | None = None) -> None:
        self._run, self._record = run, record or record_cuda
        self._calls = 0
        self._inputs: list[Tensor] = []
        self._outputs: dict[str, Tensor] = {}
        self._replay: Callable[[], None] | None = None

    def __call__(self, *inputs: Tensor) -> dict[str, Tensor]:
        self._calls += 1
        if self._calls <= WARM_UP:
            return self._run(*inputs)
        if self._replay is None or [(x.shape, x.dtype) for x in inputs] != [(x.shape, x.dtype) for x in self._inputs]:
            self._inputs = [x.clone() for x in inputs]
            self._replay = self._record(self._run_on_static_inputs)
        for static, new in zip(self._inputs, inputs, strict=True):
            static.copy_(new)  # a replay reads the addresses that were captured
        self._replay()
        return self._outputs

    def reset(self) -> None:
        """Capture again at the next call. Needed when a tensor that the step reads has been replaced."""
        self._inputs, self._outputs, self._replay = [], {}, None

    def _run_on_static_inputs(self) -> None:
        self._outputs = {name: value.detach() for name, value in self._run(*self._inputs).items()}


def record_cuda(body: Callable[[], None]) -> Callable[[], None]:
    """Capture body() as a CUDA graph and return its replay. Capturing does not execute anything on the device."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        body()
    return graph.replay
