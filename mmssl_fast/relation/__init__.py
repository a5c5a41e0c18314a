"""Relation rows, which are represented by their factors instead of a matrix, and the gradients with respect to them.

rows.py has the class RelationRows. A RelationRows object is a list of row blocks (blocks.py), each a sum of scaled
components: generated or dense rows (components.py) or Gumbel rows (gumbel.py). algebra/ computes linear layers, norms
and gradients of the components. torch_functions.py makes torch functions work on rows.
"""

from . import torch_functions  # noqa: F401  fills the table of torch functions in registry.py
from .gradient import RelationGradient
from .rows import RelationRows

__all__ = ["RelationGradient", "RelationRows"]
