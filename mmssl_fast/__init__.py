"""Fast, small-memory MMSSL for PyTorch: relation rows that are never a matrix, and the ops around them."""

from ._version import __version__
from .backends import backends
from .graph import InteractionGraph, SeenRows
from .library import build_info
from .ops.act_norm_dropout import act_norm_dropout
from .ops.bpr_loss import bpr_loss
from .ops.cosine_block import cosine_block
from .ops.cosine_topk import cosine_topk
from .ops.gumbel_linear import gumbel_linear
from .ops.gumbel_softmax import gumbel_softmax
from .ops.infonce import infonce
from .ops.modality_attention import modality_attention
from .ops.propagate import lightgcn, propagate
from .ops.sample_bpr import sample_bpr
from .relation import RelationRows
from .relation.algebra.gradient_norm import gradient_norm
from .relation.algebra.relation_linear import relation_linear

__all__ = [
    "InteractionGraph",
    "RelationRows",
    "SeenRows",
    "__version__",
    "act_norm_dropout",
    "backends",
    "bpr_loss",
    "build_info",
    "cosine_block",
    "cosine_topk",
    "gradient_norm",
    "gumbel_linear",
    "gumbel_softmax",
    "infonce",
    "lightgcn",
    "modality_attention",
    "propagate",
    "relation_linear",
    "sample_bpr",
]
