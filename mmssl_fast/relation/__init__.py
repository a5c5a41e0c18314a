"""Relation rows that are never a matrix: RelationRows, and the gradients with respect to them."""

from . import torch_functions  # noqa: F401  fills the table that __torch_function__ looks in
from .gradient import RelationGradient
from .rows import RelationRows

__all__ = ["RelationGradient", "RelationRows"]
