"""What a service is made of, and loading it: at the start and at every reload."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from ..errors import InputError
from ..inference.files import read_unknown_items
from ..inference.new_items import with_new_items
from ..inference.towers import item_tower
from .catalogue import Catalogue, in_memory
from .filters import Filters
from .logs import log
from .page.content import Content, PageOptions


@dataclass(frozen=True)
class Sources:
    """run: run folder or model file. exclude: as in Catalogue. new_items, nearest, spread: as in `recommend`; items
    that are ranked beside those of training. items: table with a column item. filter_columns: its columns by whose
    values requests may choose items. page: what the page shows, None for no page."""

    run: Path
    exclude: str = "train"
    new_items: Sequence[str] = ()
    nearest: int = 0
    spread: float = 1.0
    items: Path | None = None
    filter_columns: Sequence[str] = ()
    page: PageOptions | None = None

    def __post_init__(self) -> None:
        if self.nearest and not self.new_items:
            raise InputError("--nearest is for --new-items; give both")
        if self.spread != 1 and not self.new_items:
            raise InputError("--spread is for --new-items; give both")
        if self.filter_columns and self.items is None:
            raise InputError("--filter-column is a column of the table --items; give both")
        if self.items is not None and not self.filter_columns and self.page is None:
            raise InputError("--items is for --filter-column and --page; give one of them")

    def load(self) -> Catalogue:
        """Raises InputError that names the file and what it lacks."""
        model = in_memory(self.run)
        if self.new_items:
            ids, features, known = read_unknown_items(self.new_items, item_tower(model).widths, model)
            log("new items", items=len(ids), known=known)
            model = with_new_items(model, ids, features, self.nearest, self.spread)
        try:
            catalogue = Catalogue(model, self.exclude)
        except InputError as error:
            raise InputError(f"{self.run}: {error}") from None
        if self.items is not None and self.filter_columns:
            catalogue.filters = Filters.read(self.items, self.filter_columns, catalogue.item_index)
        if self.page is not None:
            catalogue.page = Content(catalogue, self.page)
        return catalogue
