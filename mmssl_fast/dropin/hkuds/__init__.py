"""The released MMSSL code (HKUDS/MMSSL) and its forks, on mmssl_fast: `accelerate(Trainer)`, or piece by piece.

The mathematics is that code's, also where it differs from the paper: what changes is speed and memory.
"""

from .evaluation import evaluate
from .losses import batched_contrastive_loss, bpr_loss
from .patch import PARTS, Accelerated, accelerate
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
