"""What the page shows about the items of a catalogue: titles, pictures and groups."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from ...errors import InputError
from ...inference.files import item_texts
from ..catalogue import Catalogue
from .groups import Groups, grouped
from .map import points
from .parts import Parts
from .pictures import checked_name


@dataclass(frozen=True)
class PageOptions:
    """items: table with a column item. title, image, colour: its columns. images: the folder of the pictures."""

    items: Path | None = None
    title: str | None = None
    image: str | None = None
    images: Path | None = None
    colour: str | None = None

    def __post_init__(self) -> None:
        given = {"--title": self.title, "--image": self.image, "--colour": self.colour}
        for name, value in given.items():
            if value is not None and self.items is None:
                raise InputError(f"{name} is a column of the table --items; give both")
        if (self.image is None) != (self.images is None):
            raise InputError("--image and --images belong together: the column of file names, and their folder")
        if self.images is not None and not self.images.is_dir():
            raise InputError(f"{self.images}: is not a folder; give the one that the names of --image are in")


class Content:
    """Made with the catalogue, and not changed after that.

    titles: of the items. pictures: file names below the folder of the pictures, "" for none. cold: indices of the items
    without training interactions. counts, history_sizes: interactions in training of each item and user. examples: some
    users. parts, map: of the modules of these names.
    """

    def __init__(self, catalogue: Catalogue, options: PageOptions) -> None:
        data = catalogue.model.interactions
        self.options, self.catalogue = options, catalogue
        columns = _columns(options, catalogue)
        ids = [str(item) for item in catalogue.item_ids]
        titles = columns.get(options.title or "", ids)
        self.titles = [title.strip() or item for title, item in zip(titles, ids, strict=True)]
        self.notes = columns.get(options.colour or "", [""] * len(ids))
        self.groups: Groups | None = grouped(self.notes) if options.colour else None
        names = columns.get(options.image or "", [""] * len(ids))
        self.pictures = [checked_name(options.items, item, name) for item, name in zip(ids, names, strict=True)]
        self.folder = options.images.resolve() if options.images else None
        self.counts = np.diff(data.train.tocsc().indptr)
        self.history_sizes = np.diff(data.train.indptr)
        # For searching.
        self._titles = [title.casefold() for title in self.titles]
        self._users = [str(user) for user in catalogue.user_ids]
        self._items_by_count = np.argsort(-self.counts, kind="stable").tolist()
        self._users_by_count = np.argsort(-self.history_sizes, kind="stable").tolist()
        usual = [user for user in self._users_by_count if 5 <= self.history_sizes[user] <= 60]
        self.examples = (usual or self._users_by_count)[:6]
        self.cold = np.flatnonzero(self.counts == 0)
        self.no_cold = ""  # why no cold items can be recommended
        if not len(self.cold):
            self.no_cold = "every item has interactions"
        elif not catalogue.known_items[self.cold].any():
            self.no_cold = catalogue.no_features or "the model knows nothing about them"
        self.parts = Parts(catalogue)
        self.map = points(catalogue, self.counts)

    def item(self, index: int) -> dict[str, Any]:
        """What the page shows of an item. Its id is a text, because JavaScript rounds large integers."""
        return {
            "id": str(self.catalogue.item_ids[index]),
            "title": self.titles[index],
            "note": self.notes[index].replace("|", ", "),
            "group": None if self.groups is None else int(self.groups.of[index]),
            "picture": bool(self.pictures[index]),
            "count": int(self.counts[index]),
        }

    def find_items(self, text: str, most: int) -> list[int]:
        """Items whose title or id contains a text: the one with this id first, then those whose title begins with it,
        then by their number of interactions."""
        exact = self.catalogue.item_index.get(text.strip(), -1)
        return _found(self._titles, self._items_by_count, text.casefold().strip(), exact, most)

    def find_users(self, text: str, most: int) -> list[int]:
        """Users whose id contains a text: the one with this id, then those whose id begins with it, then by their
        number of interactions."""
        exact = self.catalogue.user_index.get(text.strip(), -1)
        return _found(self._users, self._users_by_count, text.strip(), exact, most)

    def by_score(self, vector: torch.Tensor, items: np.ndarray) -> np.ndarray:
        """The items, those with the highest score for a user embedding first."""
        scores = (self.catalogue.item_vectors(items) @ vector).numpy()
        return items[np.lexsort((items, -self.counts[items], -scores))]


def _found(texts: Sequence[str], order: Sequence[int], wanted: str, exact: int, most: int) -> list[int]:
    """The first places, in an order, whose text begins with what is wanted, then those that contain it."""
    begin: list[int] = []
    contain: list[int] = []
    for place in order:
        text = texts[place]
        if place != exact and wanted in text:
            if text.startswith(wanted):
                begin.append(place)
                if len(begin) == most:
                    break
            elif len(contain) < most:
                contain.append(place)
    return ([exact] if exact >= 0 else []) + [*begin, *contain][: most - (exact >= 0)]


def _columns(options: PageOptions, catalogue: Catalogue) -> dict[str, list[str]]:
    """{column: cells by item}, "" for items without a row."""
    wanted: Sequence[str] = [name for name in (options.title, options.image, options.colour) if name is not None]
    if options.items is None or not wanted:
        return {}
    texts = item_texts(options.items, wanted, catalogue.item_index)
    ids = [str(item) for item in catalogue.item_ids]
    return {name: [cells.get(item, "") for item in ids] for name, cells in texts.items()}
