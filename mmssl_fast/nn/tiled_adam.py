"""Adam for the weight of a first layer, which forms and applies the gradient in tiles of items."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.adam import adam

from mmssl_fast.ops.philox import philox_bits
from mmssl_fast.precision import work_dtype
from mmssl_fast.reference import STREAM_ROUNDING, STREAM_WEIGHT
from mmssl_fast.relation.algebra.pending_gradient import PendingGradient
from mmssl_fast.tiles import item_tiles, tile_elements

MOMENTS = (torch.bfloat16, torch.float32, torch.float64)
_NAMES = ("exp_avg", "exp_avg_sq")
UPDATED_AT_ONCE = 1 << 17  # entries that are rounded at once, so that all passes over them stay in a core's cache


class TiledAdam(torch.optim.Optimizer):
    """Equals ``torch.optim.Adam([weight], lr, betas, eps)`` with ``weight.grad = pending.dense()``, to rounding.

    Adam (Kingma and Ba, ICLR 2015) stores the weight, its gradient and two moments. TiledAdam does not store the
    gradient.

    With moments=torch.bfloat16, the moments take half the memory. bfloat16 has 8 significant bits. If the moments were
    rounded to nearest, a change of less than half a unit in the last place would be lost: with beta2 = 0.999 the second
    moment would never decay, and with beta1 = 0.9 the first moment would remain up to 4% too small. They are therefore
    rounded stochastically, so that their expected value is exact. The rounding adds noise, at beta2 = 0.999 about 5% of
    the second moment of an entry; the randomness of the gradients themselves causes about 3%. The random bits are
    counter-based (Philox with key `seed` and counter (entry, item, step)), so that they depend neither on the tiling
    nor on resuming.

    A weight in bfloat16 is updated in float32 and rounded stochastically as well, with bits of its own: an update of
    less than half a unit in the last place is not lost, but made with the probability that its size says. After n
    steps, the rounding has added noise of about sqrt(n) / 2 units in the last place to an entry.

    Args:
        weight: [H, I] float32, float64 or bfloat16 parameter, preferably item-major (``weight.mT`` contiguous).
        lr, betas, eps: as for torch.optim.Adam.
        moments: dtype of the moments: torch.bfloat16, torch.float32 or torch.float64. None is the dtype of the weight.
        tile: number of gradient entries that are formed at once. None is tiles.tile_elements() at each step.
        seed: 64-bit integer, key of the stochastic rounding.
        first_item: number of the item of the first column, if the weight has the columns of some items only.

    Raises:
        ValueError: lr or a beta is out of range, or moments is another dtype. float16 is not supported, because second
            moments underflow in it.

    Example:
        >>> from mmssl_fast.nn import TiledAdam
        >>> from mmssl_fast.relation.algebra.pending_gradient import pending_gradient
        >>> rows = RelationRows.generated(torch.randn(2, 8), torch.randn(5, 8))
        >>> weight, reference = (torch.nn.Parameter(torch.ones(4, 5)) for _ in range(2))
        >>> optimizer = TiledAdam(weight, lr=0.1)
        >>> with pending_gradient(weight) as pending:
        ...     rows.linear(weight).square().sum().backward()
        >>> optimizer.step(pending)
        >>> adam = torch.optim.Adam([reference], lr=0.1)
        >>> F.linear(rows.dense(), reference).square().sum().backward()
        >>> adam.step()
        >>> torch.allclose(weight, reference, atol=1e-4)
        True
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
        first_item: int = 0,
    ) -> None:
        if not lr > 0 or not all(0 <= beta < 1 for beta in betas):
            raise ValueError(f"TiledAdam: lr must be positive and betas in [0, 1), got {lr} and {betas}")
        moments = moments or weight.dtype
        if moments not in MOMENTS:
            raise ValueError(f"TiledAdam: moments must be bfloat16, float32 or float64, got {moments}")
        super().__init__([weight], {"lr": lr, "betas": tuple(betas), "eps": eps})
        self._moments, self._tile, self._seed, self._first_item = moments, tile, seed, first_item

    @torch.no_grad()
    def step(self, pending: PendingGradient) -> None:  # type: ignore[override]  # the gradient is not in weight.grad
        """Updates the weight with its pending gradient. Does nothing if the gradient has no pieces.

        Raises:
            ValueError: the gradient belongs to another weight.
        """
        (group,) = self.param_groups
        (weight,) = group["params"]
        if pending.weight.data_ptr() != weight.data_ptr():
            raise ValueError("TiledAdam.step: the pending gradient is of another weight")
        if not len(pending):
            return
        state = self.state[weight]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            for name in _NAMES:
                state[name] = torch.zeros_like(weight, dtype=self._moments, memory_format=torch.preserve_format)
        width = max(1, (self._tile or tile_elements()) // max(1, weight.shape[0]))
        tiles = item_tiles(1, weight.shape[1], width)
        longest = max((end - begin for begin, end in tiles), default=0)
        scratch = weight.new_empty(longest, weight.shape[0], dtype=work_dtype(weight.dtype))
        for begin, end in tiles:
            gradient = pending.tile(begin, end, scratch[: end - begin])
            narrow = torch.bfloat16 in (weight.dtype, self._moments)
            rows = max(1, UPDATED_AT_ONCE // max(1, weight.shape[0])) if narrow else end - begin
            for part in gradient.split(rows):
                self._update(weight, state, part, slice(begin, begin + len(part)), group)
                begin += len(part)
        state["step"] += 1

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Like torch.optim.Optimizer.load_state_dict, but the moments are converted to the dtype of this optimizer, and
        not to that of the weight."""
        super().load_state_dict(state_dict)
        for saved, state in zip(state_dict["state"].values(), self.state.values(), strict=True):
            for name in _NAMES:
                state[name] = saved[name].to(state[name].device, self._moments)

    def _update(self, weight: Tensor, state: dict[str, Any], grad: Tensor, items: slice, group: dict[str, Any]) -> None:
        stored = [weight.detach().mT[items], *(state[name].mT[items] for name in _NAMES)]
        wide = [x.to(grad.dtype) for x in stored]  # no copy if the dtypes are equal
        adam(
            [wide[0]],
            [grad],
            [wide[1]],
            [wide[2]],
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
            fused=weight.dtype == torch.bfloat16,  # one pass instead of eight; rounds differently
        )
        rows = torch.arange(items.start, items.stop, device=weight.device) + self._first_item
        counter = self._seed, int(state["step"]), rows, weight.shape[0]
        if self._moments == torch.bfloat16:
            words = philox_bits(*counter, STREAM_ROUNDING).to(torch.int32)
            wide[1] = _stochastically_rounded(wide[1], words & 0xFFFF)
            wide[2] = _stochastically_rounded(wide[2], (words >> 16) & 0xFFFF)
        if weight.dtype == torch.bfloat16:
            wide[0] = _stochastically_rounded(wide[0], philox_bits(*counter, STREAM_WEIGHT).to(torch.int32) & 0xFFFF)
        for x, updated in zip(stored, wide, strict=True):
            if x.dtype != updated.dtype:
                x.copy_(updated)


def _stochastically_rounded(x: Tensor, bits: Tensor) -> Tensor:
    """x rounded to bfloat16 precision, as float32. It is rounded up with a probability equal to its last 16 bits
    divided by 2¹⁶, and down otherwise. bits: 16 random bits per entry. Adding them carries into bit 16 with this
    probability."""
    x = x.to(torch.float32)
    rounded = (x.view(torch.int32) + bits.to(torch.int32)).bitwise_and_(-0x10000).view(torch.float32)
    return torch.where(x.isnan(), x, rounded)  # the bits of a NaN may overflow, those of an infinity stay
