"""The relation discriminator (Eq. 4), taking rows that are never a matrix."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast.ops.act_norm_dropout import act_norm_dropout

if TYPE_CHECKING:
    from mmssl_fast.relation.rows import RelationRows

MAX_HIDDEN = 512


class ItemMajorLinear(nn.Linear):
    """nn.Linear over rows of I items whose weight lies item-major in memory.

    `weight` is an ordinary [H, I] parameter, the transpose of an I x H contiguous block: W[:, i], which is what the
    sparse corrections of a relation row read, is one contiguous run. Copying, moving and loading keep that order.
    """

    def __init__(self, n_items: int, hidden: int) -> None:
        super().__init__(n_items, hidden)
        self._to_item_major()
        self.register_load_state_dict_post_hook(_restore_order)

    def _to_item_major(self) -> None:
        """Put the weight item-major; needed after construction and after load_state_dict(assign=True)."""
        if not self.weight.mT.is_contiguous():
            self.weight = nn.Parameter(self.weight.detach().mT.contiguous().mT, self.weight.requires_grad)

    def forward(self, rows: Tensor | RelationRows) -> Tensor:
        """F.linear(rows, weight, bias) for a dense [B, I] tensor or RelationRows → [B, H]."""
        if isinstance(rows, Tensor):
            return F.linear(rows, self.weight, self.bias)
        return rows.linear(self.weight, self.bias)


def _restore_order(module: ItemMajorLinear, _: object) -> None:
    module._to_item_major()


class Discriminator(nn.Module):
    """Eq. 4: D(a) = sigmoid(Linear(Γ(Γ(a)))), Γ(a) = Dropout(BatchNorm(LeakyReLU(Linear(a)))), a a row over I items.

    Split where the first Linear ends: `discriminator.first(rows)` gives z [B, H] without forming rows,
    `discriminator.head(z)` is everything above it. `forward` is the two together. Weights are Kaiming-normal, biases
    zero. Dropout's masks are counter-based, their seeds drawn from torch's generator of the device.

    Args:
        n_items: I.
        hidden: widths of the two hidden layers; None: (min(I // 4, 512), half of it). The released code has
            (I // 4, I // 8).
        dropout: rates after the two hidden layers.
        negative_slope: of LeakyReLU (1 makes it the identity, which is what the released code amounts to).
        scale: multiplies the sigmoid; 1 is Eq. 4, the released code has 100.
        gemm: torch.bfloat16 rounds the operands of the two hidden Linears and of the penalty, forward and backward, to
            bfloat16 (docs/precision.md states what that costs). Weights and everything between stay as they are. None:
            as torch.autocast says.

    Raises:
        ValueError: n_items or a width below 1, or a dropout rate outside [0, 1).
    """

    def __init__(
        self,
        n_items: int,
        *,
        hidden: tuple[int, int] | None = None,
        dropout: tuple[float, float] = (0.31, 0.5),
        negative_slope: float = 0.2,
        scale: float = 1.0,
        gemm: torch.dtype | None = None,
    ) -> None:
        super().__init__()
        first, second = hidden_widths(n_items) if hidden is None else hidden
        if min(n_items, first, second) < 1:
            raise ValueError(f"Discriminator: n_items and hidden must be positive, got {n_items} and {(first, second)}")
        if not all(0 <= rate < 1 for rate in dropout):
            raise ValueError(f"Discriminator: dropout must lie in [0, 1), got {dropout}")
        self.n_items, self.hidden, self.scale, self.gemm = n_items, (first, second), scale, gemm
        self.linear = ItemMajorLinear(n_items, first)
        self.head_layers = nn.Sequential(
            nn.LeakyReLU(negative_slope),
            nn.BatchNorm1d(first),
            nn.Dropout(dropout[0]),
            nn.Linear(first, second),
            nn.LeakyReLU(negative_slope),
            nn.BatchNorm1d(second),
            nn.Dropout(dropout[1]),
            nn.Linear(second, 1),
            nn.Sigmoid(),
        )
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Kaiming-normal weights, zero biases."""
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
                nn.init.zeros_(module.bias)

    def forward(self, rows: Tensor | RelationRows) -> Tensor:
        """rows: dense [B, I] or RelationRows → D [B], each in (0, scale)."""
        return self.head(self.first(rows))

    def products(self) -> AbstractContextManager[Any]:
        """Within it torch.autocast is as `gemm` has it: around a product with W that is made outside."""
        return nullcontext() if self.gemm is None else torch.autocast(self.linear.weight.device.type, self.gemm)

    def first(self, rows: Tensor | RelationRows) -> Tensor:
        """The first Linear: rows, dense [B, I] or RelationRows → z [B, H] in the weight's dtype."""
        with self.products():
            return self.linear(rows).to(self.linear.weight.dtype)

    def head(self, z: Tensor) -> Tensor:
        """Everything above the first Linear: z [B, H] → D [B]. In training BatchNorm couples the rows of one call."""
        layers: list[Any] = list(self.head_layers)
        act, norm, drop, linear, second_act, second_norm, second_drop, *last = layers
        z = _hidden(z, act, norm, drop)
        with self.products():
            z = linear(z)
        z = _hidden(z, second_act, second_norm, second_drop)
        with torch.autocast(z.device.type, enabled=False):  # a product with one column
            for layer in last:
                z = layer(z)
        return self.scale * z.squeeze(1)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """Inside, no parameter asks for a gradient: the generator's step then computes none for W."""
        asked = [parameter.requires_grad for parameter in self.parameters()]
        self.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, ask in zip(self.parameters(), asked, strict=True):
                parameter.requires_grad_(ask)

    def extra_repr(self) -> str:
        return f"n_items={self.n_items}, hidden={self.hidden}, scale={self.scale}"


def _hidden(z: Tensor, act: nn.LeakyReLU, norm: nn.BatchNorm1d, drop: nn.Dropout) -> Tensor:
    """``drop(norm(act(z)))`` in norm's dtype, in training by act_norm_dropout."""
    z = z.to(norm.weight.dtype)
    if not (norm.training and drop.training):
        return drop(norm(act(z)))
    seed_offset = torch.randint(2**32, (2,), device=z.device)
    y, mean, variance = act_norm_dropout(z, norm.weight, norm.bias, drop.p, seed_offset, act.negative_slope, norm.eps)
    rows = z.shape[0]
    with torch.no_grad():
        tracked: Any = norm  # running statistics and a momentum: this module's BatchNorm has both
        tracked.num_batches_tracked.add_(1)
        tracked.running_mean.lerp_(mean.to(tracked.running_mean.dtype), tracked.momentum)
        tracked.running_var.lerp_((variance * (rows / (rows - 1))).to(tracked.running_var.dtype), tracked.momentum)
    return y


def hidden_widths(n_items: int) -> tuple[int, int]:
    """Default widths: (min(I // 4, 512), half of it), at least 1."""
    first = max(1, min(n_items // 4, MAX_HIDDEN))
    return first, max(1, first // 2)
