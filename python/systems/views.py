"""Views of the graph with random edge dropout, which SGL and MMGCL contrast."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, distributed

from .base import ModuleSystem, Recommender

DRAWN_FROM = "drawn_from"


class ThinnedViews(Recommender):
    """Mix-in for a Recommender that contrasts views of the graph with random edge dropout, resampled every epoch.

    Of the views, only the state of torch's generator before they were drawn is part of the state; a resumed run draws
    them again. With groups of ranks, each draws all numbers and keeps those for the edges of its group's users.
    """

    drawn_from: Tensor

    def draw_views(self, count: int, drop: float) -> None:
        """Create `count` views. Call it after Recommender.__init__. The views have all edges until the first epoch."""
        self.count, self.drop = count, drop
        self.register_buffer(DRAWN_FROM, torch.zeros_like(torch.get_rng_state()))
        self._views: list[InteractionGraph] = []
        self.register_load_state_dict_post_hook(lambda module, _: module._views.clear())

    def start_epoch(self, epoch: int) -> None:
        self._views.clear()  # not two sets of views at once
        self.drawn_from.copy_(torch.get_rng_state())
        self._views += self._drawn()

    def views(self) -> list[InteractionGraph]:
        """The graphs of this epoch."""
        if not self.drawn_from.any():
            return [self.graph] * self.count
        if not self._views:
            with torch.random.fork_rng(devices=[]):
                torch.set_rng_state(self.drawn_from.cpu())
                self._views += self._drawn()
        return self._views

    def _drawn(self) -> list[InteractionGraph]:
        first, last = distributed.own_edges(self.graph)
        views = []
        for _ in range(self.count):
            distributed.skip_uniform(first)
            kept = torch.rand(last - first) >= self.drop  # on the CPU, so that every device gets the same views
            distributed.skip_uniform(self.graph.nnz - last)
            views.append(distributed.thinned(self.graph, kept))
        return views


class ThinnedSystem(ModuleSystem):
    """A System whose model has such views. Only checkpoints contain what they are drawn from, models do not."""

    def parameters(self) -> dict[str, Tensor]:
        return {name: tensor for name, tensor in self.state().items() if name != DRAWN_FROM}

    def state(self) -> dict[str, Tensor]:
        return super().parameters()

    def load_parameters(self, tensors: dict[str, Tensor]) -> None:
        """Models of development versions contain the masks of the views, "kept", which nothing reads."""
        tensors = {name: tensor for name, tensor in tensors.items() if name != "kept"}
        super().load_parameters({DRAWN_FROM: self.state()[DRAWN_FROM], **tensors})
