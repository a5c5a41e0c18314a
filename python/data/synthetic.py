"""The embedded synthetic catalogue: users with a planted taste for each modality, made from a seed."""

import numpy as np

from ..errors import InputError
from .dataset import build
from .split import split_per_user

_STYLES = 4
_MODALITIES = {"image": 64, "text": 48}


def synthetic(seed=0, n_users=1500, n_items=1000, modalities=None, noise=0.5, sharpness=9.0, mean_degree=8.0):
    """A Dataset whose interactions follow from what its features show; the same seed gives the same data.

    Every item has a latent style for each modality (a unit vector of 4), every user a latent taste of the same kind
    and a weight for each modality (Dirichlet, so most users look at one of them above all). User u likes item i by
    a_ui = sharpness · Σ_m weight_um · taste_um·style_im + popularity_i, and takes a few items without repetition with
    probability ∝ exp(a_ui): 3 and a Poisson number more, mean_degree in the mean, split 8:1:1, about six for
    training. The features of modality m are a random linear map of the styles to d_m dimensions plus `noise` of their
    standard deviation. An item has so few interactions that taste cannot be read off them alone.

    modalities: {name: width}, by default image 64, text 48. Raises InputError for sizes that leave no room (at
    least 1 user, 20 items, 1 modality).
    """
    modalities = dict(_MODALITIES if modalities is None else modalities)
    if n_users < 1 or n_items < 20 or not modalities or min(modalities.values()) < 1:
        raise InputError("synthetic: needs at least 1 user, 20 items and 1 modality of width 1 or more")
    rng = np.random.default_rng(np.random.SeedSequence([int(seed) % 2**63, 0x4D4D53]))
    weights = rng.dirichlet(np.full(len(modalities), 0.5), n_users)
    affinity = np.tile(0.7 * rng.standard_normal(n_items), (n_users, 1))
    features = {}
    for at, (name, width) in enumerate(modalities.items()):
        style, taste = _unit(rng, n_items), _unit(rng, n_users)
        affinity += sharpness * weights[:, at : at + 1] * (taste @ style.T)
        shown = style @ rng.standard_normal((_STYLES, width))
        features[name] = (shown + noise * shown.std() * rng.standard_normal(shown.shape)).astype(np.float32)
    degree = np.minimum(3 + rng.poisson(max(0.0, mean_degree - 3), n_users), n_items // 2)
    ranked = np.argsort(-(affinity + rng.gumbel(size=affinity.shape)), axis=1, kind="stable")
    users = np.repeat(np.arange(n_users), degree)
    items = np.concatenate([ranked[user, :count] for user, count in enumerate(degree)])
    notes = [f"synthetic, seed {seed}"]
    return build(
        "synthetic", "synthetic", (n_users, n_items), split_per_user(users, items, seed), features, notes=notes
    )


def _unit(rng, count):
    rows = rng.standard_normal((count, _STYLES))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)
