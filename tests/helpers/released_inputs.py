"""Inputs of the released code's functions: seeds, embeddings, users, a matrix of other edge values."""

import random

import numpy as np
import torch

USERS = [5, 0, 33, 67, 12, 68, 40]  # 68 has never interacted


def seed(value):
    random.seed(value)
    np.random.seed(value)
    torch.manual_seed(value)


def embeddings(*sizes, width=8, seed=3):
    random = torch.Generator().manual_seed(seed)
    return [torch.randn(n, width, generator=random).requires_grad_() for n in sizes or (70, 150)]


def weighted(matrix):
    """The matrix with edge values other than 1."""
    matrix = matrix.copy()
    matrix.data = np.linspace(0.25, 3, matrix.nnz).astype(matrix.dtype)
    return matrix
