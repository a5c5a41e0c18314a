"""What the service answers: the requests as queries, the lists as answers, and reloading of the model."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import Any

import numpy as np
from pydantic_core import to_json

from ..errors import InputError, first_line
from .batching import Batcher
from .catalogue import Catalogue, Query
from .limits import Limits, Refusal
from .logs import log
from .messages import RecommendRequest, SimilarRequest, parse
from .metrics import Metrics


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
        self._check_k(request.k)
        if (request.users is None) == (request.histories is None):
            raise Refusal(422, "the body: give either users or histories")
        self._check_count("exclude", request.exclude, self.limits.ids, "shorten it")
        exclude = catalogue.find_items(request.exclude, "exclude") if request.exclude else None
        candidates = None
        if request.candidates is not None:
            self._check_count("candidates", request.candidates, self.limits.ids, "shorten it")
            candidates = catalogue.find_items(request.candidates, "candidates")
        histories: list[np.ndarray] = []
        if request.users is not None:
            self._check_count("users", request.users, self.limits.lists, "send several requests")
            index = [catalogue.find_user(user, f"users[{row}]") for row, user in enumerate(request.users)]
            queries = [Query(user, request.k, exclude=exclude, candidates=candidates) for user in index]
            names: list[int | str | None] = [catalogue.user_ids[user] for user in index]
        else:
            histories = self._histories(catalogue, request.histories or [])
            out = [history if exclude is None else np.union1d(history, exclude) for history in histories]
            queries = [Query(-1, request.k, exclude=items, candidates=candidates) for items in out]
            names = [None] * len(histories)
        lists = await self.batcher.submit(catalogue, queries, histories)
        answers = [
            {"user": user, "items": items, "scores": scores} for user, (items, scores) in zip(names, lists, strict=True)
        ]
        return to_json({"lists": answers, "model": catalogue.version})

    def _histories(self, catalogue: Catalogue, histories: list[list[int | str]]) -> list[np.ndarray]:
        """The indices of the items of new users."""
        if catalogue.no_histories:
            raise Refusal(422, f"histories: {catalogue.no_histories}")
        self._check_count("histories", histories, self.limits.lists, "send several requests")
        for row, history in enumerate(histories):
            self._check_count(f"histories[{row}]", history, self.limits.ids, "shorten it")
        return [catalogue.find_items(history, f"histories[{row}]") for row, history in enumerate(histories)]

    async def similar(self, body: bytes) -> bytes:
        """The answer to POST /similar. Raises Refusal."""
        request, catalogue = parse(SimilarRequest, body), self.catalogue
        self._check_k(request.k)
        self._check_count("items", request.items, self.limits.lists, "send several requests")
        index = [catalogue.find_item(item, f"items[{row}]") for row, item in enumerate(request.items)]
        for row, item in enumerate(index):
            if not catalogue.can_be_compared(item):
                name = catalogue.item_ids[item]
                raise Refusal(422, f"items[{row}]: nothing is known about the item {name!r}: its embedding is zero")
        lists = await self.batcher.submit(catalogue, [Query(-1, request.k, item=item) for item in index])
        answers = [
            {"item": catalogue.item_ids[item], "items": items, "cosines": cosines}
            for item, (items, cosines) in zip(index, lists, strict=True)
        ]
        return to_json({"lists": answers, "model": catalogue.version})

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

    def _check_k(self, k: int) -> None:
        if not 1 <= k <= self.limits.k:
            raise Refusal(422, f"k: is {k if abs(k) < 10**18 else 'too large'}, but must be from 1 to {self.limits.k}")

    def _check_count(self, name: str, values: list[Any], most: int, advice: str) -> None:
        if len(values) > most:
            raise Refusal(422, f"{name}: has {len(values)} entries, the maximum is {most}; {advice}")
