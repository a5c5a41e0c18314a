"""The ops the trainer calls, from one place."""

from mmssl_fast.graph import InteractionGraph
from mmssl_fast.reference import bpr_loss, cosine_topk, lightgcn, sample_bpr

__all__ = ["InteractionGraph", "bpr_loss", "cosine_topk", "lightgcn", "sample_bpr"]
