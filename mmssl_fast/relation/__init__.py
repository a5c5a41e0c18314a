"""Relation rows that are never a matrix: RelationRows, and the gradients with respect to them."""

from .gradient import RelationGradient
from .rows import RelationRows

__all__ = ["RelationGradient", "RelationRows"]
