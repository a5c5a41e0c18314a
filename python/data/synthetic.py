"""The built-in synthetic data set, in which the features determine the interactions."""

from __future__ import annotations

import numpy as np

from ..errors import InputError
from .dataset import Dataset, build
from .split import split_per_user

_STYLES = 4
_MODALITIES = {"image": 64, "text": 48}


def synthetic(
    seed: int = 0,
    n_users: int = 1500,
    n_items: int = 1000,
    modalities: dict[str, int] | None = None,
    noise: float = 0.5,
    sharpness: float = 9.0,
    mean_degree: float = 8.0,
) -> Dataset:
    """Generate a Dataset. The same seed gives the same data.

    Every item has a latent style for each modality, a unit vector of 4 dimensions. Every user has a latent taste of the
    same form and a weight for each modality, drawn from a Dirichlet distribution that mostly favours one modality. The
    affinity of user u for item i is

        a_ui = sharpness · Σ_m weight_um (taste_um · style_im) + popularity_i.

    A user interacts with distinct items, drawn with probability ∝ exp(a_ui). The number of items is 3 plus a Poisson
    number, with mean mean_degree. They are split 8:1:1, which leaves about six for training. The features of modality m
    are a random linear map of the styles to d_m dimensions, plus Gaussian noise with `noise` times their standard
    deviation. Items have few interactions, so that interactions alone determine the tastes poorly.

    modalities: {name: width}, by default image 64 and text 48. Raises InputError for fewer than 1 user, 20 items or 1
    modality.
    """
    modalities = dict(_MODALITIES if modalities is None else modalities)
    if n_users < 1 or n_items < 20 or not modalities or min(modalities.values()) < 1:
        raise InputError("synthetic: needs at least 1 user, 20 items, and 1 modality with at least 1 column")
    rng = np.random.default_rng(np.random.SeedSequence([int(seed) % 2**63, 0x4D4D53]))
    weights = rng.dirichlet(np.full(len(modalities), 0.5), n_users)
    affinity = np.tile(0.7 * rng.standard_normal(n_items), (n_users, 1))
    features = {}
    for m, (name, width) in enumerate(modalities.items()):
        style, taste = _unit_rows(rng, n_items), _unit_rows(rng, n_users)
        affinity += sharpness * weights[:, m : m + 1] * (taste @ style.T)
        signal = style @ rng.standard_normal((_STYLES, width))
        features[name] = (signal + noise * signal.std() * rng.standard_normal(signal.shape)).astype(np.float32)
    degree = np.minimum(3 + rng.poisson(max(0.0, mean_degree - 3), n_users), n_items // 2)
    # Sorting the affinities with Gumbel noise samples without replacement, with probability ∝ exp(affinity).
    ranked = np.argsort(-(affinity + rng.gumbel(size=affinity.shape)), axis=1, kind="stable")
    users = np.repeat(np.arange(n_users), degree)
    items = np.concatenate([ranked[user, :count] for user, count in enumerate(degree)])
    splits, notes = split_per_user(users, items, seed), [f"synthetic, seed {seed}"]
    return build("synthetic", "synthetic", (n_users, n_items), splits, features, notes=notes)


def _unit_rows(rng: np.random.Generator, count: int) -> np.ndarray:
    rows = rng.standard_normal((count, _STYLES))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
