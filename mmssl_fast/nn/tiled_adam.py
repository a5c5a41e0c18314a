"""Adam for a first layer whose gradient is never held: formed and applied a tile of items at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from mmssl_fast.relation.algebra.pending_gradient import PendingGradient
from mmssl_fast.tiles import item_tiles, tile_elements


class TiledAdam(torch.optim.Optimizer):
    """Equals ``torch.optim.Adam([weight], lr, betas, eps)`` with ``weight.grad = pending.dense()``, to rounding.

    ::

        with pending_gradient(weight) as pending:
            loss.backward()
        optimiser.step(pending)

    holds W and two moments where Adam holds W, its gradient and two moments; with moments=torch.bfloat16 they take half
    of theirs (Kingma and Ba: "Adam", ICLR 2015, has no such rounding: a departure from it, 8 bits of each moment).

    Args:
        weight: [H, I] float32 or float64 parameter, best item-major (``weight.mT`` contiguous).
        lr, betas, eps: as torch.optim.Adam's.
        moments: dtype of the moments; None for the weight's.
        tile: entries of the gradient formed at once; None: item_tiles.tile_elements() at each step.

    Raises:
        ValueError: a rate or beta out of range, or a moments dtype that is not floating.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        moments: torch.dtype | None = None,
        tile: int | None = None,
    ) -> None:
        if not lr > 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"TiledAdam: lr must be positive and betas in [0, 1), got {lr} and {betas}")
        moments = moments or weight.dtype
        if not moments.is_floating_point:
            raise ValueError(f"TiledAdam: moments must be of a floating dtype, got {moments}")
        super().__init__([weight], {"lr": lr, "betas": tuple(betas), "eps": eps})
        self._moments, self._tile = moments, tile

    @torch.no_grad()
    def step(self, pending: PendingGradient) -> None:
        """One update from the pending gradient of this optimiser's weight; nothing when no piece came in."""
        (group,) = self.param_groups
        (weight,) = group["params"]
        if pending.weight.data_ptr() != weight.data_ptr():
            raise ValueError("TiledAdam.step: the pending gradient is of another weight")
        if not len(pending):
            return
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = torch.zeros_like(weight, dtype=self._moments, memory_format=torch.preserve_format)
        width = max(1, (self._tile or tile_elements()) // max(1, weight.shape[0]))
        tiles = item_tiles(1, weight.shape[1], width)
        scratch = weight.new_empty(max((end - begin for begin, end in tiles), default=0), weight.shape[0])
        for begin, end in tiles:
            gradient = pending.tile(begin, end, scratch[: end - begin])
            self._update(weight, state, gradient, slice(begin, end), group)
        state["step"] += 1

    def load_state_dict(self, state_dict: dict) -> None:
        """As torch's; the moments keep the dtype this optimiser was made for."""
        super().load_state_dict(state_dict)
        for state in self.state.values():
            for name in ("exp_avg", "exp_avg_sq"):
                state[name] = state[name].to(self._moments)

    def _update(self, weight: Tensor, state: dict, grad: Tensor, items: slice, group: dict) -> None:
        held = [state[name].mT[items] for name in ("exp_avg", "exp_avg_sq")]
        wide = [moment.to(grad.dtype) for moment in held]  # the moments themselves where the dtype is theirs
        adam(
            [weight.detach().mT[items]], [grad], [wide[0]], [wide[1]], [], [state["step"].clone()],
            amsgrad=False, beta1=group["betas"][0], beta2=group["betas"][1], lr=group["lr"], weight_decay=0.0,
            eps=group["eps"], maximize=False, foreach=False,
        )  # fmt: skip
        for moment, updated in zip(held, wide, strict=True):
            if moment.dtype != updated.dtype:
                moment.copy_(updated)
