"""The discriminator of relation rows (Eq. 4), which accepts RelationRows as well as matrices."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from mmssl_fast.distributed import ONE, Ranks, kaiming_normal_columns, relation_linear, skip_uniform
from mmssl_fast.ops.act_norm_dropout import act_norm_dropout
from mmssl_fast.relation import RelationRows

MAX_HIDDEN = 512


def _none(width: int) -> nn.Module:
    return nn.Identity()


NORMS: dict[str, Callable[[int], nn.Module]] = {"batch": nn.BatchNorm1d, "layer": nn.LayerNorm, "none": _none}


class ItemMajorLinear(nn.Linear):
    """Equals ``nn.Linear(n_items, hidden)``, with a weight that is item-major in memory.

    `weight` is an [H, I] parameter whose transpose is contiguous. The sparse corrections of relation rows read columns
    W[:, i], which are then contiguous. Copying, moving and loading the module preserve this layout. With several ranks,
    the module has this rank's columns, and its values are set by `kaiming_normal_`.
    """

    weight: nn.Parameter  # nn.Linear declares a Tensor

    def __init__(self, n_items: int, hidden: int, ranks: Ranks = ONE) -> None:
        super().__init__(n_items, hidden, device="meta" if ranks.size > 1 else None)
        self.ranks = ranks
        if ranks.size > 1:
            skip_uniform(n_items * hidden + hidden)  # what nn.Linear draws, so that the generator stays the same
            first, last = ranks.span(n_items)
            self.weight = nn.Parameter(torch.empty(last - first, hidden).mT)
            self.bias = nn.Parameter(torch.empty(hidden))
        self._to_item_major()
        self.register_load_state_dict_post_hook(_restore_layout)

    def kaiming_normal_(self) -> None:
        """Initialises the weight Kaiming-normally for the items of all ranks."""
        if self.ranks.size == 1:
            nn.init.kaiming_normal_(self.weight)
            return
        with torch.no_grad():
            self.weight.copy_(kaiming_normal_columns(self.out_features, self.in_features, self.ranks))

    def _to_item_major(self) -> None:
        """Changes the layout of the weight. Needed after construction and after load_state_dict(assign=True)."""
        if not self.weight.mT.is_contiguous():
            self.weight = nn.Parameter(self.weight.detach().mT.contiguous().mT, self.weight.requires_grad)

    def forward(self, rows: Tensor | RelationRows) -> Tensor:
        """F.linear(rows, weight, bias) [B, H] for a [B, I] tensor or RelationRows."""
        if not isinstance(rows, Tensor):
            return rows.linear(self.weight, self.bias)
        if self.weight.dtype == self.bias.dtype:
            return F.linear(rows, self.weight, self.bias)
        return RelationRows.from_dense(rows).linear(self.weight, self.bias)


def _restore_layout(module: ItemMajorLinear, _: object) -> None:
    module._to_item_major()


class Discriminator(nn.Module):
    """Equals ``scale * sigmoid(Linear(Γ(Γ(rows))))`` with ``Γ(x) = Dropout(BatchNorm1d(LeakyReLU(Linear(x))))``.

    Equation 4 of MMSSL (WWW 2023). `first` is the first Linear, which accepts RelationRows without forming them, and
    `head` is everything after it. The weights are initialized Kaiming-normally and the biases with zero. The dropout
    masks are counter-based, with seeds drawn from torch's random generator of the device.

    Args:
        n_items: number of items I.
        hidden: widths of the two hidden layers. None is (min(I // 4, 512), half of the first). The released code has
            (I // 4, I // 8).
        dropout: dropout rates after the two hidden layers.
        negative_slope: negative slope of LeakyReLU. 1 makes it the identity, which is the effect of the released code.
        scale: factor of the sigmoid: 1 in equation 4, 100 in the released code.
        norm: "batch" is BatchNorm1d, as in equation 4. "layer" is LayerNorm, "none" no normalisation; then the rows of
            a call do not depend on each other, and the dropout masks are torch's. The authors of WGAN-GP
            (arXiv:1704.00028) advise against batch normalisation, because the gradient penalty is meant for each row.
        sigmoid: False leaves it out, so that the scores are unbounded, as in WGAN-GP.
        weight_dtype: torch.bfloat16 stores the first weight in half the memory; TiledAdam trains it. It is multiplied
            in float32, or as `gemm` says. None is the dtype of the other parameters. It needs a single process.
        gemm: torch.bfloat16 rounds the operands of the matrix products in the two hidden layers and in the gradient
            penalty, forward and backward (docs/precision.md has the errors). The weights keep their dtype. None follows
            torch.autocast.
        ranks: the processes. Each has the columns of its items in the first weight, and rows have these columns; the
            first Linear adds the products of all ranks. All other parameters are the same on every rank.

    Raises:
        ValueError: n_items or a width is below 1, a dropout rate lies outside [0, 1), norm is unknown, or weight_dtype
            is given and is not bfloat16, or there are several processes.

    Example:
        >>> from mmssl_fast.nn import Discriminator
        >>> discriminator = Discriminator(n_items=40, hidden=(8, 4)).eval()
        >>> rows = RelationRows.generated(torch.randn(3, 6), torch.randn(40, 6))
        >>> discriminator(rows).shape
        torch.Size([3])
        >>> torch.allclose(discriminator(rows), discriminator(rows.dense()), atol=1e-5)
        True
    """

    def __init__(
        self,
        n_items: int,
        *,
        hidden: tuple[int, int] | None = None,
        dropout: tuple[float, float] = (0.31, 0.5),
        negative_slope: float = 0.2,
        scale: float = 1.0,
        norm: str = "batch",
        sigmoid: bool = True,
        weight_dtype: torch.dtype | None = None,
        gemm: torch.dtype | None = None,
        ranks: Ranks = ONE,
    ) -> None:
        super().__init__()
        first, second = hidden_widths(n_items) if hidden is None else hidden
        if min(n_items, first, second) < 1:
            raise ValueError(f"Discriminator: n_items and hidden must be positive, got {n_items} and {(first, second)}")
        if not all(0 <= rate < 1 for rate in dropout):
            raise ValueError(f"Discriminator: dropout must lie in [0, 1), got {dropout}")
        if norm not in NORMS:
            raise ValueError(f"Discriminator: norm must be one of {', '.join(NORMS)}, got {norm!r}")
        if weight_dtype not in (None, torch.bfloat16):
            raise ValueError(f"Discriminator: weight_dtype must be None or torch.bfloat16, got {weight_dtype}")
        if weight_dtype is not None and ranks.size > 1:
            raise ValueError(f"Discriminator: weight_dtype needs a single process, got {ranks.size} ranks")
        self.n_items, self.hidden, self.scale, self.gemm = n_items, (first, second), scale, gemm
        self.norm, self.sigmoid = norm, sigmoid
        self.linear = ItemMajorLinear(n_items, first, ranks)
        self.head_layers = nn.Sequential(
            nn.LeakyReLU(negative_slope),
            NORMS[norm](first),
            nn.Dropout(dropout[0]),
            nn.Linear(first, second),
            nn.LeakyReLU(negative_slope),
            NORMS[norm](second),
            nn.Dropout(dropout[1]),
            nn.Linear(second, 1),
            nn.Sigmoid() if sigmoid else nn.Identity(),
        )
        self.ranks = ranks
        self.reset_parameters()
        if weight_dtype is not None:
            self.linear.weight = nn.Parameter(self.linear.weight.detach().to(weight_dtype))

    def reset_parameters(self) -> None:
        """Initialises the weights Kaiming-normally and the biases with zero."""
        for module in self.modules():
            if isinstance(module, ItemMajorLinear):
                module.kaiming_normal_()
            elif isinstance(module, nn.Linear):
                nn.init.kaiming_normal_(module.weight)
            if isinstance(module, nn.Linear):
                nn.init.zeros_(module.bias)

    def forward(self, rows: Tensor | RelationRows) -> Tensor:
        """The scores [B], each in (0, scale) with the sigmoid, of rows given as a [B, I] tensor or RelationRows."""
        return self.head(self.first(rows))

    def products(self) -> AbstractContextManager[Any]:
        """A context with autocast to `gemm`, for products with the weights outside of this class (the penalty)."""
        return nullcontext() if self.gemm is None else torch.autocast(self.linear.weight.device.type, self.gemm)

    def first(self, rows: Tensor | RelationRows) -> Tensor:
        """The first Linear: z [B, H] in the dtype of the bias, from a [B, I] tensor or RelationRows."""
        with self.products():
            if self.ranks.size > 1:
                return relation_linear(rows, self.linear.weight, self.ranks, self.linear.bias)
            return self.linear(rows).to(self.linear.bias.dtype)

    def head(self, z: Tensor) -> Tensor:
        """The layers after the first Linear: scores [B] from z [B, H]. In training mode, BatchNorm makes the rows of a
        call depend on each other."""
        layers: list[Any] = list(self.head_layers)
        act, norm, drop, linear, second_act, second_norm, second_drop, *last = layers
        dtype = self.linear.bias.dtype  # the first weight may be stored in bfloat16
        z = _hidden(z, act, norm, drop, dtype)
        with self.products():
            z = linear(z)
        z = _hidden(z, second_act, second_norm, second_drop, dtype)
        with torch.autocast(z.device.type, enabled=False):  # a product with one column gains nothing from rounding
            for layer in last:
                z = layer(z)
        return self.scale * z.squeeze(1)

    @contextmanager
    def frozen(self) -> Iterator[None]:
        """A context in which no parameter requires a gradient, so that a generator step does not compute dW."""
        required = [parameter.requires_grad for parameter in self.parameters()]
        self.requires_grad_(False)
        try:
            yield
        finally:
            for parameter, requires_grad in zip(self.parameters(), required, strict=True):
                parameter.requires_grad_(requires_grad)

    def extra_repr(self) -> str:
        options = f"norm={self.norm!r}, sigmoid={self.sigmoid}"
        return f"n_items={self.n_items}, hidden={self.hidden}, scale={self.scale}, {options}"


def _hidden(z: Tensor, act: nn.LeakyReLU, norm: nn.Module, drop: nn.Dropout, dtype: torch.dtype) -> Tensor:
    """Equals ``drop(norm(act(z)))`` in `dtype`. Batch normalisation in training mode is computed by
    act_norm_dropout."""
    z = z.to(dtype)
    if not (isinstance(norm, nn.BatchNorm1d) and norm.training and drop.training):
        return drop(norm(act(z)))
    seed_offset = torch.randint(2**32, (2,), device=z.device)
    y, mean, variance = act_norm_dropout(z, norm.weight, norm.bias, drop.p, seed_offset, act.negative_slope, norm.eps)
    rows = z.shape[0]
    with torch.no_grad():
        tracked: Any = norm  # Any, because running statistics and momentum are Optional in torch, but set here
        tracked.num_batches_tracked.add_(1)
        tracked.running_mean.lerp_(mean.to(tracked.running_mean.dtype), tracked.momentum)
        tracked.running_var.lerp_((variance * (rows / (rows - 1))).to(tracked.running_var.dtype), tracked.momentum)
    return y


def hidden_widths(n_items: int) -> tuple[int, int]:
    """The default widths: (min(I // 4, 512), half of the first), at least 1."""
    first = max(1, min(n_items // 4, MAX_HIDDEN))
    return first, max(1, first // 2)
