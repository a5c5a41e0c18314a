"""The released MMSSL code (HKUDS/MMSSL) and its forks: `accelerate(Trainer)`, or its parts as functions.

The computations are those of that code, even where it differs from the paper. Only speed and memory change.
"""

from ..report import Accelerated
from .evaluation import evaluate
from .losses import batched_contrastive_loss, bpr_loss
from .patch import PARTS, accelerate
from .rows import discriminate, gradient_penalty, interaction_graph, noisy_rows, relation_rows
from .sampling import TripleSampler

__all__ = [
    "PARTS",
    "Accelerated",
    "TripleSampler",
    "accelerate",
    "batched_contrastive_loss",
    "bpr_loss",
    "discriminate",
    "evaluate",
    "gradient_penalty",
    "interaction_graph",
    "noisy_rows",
    "relation_rows",
]
