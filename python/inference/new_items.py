"""Items that were not in the training data, embedded by their features."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import SeenRows, cosine_topk

from ..data import SPLITS, Dataset
from ..data.arrow import LONGEST_ID, is_id, numbers_or_texts
from ..embeddings import dense
from ..errors import InputError, shown
from ..runs.saved_model import Model
from ..systems.inference import ItemTower, content_of
from .scale import Scale, described, scale_of
from .towers import item_tower

SAMPLE = 10_000  # known items that are represented by their nearest other items, for the scale


def embed_items(model: Model, features: Mapping[str, Any], nearest: int = 0, spread: float = 1.0) -> Tensor:
    """Embeddings [n, d] of items that were not in the training data, from their features. Their scores are dot products
    with the user embeddings, as for the other items, and comparable with those.

    Equals factor * x + shift, where x is `System.cold_items` of the items, with the projections and the scaling of
    training. With factor and shift, the known items, embedded as if they were new, have the same mean score for every
    user as with their embeddings from training, and the same standard deviation, averaged over the users
    (`inference.scale.scale_of`). nearest=k > 0 adds a collaborative part to x: the mean of those of the k known items
    with training interactions that are nearest by the cosine of x.

    spread multiplies the standard deviation. With less than 1, new items get fewer of the first places beside known
    items; their order among themselves stays the same.

    features: {modality: array [n, d_m]} with all modalities of the training data. A row of NaN is a missing one: the
    item is embedded by its other modalities, of which it must have one. Raises InputError that names the
    modality and row of what is wrong, and if the system does not use features.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> data = load_data()
    >>> model = fit(data, configure({"model.system": "vbpr", "train.epochs": 1, "train.batch": 4096}))
    >>> embed_items(model, {name: values[:3] for name, values in data.features.items()}).shape
    torch.Size([3, 65])
    """
    return embed_both(model, features, nearest, spread)[0]


@torch.no_grad()
def embed_both(
    model: Model, features: Mapping[str, Any], nearest: int = 0, spread: float = 1.0
) -> tuple[Tensor, Tensor]:
    """(the result of `embed_items`, the embeddings by features alone to compare with `known_by_features`)."""
    tower = item_tower(model)
    content = _content(tower, features)
    return _embed(model, tower, content, nearest, spread), tower.cold(content)


def with_new_items(
    model: Model, ids: Sequence[str | int], features: Mapping[str, Any], nearest: int = 0, spread: float = 1.0
) -> Model:
    """The model with these items after its own. They have no interactions. Items of the data without training
    interactions are embedded like them.

    Raises InputError as `embed_items`, and for an id that the model already has or that occurs twice.
    """
    data = model.interactions
    seen: set[str] = set()
    for item in map(str, ids):
        if not is_id(item):
            raise InputError(
                f"{data.name}: the new item {shown(item)} is no id; ids must have 1 to {LONGEST_ID} characters, all "
                "printable"
            )
        if item in data.item_index or item in seen:
            where = "is already an item of the model" if item in data.item_index else "occurs twice"
            raise InputError(f"{data.name}: the new item {shown(item)} {where}; leave it out")
        seen.add(item)
    tower = item_tower(model)
    content = _content(tower, features, ids)
    embeddings = _embed(model, tower, content, nearest, spread)
    items = dense(model.items, "ranking new items")
    if model.content is not None and len(cold := np.flatnonzero(np.diff(data.train.tocsc().indptr) == 0)):
        items = items.index_copy(0, torch.from_numpy(cold), _embed(model, tower, model.content[cold], nearest, spread))
    if len(embeddings) != len(ids):
        raise InputError(f"{data.name}: {len(ids)} new items, but features for {len(embeddings)}")
    n_items = data.n_items + len(ids)
    popularity = model.popularity
    return replace(
        model,
        items=torch.cat([items, embeddings]),
        spread=spread,
        interactions=replace(
            data,
            n_items=n_items,
            item_ids=_more_ids(data, ids),
            fingerprint="",
            **{split: _wider(getattr(data, split), n_items) for split in SPLITS},
        ),
        content=None if model.content is None else torch.cat([model.content, content]),
        popularity=None if popularity is None else np.concatenate([popularity, np.zeros(len(ids), np.int64)]),
        base=model.base or model,
    )


@torch.no_grad()
def known_by_features(model: Model) -> Tensor:
    """The embeddings [I, d] of all items of training by their features alone."""
    tower, base = item_tower(model), model.base or model
    if "by_features" not in base.towers:
        if base.content is None:  # item_tower has refused such a model
            raise ValueError("known_by_features: the model has no content")
        base.towers["by_features"] = tower.cold(base.content)
    return base.towers["by_features"]


def _content(tower: ItemTower, features: Mapping[str, Any], ids: Sequence[str | int] | None = None) -> Tensor:
    """The content of checked features. Raises InputError for numbers that are too large for float32."""
    content = content_of(tower, _checked(tower, features, ids))
    finite = torch.isfinite(content).all(1)
    if not finite.all():
        row = int((~finite).nonzero()[0])
        raise InputError(f"features: row {row} contains values that are too large for the model; check their scale")
    return content


@torch.no_grad()
def _embed(model: Model, tower: ItemTower, content: Tensor, nearest: int, spread: float) -> Tensor:
    base, cold = model.base or model, tower.cold(content)
    warm = torch.from_numpy(np.diff(base.interactions.train.tocsc().indptr) > 0)
    if nearest < 0 or nearest > warm.sum():
        raise InputError(f"nearest = {nearest}: must be between 0 and {int(warm.sum())}, the items with interactions")
    if not (math.isfinite(spread) and spread >= 0):
        raise InputError(f"spread = {spread}: must be a number from 0 on; 1 is the spread of the known items")
    if not nearest:
        return _around_mean(base, tower.scaled(cold), spread)
    by_features = known_by_features(model)
    parts = dense(base.items, "ranking new items")[warm] - by_features[warm]
    near = cold + _mean_of(parts, cosine_topk(cold, by_features[warm], nearest)[1])
    factor, shift = _scale_with_nearest(base, by_features, warm, parts, nearest)
    embeddings = torch.where((cold != 0).any(1, keepdim=True), factor * near + shift, 0)
    return _around_mean(base, embeddings, spread)


def _around_mean(base: Model, embeddings: Tensor, spread: float) -> Tensor:
    """Embeddings [n, d] whose scores deviate `spread` times as much from those of the mean of the known items. Items
    without features, whose embedding is 0, keep it."""
    if spread == 1:
        return embeddings
    known = described(base, known_by_features(base))
    if not len(known):
        return embeddings
    mean = dense(base.items, "ranking new items")[known].mean(0)
    return torch.where((embeddings != 0).any(1, keepdim=True), mean + spread * (embeddings - mean), 0)


def _scale_with_nearest(base: Model, by_features: Tensor, warm: Tensor, parts: Tensor, nearest: int) -> Scale:
    """The scale for collaborative parts from the nearest items: a known item gets that of the nearest others.

    warm: bool [I], items with interactions. parts: their collaborative parts.
    """
    name = f"scale {nearest}"
    if name not in base.towers:
        known = described(base, by_features)
        known = known[torch.linspace(0, max(0, len(known) - 1), min(SAMPLE, len(known))).long()]
        own = SeenRows(torch.arange(len(known) + 1), (torch.cumsum(warm, 0) - 1)[known])
        found = cosine_topk(by_features[known], by_features[warm], nearest, own)[1]
        base.towers[name] = scale_of(base, known, by_features[known] + _mean_of(parts, found))
    return base.towers[name]


def _mean_of(parts: Tensor, found: Tensor) -> Tensor:
    """parts[found].mean(1), [n, d], over the entries of found, int64 [n, k], that are not −1. The k rows of all n are
    never in memory at once."""
    there = found >= 0
    sums = F.embedding_bag(found.clamp(min=0), parts, mode="sum", per_sample_weights=there.to(parts.dtype))
    return sums / there.sum(1, keepdim=True).clamp(min=1)


def _checked(
    tower: ItemTower, features: Mapping[str, Any], ids: Sequence[str | int] | None = None
) -> dict[str, np.ndarray]:
    """The features as arrays, in the order of the modalities."""
    names = ", ".join(tower.modalities)
    for name in features:
        if name not in tower.modalities:
            raise InputError(f"features {shown(name)}: is not a modality of the model; its modalities are {names}")
    arrays, rows = {}, None
    for name in tower.modalities:
        if name not in features:
            raise InputError(f"features {name!r} are missing; the modalities of the model are {names}")
        width = tower.widths[name]
        try:
            array = np.asarray(features[name])
        except ValueError:
            raise InputError(
                f"features {name!r}: have rows of different lengths; give numbers of the shape [items, {width}]"
            ) from None
        if array.ndim != 2 or array.shape[1] != width or array.dtype.kind not in "fiu":
            raise InputError(
                f"features {name!r}: have the shape {array.shape} and dtype {array.dtype}; give numbers of the shape "
                f"[items, {width}]"
            )
        if rows is not None and len(array) != rows[1]:
            raise InputError(f"features {name!r}: have {len(array)} rows, those of {rows[0]!r} have {rows[1]}")
        bad = ~(np.isfinite(array).all(1) | np.isnan(array).all(1))
        if bad.any():
            row = int(np.flatnonzero(bad)[0])
            raise InputError(f"features {name!r}: row {row} contains a value that is not finite")
        rows = name, len(array)
        arrays[name] = array if array.dtype.kind == "f" else array.astype(np.float32)
    nothing = np.logical_and.reduce([np.isnan(array[:, 0]) for array in arrays.values()])
    if nothing.any():
        row = int(np.flatnonzero(nothing)[0])
        which = f"row {row}" if ids is None or row >= len(ids) else f"the item {shown(ids[row])}"
        raise InputError(f"features: {which} has none in any modality ({names}); leave the item out")
    return arrays


def _more_ids(data: Dataset, ids: Sequence[str | int]) -> np.ndarray:
    """The ids of all items: integers if all are, otherwise text."""
    return numbers_or_texts([*map(str, data.original_items(np.arange(data.n_items)).tolist()), *map(str, ids)])


def _wider(matrix: sp.csr_array, n_items: int) -> sp.csr_array:
    return sp.csr_array((matrix.data, matrix.indices, matrix.indptr), shape=(matrix.shape[0], n_items))
