"""The answers that the page asks for."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs

import numpy as np
from pydantic_core import to_json

from ..catalogue import Query, Ranked
from ..limits import Refusal
from ..messages import parse
from ..service import Service
from . import pictures
from .content import Content
from .messages import ColdRequest, FindRequest, ItemRequest, PersonRequest

STATIC = Path(__file__).resolve().parent / "static"
FILES = {
    "page.html": b"text/html; charset=utf-8",
    "page.css": b"text/css; charset=utf-8",
    "page.js": b"text/javascript; charset=utf-8",
    "parts.js": b"text/javascript; charset=utf-8",
    "map.js": b"text/javascript; charset=utf-8",
    "icon.svg": b"image/svg+xml",
}
# The page may load its own files and nothing else, and no other site may show it in a frame.
HEADERS = [
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        b"base-uri 'none'; form-action 'none'; frame-ancestors 'none'",
    ),
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"cross-origin-resource-policy", b"same-origin"),
    (b"cache-control", b"no-cache"),
]
LONGEST_TEXT, FOUND, MOST = 200, 12, 100
LONGEST_HISTORY = 500  # of a new user on the page


class Page:
    """The answers, from the catalogue that the service uses at the moment."""

    def __init__(self, service: Service) -> None:
        self.service = service

    def _content(self) -> Content:
        return self.service.catalogue.page

    async def start(self, body: bytes) -> bytes:
        """What the page needs once: the model, the groups, the names of the parts."""
        content = self._content()
        catalogue = content.catalogue
        data = catalogue.model.interactions
        groups = content.groups
        return to_json(
            {
                "model": catalogue.version,
                "data": data.name,
                "system": catalogue.model.metadata.get("system", ""),
                "users": len(catalogue.user_ids),
                "items": len(catalogue.item_ids),
                "interactions": int(data.train.nnz),
                "cold": len(content.cold),
                "parts": content.parts.names,
                "no_parts": content.parts.why_not,
                "no_histories": catalogue.no_histories,
                "column": content.options.colour,
                "titled": content.options.title is not None,
                "pictures": content.folder is not None,
                "groups": [] if groups is None else groups.described(),
                "ordered": groups is not None and groups.ordered,
                "examples": [str(catalogue.user_ids[user]) for user in content.examples],
            }
        )

    async def find(self, body: bytes) -> bytes:
        """Users or items that a text describes."""
        request, content = parse(FindRequest, body), self._content()
        if len(request.text) > LONGEST_TEXT:
            raise Refusal(422, f"text: has {len(request.text)} characters, the maximum is {LONGEST_TEXT}; shorten it")
        if request.kind == "items":
            return to_json({"found": [content.item(item) for item in content.find_items(request.text, FOUND)]})
        ids, sizes = content.catalogue.user_ids, content.history_sizes
        found = content.find_users(request.text, FOUND)
        return to_json({"found": [{"id": str(ids[user]), "count": int(sizes[user])} for user in found]})

    async def person(self, body: bytes) -> bytes:
        """History and recommendations of a user, and the best of the items without interactions."""
        request, content = parse(PersonRequest, body), self._content()
        catalogue = content.catalogue
        self._check_k(request.k)
        if (request.user is None) == (request.history is None):
            raise Refusal(422, "the body: give either a user or a history")
        if request.user is not None:
            user = catalogue.find_user(request.user, "user")
            queries, prepare, history = [Query(user, request.k)], None, catalogue.seen(user)
        else:
            if catalogue.no_histories:
                raise Refusal(422, f"history: {catalogue.no_histories}")
            if len(request.history or []) > LONGEST_HISTORY:
                raise Refusal(422, f"history: has {len(request.history or [])} items, the maximum is {LONGEST_HISTORY}")
            user, history = -1, catalogue.find_items(request.history or [], "history")
            queries = [Query(-1, request.k, exclude=history)]

            def prepare() -> None:
                vector = catalogue.embed([history])[0]
                for query in queries:
                    query.vector = vector

        if not content.no_cold:
            queries.append(Query(user, min(request.k, 12), candidates=content.cold, exclude=queries[0].exclude))
        lists = await self.service.batcher.submit(catalogue, queries, prepare)
        vector = queries[0].vector if user < 0 else catalogue.user_vector(user)
        if vector is None:
            raise ValueError("person: the user has no embedding")
        by_score = content.by_score(vector, history)
        return to_json(
            {
                "user": None if user < 0 else str(catalogue.user_ids[user]),
                "model": catalogue.version,
                "known": bool((vector != 0).any()),
                "history": [content.item(int(item)) for item in by_score[:MOST]],
                "history_size": len(history),
                "items": self._scored(content, vector, lists[0]),
                "cold": [] if content.no_cold else self._scored(content, vector, lists[1]),
                "no_cold": content.no_cold,
            }
        )

    @staticmethod
    def _scored(content: Content, vector: Any, ranked: Ranked) -> list[dict[str, Any]]:
        index = np.array([content.catalogue.item_index[str(item)] for item in ranked[0]], np.int64)
        parts = content.parts.of(vector, index)
        return [
            {**content.item(item), "score": score, "parts": own}
            for item, score, own in zip(index.tolist(), ranked[1], parts, strict=True)
        ]

    async def item(self, body: bytes) -> bytes:
        """An item, and the similar ones: by the embeddings that score the items, and by their features alone."""
        request, content = parse(ItemRequest, body), self._content()
        catalogue = content.catalogue
        self._check_k(request.k)
        item = catalogue.find_item(request.item, "item")
        reasons = {by: catalogue.cannot_be_compared(item, by == "features") for by in ("all", "features")}
        asked = [by for by, reason in reasons.items() if not reason]
        queries = [Query(-1, request.k, item=item, by_features=by == "features") for by in asked]
        lists = dict(zip(asked, await self.service.batcher.submit(catalogue, queries), strict=True))
        answer: dict[str, Any] = {"item": content.item(item), "model": catalogue.version}
        for by, reason in reasons.items():
            found, cosines = lists.get(by, ([], []))
            similar = [content.item(catalogue.item_index[str(one)]) for one in found]
            entries = [{**one, "cosine": cosine} for one, cosine in zip(similar, cosines, strict=True)]
            answer[by] = {"items": entries, "reason": reason}
        return to_json(answer)

    async def cold(self, body: bytes) -> bytes:
        """Items without training interactions, in the order of the catalogue."""
        request, content = parse(ColdRequest, body), self._content()
        self._check_k(request.k)
        if not 0 <= request.start < 1 << 31:
            raise Refusal(422, "start: must be from 0 to 2147483647")
        items = content.cold[request.start : request.start + request.k].tolist()
        return to_json(
            {"items": [content.item(item) for item in items], "total": len(content.cold), "reason": content.no_cold}
        )

    async def map(self, body: bytes) -> bytes:
        """The positions, groups, ids and titles of the items on the map."""
        content = self._content()
        groups, found = content.groups, dict(content.map)
        items = found.pop("items")
        found["ids"] = [str(content.catalogue.item_ids[item]) for item in items]
        found["titles"] = [content.titles[item] for item in items]
        found["groups"] = [0 if groups is None else int(groups.of[item]) for item in items]
        return to_json(found)

    async def picture(self, query: bytes) -> tuple[bytes, bytes]:
        """The picture of an item: the file that the table names, never one that a request names."""
        content = self._content()
        try:
            item = parse_qs(query.decode("ascii"), max_num_fields=4).get("item", [""])[0]
        except ValueError:
            raise Refusal(422, "item: give the id of an item in the query") from None
        index = content.catalogue.find_item(item, "item")
        name, folder, found = content.pictures[index], content.folder, None
        if name and folder is not None:
            found = await asyncio.to_thread(pictures.read, folder, name)
        if found is None:
            raise Refusal(404, "the item has no picture")
        return found

    @staticmethod
    def _check_k(k: int) -> None:
        if not 1 <= k <= MOST:
            raise Refusal(422, f"k: must be from 1 to {MOST}")


def files() -> dict[str, tuple[bytes, bytes]]:
    """{name: (content, media type)} of the files of the page."""
    return {name: ((STATIC / name).read_bytes(), kind) for name, kind in FILES.items()}
