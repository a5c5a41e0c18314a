"""The attention between modalities (Eq. 9) as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmssl_fast.ops.modality_attention import modality_attention


class ModalityAttention(nn.Module):
    """Equals ``modality_attention(views, wq, wk, wo, heads)`` with trainable weights: multi-head attention between the
    modalities of a node, averaged over the modalities.

    Equation 9 of MMSSL (WWW 2023). The paper concatenates the heads, which gives width heads · dim. The weight `wo`
    projects it back to dim, as in the released code. The paper has one set of weights for users and items, so one
    instance is used for both.

    Args:
        dim: width d of the embeddings, a multiple of `heads`.
        heads: number of attention heads H.

    Raises:
        ValueError: dim is not a positive multiple of heads.

    Example:
        >>> from mmssl_fast.nn import ModalityAttention
        >>> attention = ModalityAttention(dim=8, heads=4)
        >>> views = torch.randn(3, 5, 8)  # 3 modalities, 5 nodes
        >>> attention(views).shape
        torch.Size([5, 8])
    """

    def __init__(self, *, dim: int, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(
                f"ModalityAttention: dim must be a positive multiple of heads, got dim {dim}, heads {heads}"
            )
        self.dim, self.heads = dim, heads
        self.wq = nn.Parameter(torch.empty(dim, dim))  # head h has the columns [h·dim/heads, (h + 1)·dim/heads)
        self.wk = nn.Parameter(torch.empty(dim, dim))
        self.wo = nn.Parameter(torch.empty(heads * dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Initialises the weights Xavier-uniformly, like the embeddings in the paper."""
        for weight in (self.wq, self.wk, self.wo):
            nn.init.xavier_uniform_(weight)

    def forward(self, views: Tensor) -> Tensor:
        """The fused embeddings ē [N, dim] of the modality embeddings e^m of Eq. 8, views [M, N, dim]."""
        return modality_attention(views, self.wq, self.wk, self.wo, self.heads)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}"
