"""The towers of a model: from histories to user embeddings, and from features to item embeddings.

They are built when they are first used, and kept with the model.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch

from mmssl_fast import InteractionGraph

from ..embeddings import dense
from ..errors import InputError, first_line
from ..runs.saved_model import Model, add_content, inference
from ..systems import title
from ..systems.inference import ItemTower, Known, UserTower
from .scale import described, scale_of


@torch.no_grad()
def user_tower(model: Model) -> UserTower:
    """The module that computes user embeddings from histories. Its items are those of training.

    Raises InputError if the system cannot do this, or the model was written by an earlier version.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "lightgcn", "train.epochs": 1, "train.batch": 4096}))
    >>> user_tower(model)(torch.tensor([0, 2]), torch.tensor([3, 8])).shape
    torch.Size([1, 64])
    """
    base = model.base or model
    if "users" not in base.towers:
        system = inference(base)
        if system.no_users:
            raise InputError(f"{_name(base)} cannot embed a user by a history: {system.no_users}")
        with _complete(base, "users"):
            add_content(base)
            graph = InteractionGraph.from_scipy(base.interactions.train)
            items = dense(base.items, "embedding users")
            content = items[:, :0] if base.content is None else base.content
            base.towers["users"] = UserTower(system, Known(base.parameters, items, graph, content)).eval()
    return base.towers["users"]


@torch.no_grad()
def item_tower(model: Model) -> ItemTower:
    """The module that computes item embeddings from features, on the scale of the items with interactions.

    Raises InputError if the system cannot do this, the model has no features, or it was written by an earlier version.
    """
    base = model.base or model
    if "items" not in base.towers:
        system = inference(base)
        if system.no_items:
            raise InputError(f"{_name(base)} cannot embed an item by its features: {system.no_items}")
        with _complete(base, "items"):
            if not add_content(base) or base.scaling is None or base.content is None:
                raise KeyError("content")
            tower = ItemTower(system, base.parameters, base.scaling).eval()
            tower(*(torch.zeros(1, width) for width in tower.widths.values()))  # reads every parameter
            as_new = tower.cold(base.content)
            known = described(base, as_new)
            tower.rescale(*scale_of(base, known, as_new[known]))
            base.towers["items"] = tower
    return base.towers["items"]


@contextmanager
def _complete(model: Model, side: str) -> Iterator[None]:
    """Raise InputError for a model whose tensors are not those of its system."""
    try:
        yield
    except (KeyError, IndexError, ValueError, TypeError, AttributeError, RuntimeError) as error:
        reason = f"{error} is missing" if isinstance(error, KeyError) else first_line(error)
        raise InputError(
            f"the model of {model.interactions.name} cannot embed {side}: {reason}; its file is damaged or of another "
            "version of the system: train again"
        ) from None


def _name(model: Model) -> str:
    return title(model.metadata.get("system", ""))
