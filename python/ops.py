"""The ops the trainer calls, from one place."""

from mmssl_fast.graph import InteractionGraph
from mmssl_fast.ops.bpr_loss import bpr_loss
from mmssl_fast.ops.cosine_topk import cosine_topk
from mmssl_fast.ops.propagate import lightgcn
from mmssl_fast.ops.sample_bpr import sample_bpr

__all__ = ["InteractionGraph", "bpr_loss", "cosine_topk", "lightgcn", "sample_bpr"]
