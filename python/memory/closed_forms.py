"""Memory of the systems in closed form: EASE, ItemKNN, UserKNN and popularity."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np

from .stage import DOUBLE, FLOAT, INDEX, Stage, blocks

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset

ROWS = 1024  # rows of the items x items matrix processed at once (`systems.ease`)
ENTRIES, SCORES = 1 << 22, 1 << 20  # similarities and scores in memory at once (`systems.similarity`, `embeddings`)


@dataclass(frozen=True)
class ClosedForm:
    """kind: the table that is computed. width: number of its columns; for neighbours, the stored similarities of all
    rows. content: feature columns."""

    kind: Literal["inverse", "factors", "truncated", "items", "users", "popularity"]
    width: int
    content: int = 0


def closed_form(dataset: Dataset, config: Config) -> ClosedForm | None:
    """The tables of this system, None for systems of another kind."""
    name, columns = config.model.system, sum(features.shape[1] for features in dataset.features.values())
    if name == "ease":
        return _ease(dataset, config)
    if name == "popularity":
        return ClosedForm("popularity", 1)
    if name not in ("itemknn", "userknn"):
        return None
    by_item = name == "itemknn"
    count = config.itemknn.neighbours if by_item else config.userknn.neighbours
    n = dataset.n_items if by_item else dataset.n_users
    content = columns if by_item and config.itemknn.content else 0
    degrees = np.asarray(dataset.train.sum(axis=int(by_item))).ravel().astype(np.int64)
    overlapping = n * n if content else int((degrees * degrees).sum())  # most pairs with a common user or item
    return ClosedForm("items" if by_item else "users", min(n * (count or n), n * n, overlapping), content)


def item_item_form(dataset: Dataset, config: Config) -> ClosedForm | None:
    """The tables of the item-item part beside a trained system, None without it."""
    return _ease(dataset, config) if config.model.item_item else None


def _ease(dataset: Dataset, config: Config) -> ClosedForm:
    if config.ease.rank:
        return ClosedForm("truncated", config.ease.rank)
    columns = sum(features.shape[1] for features in dataset.features.values())
    if config.ease.content or dataset.n_users >= dataset.n_items:
        return ClosedForm("inverse", dataset.n_items, columns if config.ease.content else 0)
    return ClosedForm("factors", dataset.n_users)


def item_item_stages(form: ClosedForm, users: int, items: int, dim: int) -> list[Stage]:
    """The stages of the item-item part beside embeddings of size dim: its tables, and after every validation the
    embeddings with its columns, of which the best are kept."""
    dense = users if form.kind in ("factors", "truncated") else 0
    whole = FLOAT * (items + dense) * (form.width + dim)
    forms = closed_form_stages(form, users, items)
    built = [stage for stage in forms if not stage.name.startswith(("scores", "weights by"))]
    scored = (FLOAT * SCORES, not dense), (DOUBLE * SCORES, 4 * (not dense))
    return [
        *built,
        Stage("best embeddings with the item-item part", persistent=whole),
        Stage("validation of both parts", working=blocks((whole, 3), *scored)),
    ]


def closed_form_stages(form: ClosedForm, users: int, items: int) -> list[Stage]:
    """The stages after the interactions have been read. Popularity can be over several ranks: users and items are
    then those of one."""
    if form.kind == "popularity":
        return [Stage("numbers of interactions", persistent=FLOAT * (users + items))]
    scores = Stage("scores of a block of users", working=blocks((FLOAT * SCORES, 1), (DOUBLE * SCORES, 4)))
    features = (DOUBLE * items * form.content, 3)
    if form.kind == "inverse":
        pairs = items * items
        buffers = 4 if form.content else 2
        return [
            Stage(
                "inverse, items x items",
                working=blocks((DOUBLE * pairs, 1), (FLOAT * pairs, 1), (DOUBLE * ROWS * items, buffers), features),
            ),
            Stage("item-item weights", persistent=FLOAT * pairs),
            Stage("weights by column", kept=blocks((FLOAT * pairs, 1))),
            scores,
        ]
    if form.kind in ("factors", "truncated"):
        d, sides = form.width, (users + items) * form.width
        if form.kind == "factors":
            eigenvectors = Stage("eigenvectors", working=blocks((DOUBLE * users * users, 3)))
        else:  # ARPACK holds 2d + 1 vectors of the shorter side
            eigenvectors = Stage("singular vectors", working=blocks((DOUBLE * items * d, 4), (DOUBLE * users * d, 2)))
        return [
            eigenvectors,
            Stage(
                "embeddings", persistent=FLOAT * sides, working=blocks((DOUBLE * items * d, 1), (DOUBLE * users * d, 1))
            ),
        ]
    n = items if form.kind == "items" else users
    similarities = min(ENTRIES, n * n)
    block = (DOUBLE * similarities, 3), (FLOAT * similarities, 2)
    stored = (FLOAT + INDEX) * form.width
    return [
        Stage("neighbours", working=blocks((stored, 1), *block, features)),
        Stage("similarities", persistent=stored),
        Stage("similarities in float64", kept=blocks(((DOUBLE + INDEX) * form.width, 2))),
        scores,
    ]
