"""A model for tests of the service and of what is exported."""

import numpy as np
import scipy.sparse as sp
import torch
from mmssl_trainer import Model
from mmssl_trainer.data import Dataset

N_USERS, N_ITEMS, DIM = 90, 300, 13


def made(ids="text", seed=5):
    """A model with a new user (7), a user who has seen all items (8), cold items (11, 12), tied items (20, 21, 22)."""
    rng = np.random.default_rng(seed)
    kind = rng.integers(0, 60, (N_USERS, N_ITEMS))
    kind[7], kind[8] = 9, 0
    kind[:, [11, 12]] = 9
    kind[8, 11] = 0
    splits = {name: sp.csr_array((kind == at).astype(np.float32)) for at, name in enumerate(("train", "val", "test"))}
    names = (None, None)
    if ids == "text":
        names = (
            np.array([f"user {n}, ä" for n in range(N_USERS)], object),
            np.array([f"i{n}" for n in range(N_ITEMS)], object),
        )
    elif ids == "numbers":
        names = np.arange(N_USERS) * 10 + 2**53, np.arange(N_ITEMS) - 5
    data = Dataset("made", "made", N_USERS, N_ITEMS, **splits, features={}, user_ids=names[0], item_ids=names[1])
    users, items = (torch.from_numpy(rng.standard_normal((n, DIM)).astype(np.float32)) for n in (N_USERS, N_ITEMS))
    users[7] = 0
    items[[11, 12]] = 0
    items[[20, 21, 22]] = items[20].clone()
    return Model(users, items, {}, data, {"format": "mmssl_fast model 1", "system": "lightgcn", "data": "made"})
