"""A step that ran out of memory: everything as it was before it, and the step once more with item tiles of half the
size."""

from __future__ import annotations

import gc
from collections.abc import Callable
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from mmssl_fast.tiles import tiles_of

from ..errors import OutOfMemory, is_out_of_memory

if TYPE_CHECKING:
    from ..systems.base import System

SMALL = 1 << 16  # bytes of a tensor that is copied before every step; a larger one is only watched
LEAST_TILE = 1 << 12


class GoBack(Exception):
    """A step ran out of memory after it had written to a large tensor: only an earlier state can undo that."""


class Before:
    """What a step may change, as it was: copies of small tensors, version counters of large ones, torch's generators.

    undo() puts it back.
    """

    def __init__(self, system: System, device: torch.device) -> None:
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
    def undo(self) -> bool:
        """Whether all could be put back; gradients are dropped either way."""
        for optimiser in self.system.optimisers.values():
            optimiser.zero_grad(set_to_none=True)
        now = _tensors(self.system)
        if now.keys() != self.copies.keys() | self.versions.keys():
            return False
        if any((now[name].data_ptr(), now[name]._version) != seen for name, seen in self.versions.items()):
            return False
        for name, tensor in self.copies.items():
            now[name].copy_(tensor)
        torch.set_rng_state(self.generator)
        if self.cuda_generator is not None:
            torch.cuda.set_rng_state(self.cuda_generator, self.device)
        return True


class Tiles:
    """The entries of an item tile through a run, and which steps ran out of memory with them.

    elements: now; failed: of each step that ran out of memory, counted from the run's start, the entries it did with
    and those it is taken with instead, also when it is met again after going back to an earlier state.
    """

    def __init__(self, elements: int) -> None:
        self.elements = elements
        self.failed: dict[int, tuple[int, int]] = {}

    def take(
        self, system: System, device: torch.device, step: int, act: Callable[[], dict[str, Tensor]], undoable: bool
    ) -> dict[str, Tensor]:
        """act(), which is step number `step` of the system; a second time where it runs out of memory.

        Raises GoBack where that is not possible without an earlier state (never the second time, nor where `undoable`
        is false: a recorded step writes unseen), and OutOfMemory the second time.
        """
        first, second = self.failed.get(step, (0, self.elements))
        self.elements = min(self.elements, second)
        before = Before(system, device) if undoable else None
        try:
            with tiles_of(self.elements):
                return act()
        except Exception as error:
            if not is_out_of_memory(error):
                raise
            reason = (str(error).splitlines() or [type(error).__name__])[0]
        if first:
            raise OutOfMemory(f"with item tiles of {first} entries and of {self.elements}: {reason[:120]}")
        self.failed[step] = self.elements, min(self.elements, max(LEAST_TILE, self.elements // 2))
        gc.collect()  # what the failed step held, in cycles through its traceback
        if device.type == "cuda":
            torch.cuda.empty_cache()
        if before is None or not before.undo():
            raise GoBack
        return self.take(system, device, step, act, undoable)


def _tensors(system: System) -> dict[str, Tensor]:
    """Every tensor a step writes, by name: parameters, buffers and the optimisers' own."""
    found = dict(system.state())
    for name, optimiser in system.optimisers.items():
        for at, state in enumerate(optimiser.state.values()):
            found |= {f"{name}.{at}.{key}": one for key, one in state.items() if isinstance(one, Tensor)}
    return found
