"""Operations for multi-modal self-supervised recommendation (MMSSL, WWW 2023) in PyTorch.

MMSSL trains a discriminator on rows of users x items matrices. Here these rows are never formed: `RelationRows`
represents them by their factors, and the functions below compute with the factors. Every function equals the PyTorch
expression in the first line of its docstring; reference.py contains all of these expressions. `mmssl_fast.nn` has the
modules and losses of the model, and the package `mmssl_trainer` trains it.

Where things are: ops/ has one module per operation with a kernel (C++ in csrc/, Triton in kernels/), relation/ has the
relation rows and their algebra, nn/ the modules, and dropin/ the adapters for other people's code. Imports go from
dropin and nn to relation, ops and finally the modules of this folder, never the other way.
"""

from ._version import __version__
from .backends import backends
from .graph import InteractionGraph, SeenRows
from .library import build_info
from .ops import coo_to_csr as _coo_to_csr  # noqa: F401  registers the CUDA form; the drop-ins call the op
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
