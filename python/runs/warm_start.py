"""`train --from`: the values of a model for other data. Users and items are mapped by their original ids."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from mmssl_fast import cosine_topk

from ..data import Dataset
from ..errors import InputError
from ..systems import create, title
from ..systems.inference import NOT_EMBEDDINGS, ROWS_OF, ItemTower, content_of
from ..training.start import Start
from . import saved_model

NEAREST = 10  # known items from which a new item gets its id embedding


def start_from(source: str, dataset: Dataset, system: str, scale: float = 1.0) -> tuple[Start, str | None]:
    """(values, a sentence about users and items that the model does not know) for a run of this system on the dataset.

    Known users and items keep their rows of every parameter. A new item gets the mean of the rows of the NEAREST known
    items by features, if the system embeds items by features; all other new rows keep their random initial values.

    scale: in (0, 1]; the embeddings of the model are multiplied by it (Ash and Adams, NeurIPS 2020, without their
    noise). They are the parameters with a row per user or item, except NOT_EMBEDDINGS. Projections of features and all
    other parameters keep their values. 1 changes no bit.

    Raises InputError if it is a model of another system, if the system is not trained, or if no user or no item of the
    model is in the dataset.
    """
    model = saved_model.load(source)
    model_system = model.metadata.get("system", "")
    if model_system != system:
        raise InputError(f"{source}: is a model of {title(model_system)}, but this run trains {title(system)}")
    if not create(system).trains:
        raise InputError(f"{source}: {title(system)} is not trained, so a run cannot start from its model")
    _refuse_other_features(source, model, dataset)
    places = {side: _places(model.interactions, dataset, side) for side in ("users", "items")}
    counts = {"users": dataset.n_users, "items": dataset.n_items}
    old = {"users": model.interactions.n_users, "items": model.interactions.n_items}
    rows = saved_model.inference(model).rows if "settings" in model.metadata else ROWS_OF
    kept = model.parameters if scale == 1 else _shrunk(model.parameters, rows, scale)
    if all(np.array_equal(place, np.arange(old[side])) for side, place in places.items()):
        return Start(source, kept), None
    for side, place in places.items():
        if not (place >= 0).any():
            raise InputError(
                f"{source}: none of the {old[side]:,} {side} of the model is in {dataset.name}; a run can start only "
                "from a model of the same catalogue; check that the ids are the same"
            )
    parameters, known = {}, {}
    near = _nearest(model, dataset, places["items"])
    for name, tensor in kept.items():
        which = _rows_of(name, rows)
        if which is None or tensor.ndim != 2 or len(tensor) != old[which]:
            parameters[name] = tensor
            continue
        row_of = torch.from_numpy(places[which])
        there = row_of >= 0
        value = tensor.new_zeros(counts[which], tensor.shape[1])
        value[there] = tensor[row_of[there]]
        known[name] = there
        if which == "items" and near is not None:
            described = near[:, 0] >= 0
            fresh = (~there).nonzero()[:, 0][described]
            value[fresh] = tensor[near[described]].mean(1)
            known[name] = there.clone()
            known[name][fresh] = True
        parameters[name] = value
    shared = {side: int((place >= 0).sum()) for side, place in places.items()}
    how = "" if near is None else f"; new items start from their {near.shape[1]} nearest known items by features"
    note = (
        f"the model knows {shared['users']:,} of {counts['users']:,} users and {shared['items']:,} of "
        f"{counts['items']:,} items{how}"
    )
    return Start(source, parameters, known, same_data=False), note


def _rows_of(name: str, rows: dict[str, str]) -> str | None:
    """ "users" or "items" for a parameter with a row for each of them, else None."""
    return next((side for prefix, side in rows.items() if name == prefix or name.startswith(f"{prefix}.")), None)


def _shrunk(parameters: dict[str, Tensor], rows: dict[str, str], scale: float) -> dict[str, Tensor]:
    """The parameters, the embeddings of users and items being multiplied by `scale`."""
    embeddings = {name for name in parameters if _rows_of(name, rows) and name not in NOT_EMBEDDINGS}
    return {name: tensor * scale if name in embeddings else tensor for name, tensor in parameters.items()}


def _refuse_other_features(source: str, model: saved_model.Model, dataset: Dataset) -> None:
    """Raise InputError if the features are not those that the model has parameters for, in their order.

    Their names matter, because a projection of concatenated features has the same shape for others of the same total
    width.
    """
    if model.scaling is None:
        return
    then = [f"{name} of width {len(mean)}" for name, mean in model.scaling.mean.items()]
    now = [f"{name} of width {values.shape[1]}" for name, values in dataset.features.items()]
    if then != now:
        raise InputError(
            f"{source}: the model has the features {', '.join(then)}, but {dataset.name} has "
            f"{', '.join(now) or 'none'}; give the same in the same order (data.modalities), or train without --from"
        )


def _places(old: Dataset, new: Dataset, side: str) -> np.ndarray:
    """For every user or item of `new`, its index in `old`, int64; −1 for those that are not there."""
    index = old.user_index if side == "users" else old.item_index
    ids = new.original_users(range(new.n_users)) if side == "users" else new.original_items(range(new.n_items))
    return np.array([index.get(str(one), -1) for one in ids.tolist()], np.int64)


def _nearest(model: saved_model.Model, dataset: Dataset, place: np.ndarray) -> Tensor | None:
    """For every new item the nearest known items with interactions, int64 [n, NEAREST], by the cosine of their
    embeddings by features, −1 for one without features. None if there is no new item, or the system does not embed
    items by features."""
    new = np.flatnonzero(place < 0)
    if not len(new) or model.content is None or model.scaling is None:
        return None
    features = dataset.features
    tower = ItemTower(saved_model.inference(model), model.parameters, model.scaling)
    with torch.no_grad():
        warm = torch.from_numpy(np.flatnonzero(np.diff(model.interactions.train.tocsc().indptr)))
        fresh = tower.cold(content_of(tower, {name: values[new] for name, values in features.items()}))
        found = cosine_topk(fresh, tower.cold(model.content[warm]), min(NEAREST, len(warm)))[1]
    return torch.where(fresh.any(1, keepdim=True), warm[found], -1)
