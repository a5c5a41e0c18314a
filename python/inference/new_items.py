"""Items that were not in the training data, embedded by their features."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmssl_fast import cosine_topk

from ..data import SPLITS, Dataset
from ..data.arrow import numbers_or_texts
from ..embeddings import dense
from ..errors import InputError, shown
from ..runs.saved_model import Model
from ..systems.inference import ItemTower, content_of
from .towers import item_tower


def embed_items(model: Model, features: Mapping[str, Any], nearest: int = 0) -> Tensor:
    """Embeddings [n, d] of items that were not in the training data, from their features. Their scores are dot products
    with the user embeddings, as for the other items.

    Equals `System.cold_items` of the items, with the projections and the scaling of training. An embedding also has a
    collaborative part, which only interactions give; it is 0 for nearest=0. For nearest=k > 0 it is the mean of those
    of the k known items that are nearest by the cosine of this embedding, and that have training interactions.

    features: {modality: array [n, d_m]} with all modalities of the training data. A row of NaN is a missing one: the
    item is embedded by its other modalities, of which it must have one. Raises InputError that names the
    modality and row of what is wrong, and if the system does not use features.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> data = load_data()
    >>> model = fit(data, configure({"model.system": "vbpr", "train.epochs": 1, "train.batch": 4096}))
    >>> embed_items(model, {name: values[:3] for name, values in data.features.items()}).shape
    torch.Size([3, 65])
    """
    tower = item_tower(model)
    return _embed(model, tower, _content(tower, features), nearest)


def with_new_items(model: Model, ids: Sequence[str | int], features: Mapping[str, Any], nearest: int = 0) -> Model:
    """The model with these items after its own. They have no interactions.

    Raises InputError as `embed_items`, and for an id that the model already has or that occurs twice.
    """
    data = model.interactions
    seen: set[str] = set()
    for item in map(str, ids):
        if item in data.item_index or item in seen:
            where = "is already an item of the model" if item in data.item_index else "occurs twice"
            raise InputError(f"{data.name}: the new item {shown(item)} {where}; leave it out")
        seen.add(item)
    tower = item_tower(model)
    content = _content(tower, features, ids)
    embeddings = _embed(model, tower, content, nearest)
    if len(embeddings) != len(ids):
        raise InputError(f"{data.name}: {len(ids)} new items, but features for {len(embeddings)}")
    n_items = data.n_items + len(ids)
    popularity = model.popularity
    return replace(
        model,
        items=torch.cat([dense(model.items, "ranking new items"), embeddings]),
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
def _embed(model: Model, tower: ItemTower, content: Tensor, nearest: int) -> Tensor:
    base, cold = model.base or model, tower.cold(content)
    warm = torch.from_numpy(np.diff(base.interactions.train.tocsc().indptr) > 0)
    if nearest < 0 or nearest > warm.sum():
        raise InputError(f"nearest = {nearest}: must be between 0 and {int(warm.sum())}, the items with interactions")
    if not nearest:
        return cold
    by_features = known_by_features(model)[warm]
    collaborative = dense(base.items, "ranking new items")[warm] - by_features
    return cold + collaborative[cosine_topk(cold, by_features, nearest)[1]].mean(1)


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
