"""The requests of the page."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, StrictInt, StrictStr

from ..messages import Id, Ids, Message


class FindRequest(Message):
    """Users by their id, or items by their title."""

    kind: Literal["users", "items"]
    text: StrictStr = Field("", description="A part of the id or title; empty: any.")


class PersonRequest(Message):
    """A known user, or a new one by a history."""

    user: Id | None = None
    history: Ids | None = None
    k: StrictInt = 20


class ItemRequest(Message):
    item: Id
    k: StrictInt = 12


class ColdRequest(Message):
    start: StrictInt = 0
    k: StrictInt = 48
