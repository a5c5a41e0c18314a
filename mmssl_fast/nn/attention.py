"""Modality-wise dependency (Eq. 9) as a module."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from mmssl_fast.ops.modality_attention import modality_attention


class ModalityAttention(nn.Module):
    """Eq. 9: multi-head attention between a node's modalities, then the mean over them.

    Equals, with softmax over m' and q, k split into `heads` parts,

        mixed[m] = cat([sum over m' of softmax((e[m] @ wq_h) @ (e[m'] @ wk_h) / sqrt(dim / heads)) * e[m'] for h in
        heads]) (mixed @ wo).mean(0)

    The paper leaves the heads' concatenation of width heads * dim as it is; `wo` brings it back to dim (SPEC: ours to
    choose, the released code does the same). One instance serves users and items: the paper gives both sides one set
    of weights.

    Args:
        dim: width d of the embeddings; a multiple of `heads`.
        heads: H, number of attention heads.

    Raises:
        ValueError: dim is not a positive multiple of heads.
    """

    def __init__(self, *, dim: int, heads: int = 4) -> None:
        super().__init__()
        if heads < 1 or dim < 1 or dim % heads:
            raise ValueError(
                f"ModalityAttention: dim must be a positive multiple of heads, got dim {dim}, heads {heads}"
            )
        self.dim, self.heads = dim, heads
        self.wq = nn.Parameter(torch.empty(dim, dim))  # head h reads columns [h·dim/heads, (h + 1)·dim/heads)
        self.wk = nn.Parameter(torch.empty(dim, dim))
        self.wo = nn.Parameter(torch.empty(heads * dim, dim))
        self.reset_parameters()

    def reset_parameters(self) -> None:
        """Xavier-uniform weights, as the paper's embeddings."""
        for weight in (self.wq, self.wk, self.wo):
            nn.init.xavier_uniform_(weight)

    def forward(self, views: Tensor) -> Tensor:
        """views [M, N, dim], the e^m of Eq. 8, one slice a modality → ē [N, dim]."""
        return modality_attention(views, self.wq, self.wk, self.wo, self.heads)

    def extra_repr(self) -> str:
        return f"dim={self.dim}, heads={self.heads}"
