"""What the service answers: the requests as queries, the lists as answers, and reloading of the model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from pydantic_core import to_json

from ..data.arrow import LONGEST_ID, is_id
from ..errors import InputError, first_line, shown
from .batching import Batcher
from .catalogue import Catalogue, Fresh, Query, Ranked
from .limits import Limits, Refusal
from .logs import log
from .messages import ItemsRequest, RecommendRequest, SimilarRequest, parse
from .metrics import Metrics

MOST_NEAREST = 100  # their embeddings are summed for every known item when a number is first asked for
MOST_DIVERSE = 100  # items of a list with diversity, which takes time for each of them


class Service:
    """The state of the service: the catalogue in use, the batcher and the metrics.

    load: makes the catalogue, when the service starts and at every reload. Raises what it raises at the start.
    """

    def __init__(self, load: Callable[[], Catalogue], limits: Limits | None = None, log_requests: bool = False) -> None:
        self.limits, self.log_requests = limits or Limits(), log_requests
        self.metrics = Metrics()
        self.batcher = Batcher(self.limits.lists, self.limits.waiting, self.metrics.computed)
        self.active = 0
        self._load, self._reloading = load, asyncio.Lock()
        self.reload_error: str | None = None
        self.catalogue = load()
        self.metrics.use(self.catalogue.version)

    async def reload(self) -> bool:
        """Load the model again and use it from the next request on. Requests that have been read are answered by the
        model that they were checked against. If loading fails, the model in use stays, and False is returned."""
        async with self._reloading:
            try:
                catalogue = await asyncio.to_thread(self._load)
            except Exception as error:
                self.reload_error = str(error) if isinstance(error, InputError) else first_line(error)
                self.metrics.reloaded(False)
                unexpected = None if isinstance(error, InputError) else error
                log("reload failed", logging.ERROR, unexpected, error=self.reload_error, model=self.catalogue.version)
                return False
            self.catalogue, self.reload_error = catalogue, None
            self.metrics.reloaded(True)
            self.metrics.use(catalogue.version)
            log("reloaded", model=catalogue.version, users=len(catalogue.user_ids), items=len(catalogue.item_ids))
            return True

    async def recommend(self, body: bytes) -> bytes:
        """The answer to POST /recommend. Raises Refusal."""
        request, catalogue = parse(RecommendRequest, body), self.catalogue
        self._check_k(request.k, bool(request.diversity))
        if (request.users is None) == (request.histories is None):
            raise Refusal(422, "the body: give either users or histories")
        self._check_count("exclude", request.exclude, self.limits.ids, "shorten it")
        skip = request.skip_unknown
        exclude = catalogue.find_items(request.exclude, "exclude", skip) if request.exclude else None
        people = self._people(catalogue, request)
        allowed = self._allowed(catalogue, request)
        queries = []
        for user, history in zip(people.index, people.histories, strict=True):
            out = [items for items in (history, exclude) if items is not None]
            items = np.unique(np.concatenate(out)) if out else None
            queries.append(
                Query(user, request.k, exclude=items, candidates=allowed, diversity=float(request.diversity))
            )
        lists = await self.batcher.submit(catalogue, queries, people.embedding(catalogue, queries))
        return to_json({"lists": people.lists(lists), "model": catalogue.version})

    def _people(self, catalogue: Catalogue, request: RecommendRequest | ItemsRequest) -> People:
        """The users or histories of a request."""
        if request.histories is not None:
            if catalogue.no_histories:
                raise Refusal(422, f"histories: {catalogue.no_histories}")
            self._check_count("histories", request.histories, self.limits.lists, "send several requests")
            for row, history in enumerate(request.histories):
                self._check_count(f"histories[{row}]", history, self.limits.ids, "shorten it")
            found = [
                catalogue.find_items(history, f"histories[{row}]", request.skip_unknown)
                for row, history in enumerate(request.histories)
            ]
            return People([-1] * len(found), found, [None] * len(found))
        users = request.users or []
        self._check_count("users", users, self.limits.lists, "send several requests")
        index = [catalogue.find_user(user, f"users[{row}]") for row, user in enumerate(users)]
        return People(index, [None] * len(index), [catalogue.user_ids[user] for user in index])

    def _allowed(self, catalogue: Catalogue, request: RecommendRequest) -> np.ndarray | None:
        """The items that candidates and filters allow, None for all."""
        allowed = None
        if request.candidates is not None:
            self._check_count("candidates", request.candidates, self.limits.ids, "shorten it")
            allowed = catalogue.find_items(request.candidates, "candidates", request.skip_unknown)
            if request.candidates and not len(allowed):
                raise Refusal(422, "candidates: none of them is an item of the model; give ids as in the data")
        if request.filters:
            if catalogue.filters is None:
                raise Refusal(422, "filters: there is no column; start the service with --items and --filter-column")
            for column, values in request.filters.items():
                if isinstance(values, list):
                    self._check_count(f"filters.{shown(column)}", values, self.limits.ids, "shorten it")
            chosen = catalogue.filters.find(request.filters)
            allowed = chosen if allowed is None else np.intersect1d(allowed, chosen, assume_unique=True)
            if not len(allowed):
                raise Refusal(422, "filters: no item is left to recommend; check the candidates and the filters")
        return allowed

    async def similar(self, body: bytes) -> bytes:
        """The answer to POST /similar. Raises Refusal."""
        request, catalogue = parse(SimilarRequest, body), self.catalogue
        self._check_k(request.k)
        self._check_count("items", request.items, self.limits.lists, "send several requests")
        index = [catalogue.find_item(item, f"items[{row}]") for row, item in enumerate(request.items)]
        by_features = request.by == "features"
        for row, item in enumerate(index):
            if reason := catalogue.cannot_be_compared(item, by_features):
                raise Refusal(422, f"items[{row}]: {reason}")
        queries = [Query(-1, request.k, item=item, by_features=by_features) for item in index]
        lists = await self.batcher.submit(catalogue, queries)
        answers = [
            {"item": catalogue.item_ids[item], "items": items, "cosines": cosines}
            for item, (items, cosines) in zip(index, lists, strict=True)
        ]
        return to_json({"lists": answers, "model": catalogue.version})

    async def items(self, body: bytes) -> bytes:
        """The answer to POST /items. Raises Refusal."""
        request, catalogue = parse(ItemsRequest, body), self.catalogue
        self._check_k(request.k)
        most = {"similar": self.limits.k, "nearest": min(MOST_NEAREST, self.limits.k)}
        for name, count in (("similar", request.similar), ("nearest", request.nearest)):
            if not 0 <= count <= most[name]:
                raise Refusal(422, f"{name}: is {_number(count)}, but must be from 0 to {most[name]}")
        if catalogue.no_features:
            raise Refusal(422, f"features: {catalogue.no_features}")
        if request.users is not None and request.histories is not None:
            raise Refusal(422, "the body: give either users or histories, or neither")
        self._check_count("items", request.items, self.limits.lists, "send several requests")
        if not request.items:
            raise Refusal(422, "items: is empty; give the id of at least one new item")
        seen: set[str] = set()
        for row, item in enumerate(request.items):
            if not is_id(str(item)):
                advice = f"ids must have 1 to {LONGEST_ID} characters, all printable"
                raise Refusal(422, f"items[{row}]: the new item {shown(str(item))} is no id; {advice}")
            if str(item) in catalogue.item_index or str(item) in seen:
                where = "occurs twice" if str(item) in seen else "is already an item of the model"
                raise Refusal(422, f"items[{row}]: the new item {shown(item)} {where}; leave it out")
            seen.add(str(item))
        people = self._people(catalogue, request)
        fresh = Fresh(list(request.items), torch.empty(0))
        queries = [Query(user, request.k, fresh=fresh) for user in people.index]
        nearby = [Query(-1, request.similar, by_features=True) for _ in request.items if request.similar]
        embed_users = people.embedding(catalogue, queries)

        def prepare() -> None:
            try:
                arrays = {name: _rows(name, rows, len(request.items)) for name, rows in request.features.items()}
                fresh.embeddings, by_features = catalogue.embed_items(arrays, request.nearest)
            except InputError as error:
                raise Refusal(422, str(error)) from None
            for query, vector in zip(nearby, by_features, strict=False):
                query.vector = vector
            if embed_users is not None:
                embed_users()

        lists = await self.batcher.submit(catalogue, [*queries, *nearby], prepare)
        return to_json(
            {
                "lists": people.lists(lists[: len(queries)]),
                "similar": [
                    {"item": item, "items": items, "cosines": cosines}
                    for item, (items, cosines) in zip(request.items, lists[len(queries) :], strict=False)
                ],
                "model": catalogue.version,
            }
        )

    async def health(self, body: bytes) -> bytes:
        catalogue = self.catalogue
        facts: dict[str, Any] = {
            "status": "ok",
            "model": catalogue.version,
            "system": catalogue.model.metadata.get("system", ""),
            "data": catalogue.model.interactions.name,
            "users": len(catalogue.user_ids),
            "items": len(catalogue.item_ids),
            "loaded": catalogue.loaded,
            "reload_error": self.reload_error,
        }
        return to_json(facts)

    async def measured(self, body: bytes) -> bytes:
        self.metrics.waiting.set(self.batcher.waiting)
        self.metrics.active.set(self.active)
        return self.metrics.text()

    def _check_k(self, k: int, diverse: bool = False) -> None:
        most = min(MOST_DIVERSE, self.limits.k) if diverse else self.limits.k
        if not 1 <= k <= most:
            why = " with diversity" if diverse else ""
            raise Refusal(422, f"k: is {_number(k)}, but must be from 1 to {most}{why}")

    @staticmethod
    def _check_count(name: str, values: list[Any], most: int, advice: str) -> None:
        if len(values) > most:
            raise Refusal(422, f"{name}: has {len(values)} entries, the maximum is {most}; {advice}")


@dataclass(slots=True)
class People:
    """The users of a request. index: −1 for a new one. histories: their items, None for a known user. names: ids."""

    index: list[int]
    histories: Sequence[np.ndarray | None]
    names: Sequence[int | str | None]

    def embedding(self, catalogue: Catalogue, queries: Sequence[Query]) -> Callable[[], None] | None:
        """What gives the queries the embeddings of the new users, None without any."""
        histories = [history for history in self.histories if history is not None]
        if not histories:
            return None

        def embed() -> None:
            for query, vector in zip(queries, catalogue.embed(histories), strict=True):
                query.vector = vector

        return embed

    def lists(self, ranked: Sequence[Ranked]) -> list[dict[str, Any]]:
        return [
            {"user": user, "items": items, "scores": scores}
            for user, (items, scores) in zip(self.names, ranked, strict=True)
        ]


def _rows(name: str, rows: list[list[float]], count: int) -> np.ndarray:
    """Features as a matrix. Raises InputError that names the first row of another length."""
    for row, values in enumerate(rows):
        if len(values) != len(rows[0]):
            raise InputError(
                f"features.{shown(name)}[{row}]: has {len(values)} numbers, the first row has {len(rows[0])}"
            )
    if len(rows) != count:
        raise InputError(f"features.{shown(name)}: has {len(rows)} rows for {count} new items")
    return np.array(rows)


def _number(value: int) -> str:
    return str(value) if abs(value) < 10**18 else "too large"
