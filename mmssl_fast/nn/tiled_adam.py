"""Adam for a first layer whose gradient never exists as a whole: it is formed and applied a tile of items at a time."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from mmssl_fast.ops.philox import philox_bits
from mmssl_fast.reference import STREAM_ROUNDING
from mmssl_fast.relation.algebra.pending_gradient import PendingGradient
from mmssl_fast.tiles import item_tiles, tile_elements

MOMENTS = (torch.bfloat16, torch.float32, torch.float64)


class TiledAdam(torch.optim.Optimizer):
    """Equals ``torch.optim.Adam([weight], lr, betas, eps)`` with ``weight.grad = pending.dense()``, to rounding.

    ::

        with pending_gradient(weight) as pending:
            loss.backward()
        optimiser.step(pending)

    holds W and two moments where Adam holds W, its gradient and two moments.

    With moments=torch.bfloat16 the moments take half the memory, 8 bits of each. Rounded to the nearest, a moment stops
    as soon as a step changes it by less than half a unit of its last bit: at beta2 = 0.999 the second one never decays,
    at beta1 = 0.9 the first one stays up to 4% short. So they are rounded up or down at random, by the distance to
    either (Philox with key `seed` and counter (entry, item, step): the same for any tiling, and after resuming). The
    expected value is the exact one at any beta; what is left is noise, at beta2 = 0.999 about 5% of an entry's second
    moment. Drawn at random, the gradients themselves leave 3% there. Kingma and Ba ("Adam", ICLR 2015) do not round.

    Args:
        weight: [H, I] float32 or float64 parameter, best item-major (``weight.mT`` contiguous).
        lr, betas, eps: as torch.optim.Adam's.
        moments: dtype of the moments, torch.bfloat16, torch.float32 or torch.float64; None for the weight's.
        tile: entries of the gradient formed at once; None: item_tiles.tile_elements() at each step.
        seed: key of the random rounding of bfloat16 moments, a 64-bit integer.

    Raises:
        ValueError: a rate or beta out of range, or moments of another dtype. float16 is refused, since second moments
            fall below its range.
    """

    def __init__(
        self,
        weight: nn.Parameter,
        lr: float = 1e-3,
        betas: tuple[float, float] = (0.9, 0.999),
        eps: float = 1e-8,
        moments: torch.dtype | None = None,
        tile: int | None = None,
        seed: int = 0,
    ) -> None:
        if not lr > 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"TiledAdam: lr must be positive and betas in [0, 1), got {lr} and {betas}")
        moments = moments or weight.dtype
        if moments not in MOMENTS:
            raise ValueError(f"TiledAdam: moments must be bfloat16, float32 or float64, got {moments}")
        super().__init__([weight], {"lr": lr, "betas": tuple(betas), "eps": eps})
        self._moments, self._tile, self._seed = moments, tile, seed

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
        stored = [state[name].mT[items] for name in ("exp_avg", "exp_avg_sq")]
        wide = [moment.to(grad.dtype) for moment in stored]  # the same tensors where the dtypes agree
        adam(
            [weight.detach().mT[items]],
            [grad],
            [wide[0]],
            [wide[1]],
            [],
            [state["step"].clone()],
            amsgrad=False,
            beta1=group["betas"][0],
            beta2=group["betas"][1],
            lr=group["lr"],
            weight_decay=0.0,
            eps=group["eps"],
            maximize=False,
            foreach=False,
        )
        if self._moments == torch.bfloat16 and grad.dtype != torch.bfloat16:
            rows = torch.arange(items.start, items.stop, device=weight.device)
            words = philox_bits(self._seed, int(state["step"]), rows, weight.shape[0], STREAM_ROUNDING)
            wide = [_rounded_at_random(wide[0], words & 0xFFFF), _rounded_at_random(wide[1], words >> 16)]
        for moment, updated in zip(stored, wide, strict=True):
            if moment.dtype != updated.dtype:
                moment.copy_(updated)


def _rounded_at_random(x: Tensor, bits: Tensor) -> Tensor:
    """x in float32 with its last 16 bits zero, so that it fits bfloat16: rounded up with a probability that is those
    bits' share of the next, down otherwise. bits: 16 random bits an entry."""
    x = x.to(torch.float32)
    rounded = (x.view(torch.int32) + bits.to(torch.int32)) & -0x10000
    return torch.where(x.isfinite(), rounded.view(torch.float32), x)
