"""Recovering from an out-of-memory error in a training step: undo the step, and repeat it with item tiles of half the
size."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import Protocol

import torch
from torch import Tensor

from mmssl_fast.tiles import tiles_of

from ..errors import OutOfMemory, first_line, is_out_of_memory

# Tensors up to this many bytes are copied before every step. Copying the larger ones would cost too much time and
# memory; for these only a change is detected, which `StepSnapshot.restore` cannot undo.
SMALL = 1 << 16
LEAST_TILE = 1 << 12


class Stateful(Protocol):
    """The part of systems.base.System that a snapshot needs: every tensor that a step writes."""

    optimisers: dict[str, torch.optim.Optimizer]

    def state(self) -> dict[str, Tensor]: ...


class RestoreNeeded(Exception):
    """A step ran out of memory after it had written to a large tensor. The run must continue from a checkpoint."""


class StepSnapshot:
    """The state before a step: copies of the small tensors, version counters of the large ones, random generators."""

    def __init__(self, system: Stateful, device: torch.device) -> None:
        self.system, self.device = system, device
        self.copies, self.versions = {}, {}
        for name, tensor in _tensors(system).items():
            if tensor.nbytes <= SMALL:
                self.copies[name] = tensor.detach().clone()
            else:
                self.versions[name] = (tensor.data_ptr(), tensor._version)
        self.generator = torch.get_rng_state()
        self.cuda_generator = torch.cuda.get_rng_state(device) if device.type == "cuda" else None

    @torch.no_grad()
    def restore(self) -> bool:
        """Restore the state. Returns False, and restores nothing, if the step has written to a large tensor."""
        current = _tensors(self.system)
        if current.keys() != self.copies.keys() | self.versions.keys():
            return False
        if any((current[name].data_ptr(), current[name]._version) != before for name, before in self.versions.items()):
            return False
        for name, tensor in self.copies.items():
            current[name].copy_(tensor)
        torch.set_rng_state(self.generator)
        if self.cuda_generator is not None:
            torch.cuda.set_rng_state(self.cuda_generator, self.device)
        return True


class Tiles:
    """The item tile size during a run. It is halved when a step runs out of memory.

    elements: current number of entries in a tile.
    failed: {step: (entries with which it ran out of memory, entries for the retry)}. Steps are counted from the start
        of the run. A retry can also happen later, when the run reaches the step again after returning to a checkpoint.
    """

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.failed: dict[int, tuple[int, int]] = {}

    def take(
        self,
        system: Stateful,
        device: torch.device,
        step: int,
        run_step: Callable[[], dict[str, Tensor]],
        undoable: bool,
        repeatable: bool = True,
    ) -> dict[str, Tensor]:
        """Call run_step(), which is step number `step`. If it runs out of memory, undo it and call it again.

        undoable: False if writes cannot be detected, as in a captured CUDA graph.
        repeatable: False if other processes take part in the step: they would not repeat it.

        Raises RestoreNeeded if the step cannot be undone, and OutOfMemory if it is not repeatable or runs out of memory
        again.
        """
        failed_with, retry_with = self.failed.get(step, (0, self.elements))
        self.elements = min(self.elements, retry_with)
        snapshot = StepSnapshot(system, device) if undoable else None
        try:
            with tiles_of(self.elements):
                return run_step()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = first_line(error)
        if not repeatable:
            raise OutOfMemory(reason)
        if failed_with:
            raise OutOfMemory(f"with item tiles of {failed_with} entries and of {self.elements}: {reason[:120]}")
        self.failed[step] = self.elements, min(self.elements, max(LEAST_TILE, self.elements // 2))
        gc.collect()  # reference cycles through the traceback keep the tensors of the failed step alive
        if device.type == "cuda":
            torch.cuda.empty_cache()
        for optimiser in system.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        if snapshot is None or not snapshot.restore():
            raise RestoreNeeded
        return self.take(system, device, step, run_step, undoable, repeatable)


def _tensors(system: Stateful) -> dict[str, Tensor]:
    """Every tensor that a step writes, by name: parameters, buffers and optimiser states."""
    tensors = dict(system.state())
    for name, optimiser in system.optimisers.items():
        for index, state in enumerate(optimiser.state.values()):
            tensors |= {f"{name}.{index}.{key}": value for key, value in state.items() if isinstance(value, Tensor)}
    return tensors
