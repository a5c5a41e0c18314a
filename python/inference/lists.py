"""A model as a request for lists needs it: with new items, with users by history, and with candidates only."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import scipy.sparse as sp

from ..errors import InputError
from ..runs.saved_model import Model
from .candidates import pairs_of, with_candidates
from .histories import UNKNOWN, with_histories
from .new_items import with_new_items

Id = str | int


def for_request(
    model: Model,
    histories: Mapping[Any, Sequence[Id]] | None = None,
    unknown: str = "refuse",
    new_items: tuple[Sequence[Id], Mapping[str, Any]] | None = None,
    nearest: int = 0,
    spread: float = 1.0,
    candidates: Iterable[Id] | None = None,
    excluded: Iterable[tuple[Id, Id]] | None = None,
) -> tuple[Model, sp.csr_array | None]:
    """(model, excluded pairs [U, I] or None) for runs.recommend.recommend. The arguments are those of api.recommend."""
    if unknown not in UNKNOWN:
        raise InputError(f"unknown = {unknown!r}: must be {' or '.join(UNKNOWN)}")
    if nearest and new_items is None:
        raise InputError(f"nearest = {nearest}: needs new items, and none are given")
    if spread != 1 and new_items is None:
        raise InputError(f"spread = {spread}: needs new items, and none are given")
    if new_items is not None:
        model = with_new_items(model, *new_items, nearest=nearest, spread=spread)
    if histories is not None:
        model = with_histories(model, histories, unknown)
    if candidates is not None:
        model = with_candidates(model, candidates)
    if excluded is None:
        return model, None
    pairs = list(excluded)
    return model, pairs_of(model, [user for user, _ in pairs], [item for _, item in pairs])
