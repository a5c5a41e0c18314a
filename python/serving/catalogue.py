"""A loaded model, ready to rank: the lists of many requests in one call."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Mapping, Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from torch import Tensor

from mmssl_fast import InteractionGraph, SeenRows, cosine_topk

from ..data import SPLITS
from ..embeddings import dense
from ..errors import InputError, shown
from ..inference.new_items import embed_both
from ..inference.towers import item_tower, user_tower
from ..ranking import Ranking
from ..runs import saved_model
from ..runs.diversity import diverse, pool_size
from ..runs.recommend import EXCLUDE, id_hashes, popularity_of, seen_interactions
from ..runs.saved_model import Model
from .filters import Filters
from .limits import Refusal


@dataclass(slots=True, eq=False)
class Fresh:
    """New items of a request. embeddings: [n, d]."""

    ids: list[int | str]
    embeddings: Tensor


@dataclass(slots=True)
class Query:
    """A list to compute. user: index; −1 for a new user. vector: embedding [d] of a new user. item: index of the item
    whose similar items are wanted, −1 for a recommendation. exclude: indices. candidates: distinct indices in ascending
    order, or None. diversity: as in `recommend`. by_features: the items whose features are similar, to those of `item`,
    or without one to the embedding `vector`. fresh: new items, which are ranked instead of those of the catalogue."""

    user: int
    k: int
    vector: Tensor | None = None
    item: int = -1
    exclude: np.ndarray | None = None
    candidates: np.ndarray | None = None
    diversity: float = 0.0
    by_features: bool = False
    fresh: Fresh | None = None

    def depth(self, n_items: int) -> int:
        """Length of the ranking that the list is chosen from."""
        return pool_size(self.k, n_items) if self.diversity else self.k

    @property
    def kind(self) -> tuple[str, int]:
        """Queries of the same kind are computed together."""
        if self.fresh is not None:
            return "fresh", id(self.fresh)
        if self.item >= 0 or self.by_features:
            return "similar", int(self.by_features)
        return ("all", 0) if self.candidates is None else ("candidates", id(self.candidates))


# Of a query: original ids, and scores.
Ranked = tuple[list[int | str], list[float]]


class Catalogue:
    """The users and items of a model. It is not changed after it was made; a reload makes another one.

    exclude: the interactions that are left out of a user's lists, those of "train" or of "all" splits.

    filters: the columns by whose values requests may choose items. page: what the page shows. `Sources.load` sets them.
    """

    def __init__(self, model: Model, exclude: str = "train") -> None:
        if exclude not in EXCLUDE:
            raise InputError(f"exclude = {exclude!r}: must be {' or '.join(EXCLUDE)}")
        dataset = model.interactions
        self._users, self._items = dense(model.users, "serve"), dense(model.items, "serve")
        for name, table in (("users", self._users), ("items", self._items)):
            if not len(table):
                raise InputError(f"the model has no {name}; train it again")
            if not bool(torch.isfinite(table).all()):
                raise InputError(f"embedding.{name} contains values that are not finite; train the model again")
        self.model = model
        self.user_ids = dataset.original_users(np.arange(dataset.n_users)).tolist()
        self.item_ids = dataset.original_items(np.arange(dataset.n_items)).tolist()
        self.user_index = {str(user): index for index, user in enumerate(self.user_ids)}
        self.item_index = {str(item): index for index, item in enumerate(self.item_ids)}
        self.loaded = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())
        self.version = _version(self._users, self._items)
        self._popularity = popularity_of(model)
        self._labels = id_hashes(dataset.original_items(np.arange(dataset.n_items)))
        seen = seen_interactions(dataset, exclude)
        none = sp.csr_array((1, dataset.n_items), dtype=seen.dtype)  # what a new user, the last one here, has seen
        self._seen = sp.csr_array(sp.vstack([seen, none], format="csr"))
        self._ranking = Ranking(self._items, self._popularity, InteractionGraph.from_scipy(self._seen), self._labels)
        self._with_embedding = (self._items != 0).any(1)
        self._similar_to = self._with_embedding.nonzero()[:, 0]
        self._unit_items = self._items[self._similar_to]
        self._similar_place = torch.cumsum(self._with_embedding, 0) - 1

        self.filters: Filters | None = None
        self.page: Any = None  # a page.content.Content
        self.n_trained = (model.base or model).interactions.n_items
        self.no_histories = ""  # why the model cannot embed a user by a history
        try:
            self._tower = user_tower(model)
        except InputError as error:
            self.no_histories = str(error)
        self.content: Tensor | None = None
        self.no_features = ""  # why the model cannot embed an item by its features
        try:
            self.item_tower = item_tower(model)
            self.content = model.content
        except InputError as error:
            self.no_features = str(error)

    @classmethod
    def load(cls, run: str | Path, exclude: str = "train") -> Catalogue:
        """The catalogue of a run folder or model file. Raises InputError that names the file and what it lacks."""
        model = in_memory(run)
        try:
            return cls(model, exclude)
        except InputError as error:
            raise InputError(f"{run}: {error}") from None

    def find_user(self, user: int | str, place: str) -> int:
        """The index of a user. Raises Refusal that names the id and its place in the request."""
        index = self.user_index.get(str(user))
        if index is None:
            raise Refusal(422, f"{place}: the model has no user {shown(user)}; send the history of a new user")
        return index

    def find_item(self, item: int | str, place: str) -> int:
        """The index of an item. Raises Refusal that names the id and its place in the request."""
        index = self.item_index.get(str(item))
        if index is None:
            raise Refusal(422, f"{place}: the model has no item {shown(item)}; leave it out, or send skip_unknown")
        return index

    def find_items(self, items: Sequence[int | str], place: str, skip_unknown: bool = False) -> np.ndarray:
        """The distinct indices of items, in ascending order. Raises Refusal that names the first unknown id, or leaves
        unknown ids out."""
        if skip_unknown:
            found = [index for item in items if (index := self.item_index.get(str(item))) is not None]
        else:
            found = [self.find_item(item, f"{place}[{row}]") for row, item in enumerate(items)]
        return np.unique(np.array(found, np.int64))

    @torch.no_grad()
    def embed(self, histories: Sequence[np.ndarray]) -> Tensor:
        """Embeddings [n, d] of new users, as of `fold_in`. histories: distinct indices of items, in ascending order.
        Items that training never saw say nothing about a user."""
        histories = [history[history < self.n_trained] for history in histories]
        crow = np.cumsum([0, *(len(history) for history in histories)])
        return self._tower(torch.from_numpy(crow), torch.from_numpy(np.concatenate(histories)))

    def embed_items(self, features: Mapping[str, np.ndarray], nearest: int = 0) -> tuple[Tensor, Tensor]:
        """Embeddings [n, d] of new items as of the function of this name, and those by features alone, to compare with
        `by_features`. Raises InputError."""
        return embed_both(self.model, features, nearest)

    @property
    def known_items(self) -> np.ndarray:
        """bool [I]: whether the embedding of an item is not zero."""
        return self._with_embedding.numpy()

    def user_vector(self, user: int) -> Tensor:
        """The embedding [d] of a user."""
        return self._users[user]

    def item_vectors(self, items: np.ndarray) -> Tensor:
        """The embeddings [n, d] of items."""
        return self._items[torch.from_numpy(items)]

    def seen(self, user: int) -> np.ndarray:
        """The items that are left out of a user's lists."""
        return self._seen.indices[self._seen.indptr[user] : self._seen.indptr[user + 1]].astype(np.int64)

    def cannot_be_compared(self, item: int, by_features: bool = False) -> str:
        """Why no items are similar to this one, "" if there are such: its embedding is zero."""
        if by_features:
            if self.content is None:
                return self.no_features
            if not bool((self.by_features(torch.tensor([item])) != 0).any()):
                return f"nothing is known about the item {shown(self.item_ids[item])}: its features are 0"
        elif not self._with_embedding[item]:
            return f"nothing is known about the item {shown(self.item_ids[item])}: its embedding is zero"
        return ""

    @torch.no_grad()
    def by_features(self, items: Tensor | slice = slice(None)) -> Tensor:
        """The embeddings [n, d] of items by their features alone."""
        if self.content is None:
            raise ValueError(f"by_features: {self.no_features}")
        return self.item_tower.cold(self.content[items])

    def rank(self, queries: Sequence[Query]) -> list[Ranked]:
        """The lists of the queries, in their order. They are the same whichever queries come together."""
        answers: list[Ranked] = [([], [])] * len(queries)
        groups: dict[tuple[str, int], list[int]] = {}
        for n, query in enumerate(queries):
            groups.setdefault(query.kind, []).append(n)
        find = {
            "all": self._recommended,
            "candidates": self._among,
            "similar": self._similar,
            "fresh": self._among_fresh,
        }
        for (kind, _), group in groups.items():
            for n, answer in zip(group, find[kind]([queries[n] for n in group]), strict=True):
                answers[n] = answer
        return answers

    def _vectors(self, queries: Sequence[Query]) -> tuple[Tensor, Tensor]:
        """(embeddings, rows of `_seen`) of the users of the queries."""
        index = torch.tensor([query.user for query in queries])
        vectors = self._users[index.clamp(min=0)]
        for row, query in enumerate(queries):
            if query.vector is not None:
                vectors[row] = query.vector
        return vectors, torch.where(index < 0, len(self.user_ids), index)

    def _recommended(self, queries: Sequence[Query]) -> list[Ranked]:
        vectors, index = self._vectors(queries)
        excluded = [query.exclude for query in queries]
        more = _pairs(excluded) if any(one is not None for one in excluded) else None
        depth = max(query.depth(len(self.item_ids)) for query in queries)
        return self._lists(queries, *self._ranking.best(vectors, index, depth, more), len(self.item_ids))

    def _among(self, queries: Sequence[Query]) -> list[Ranked]:
        """The lists of queries with the same candidates: the ranking of these items alone."""
        kept = queries[0].candidates
        if kept is None or not len(kept):
            return [([], [])] * len(queries)
        vectors, index = self._vectors(queries)
        out: list[np.ndarray | None] = []
        for row, query in zip(index.tolist(), queries, strict=True):
            seen = self._seen.indices[self._seen.indptr[row] : self._seen.indptr[row + 1]]
            items = seen if query.exclude is None else np.concatenate([seen, query.exclude])
            place = np.searchsorted(kept, items).clip(max=len(kept) - 1)
            out.append(np.unique(place[kept[place] == items]))
        ranking = Ranking(self._items[kept], self._popularity[kept], None, self._labels[kept])
        depth = max(query.depth(len(kept)) for query in queries)
        scores, found = ranking.best(vectors, torch.zeros(len(queries), dtype=torch.int64), depth, _pairs(out))
        items = torch.where(found < 0, -1, torch.from_numpy(kept)[found.clamp(min=0)])
        return self._lists(queries, scores, items, len(kept))

    def _among_fresh(self, queries: Sequence[Query]) -> list[Ranked]:
        """The lists of the new items of a request."""
        fresh = queries[0].fresh
        if fresh is None:
            raise ValueError("_among_fresh: a query without new items")
        vectors, _ = self._vectors(queries)
        ranking = Ranking(fresh.embeddings, None, None, id_hashes(np.array(fresh.ids, object)))
        depth = max(query.k for query in queries)
        scores, found = ranking.best(vectors, torch.zeros(len(queries), dtype=torch.int64), depth)
        return self._lists(queries, scores, found, len(fresh.ids), fresh.ids)

    @torch.no_grad()
    def _similar(self, queries: Sequence[Query]) -> list[Ranked]:
        if queries[0].by_features:
            table = self.by_features()
            there = (table != 0).any(1)
            places = there.nonzero()[:, 0]
            candidates, place = table[places], torch.cumsum(there, 0) - 1
        else:
            table, candidates = self._items, self._unit_items
            places, place = self._similar_to, self._similar_place
        index = torch.tensor([query.item for query in queries])
        vectors = table[index.clamp(min=0)]
        for row, query in enumerate(queries):
            if query.vector is not None:
                vectors[row] = query.vector
        known = index >= 0
        own = SeenRows(F.pad(known.cumsum(0), (1, 0)), place[index[known]])
        k = min(max(query.k for query in queries), len(places))
        cosines, found = cosine_topk(vectors, candidates, k, own)
        items = torch.where(found < 0, -1, places[found.clamp(min=0)])
        return self._lists(queries, cosines, items, len(self.item_ids))

    def _lists(
        self, queries: Sequence[Query], scores: Tensor, items: Tensor, n_items: int, ids: Sequence[int | str] = ()
    ) -> list[Ranked]:
        """The lists from the rankings. n_items: items that were ranked. ids: their ids, if they are new items."""
        names, lists = ids or self.item_ids, []
        various: dict[tuple[int, float], list[int]] = {}
        for row, query in enumerate(queries):
            if query.diversity:
                various.setdefault((query.k, query.diversity), []).append(row)
        chosen: dict[int, tuple[Tensor, Tensor]] = {}
        for (k, diversity), rows in various.items():
            depth = pool_size(k, n_items)
            found = diverse(scores[rows, :depth], items[rows, :depth], self._items, k, diversity)
            chosen |= {row: pair for row, *pair in zip(rows, *found, strict=True)}  # type: ignore[misc]
        lengths = (items >= 0).sum(1).tolist()
        for row, (query, length, own, values) in enumerate(
            zip(queries, lengths, items.tolist(), scores.tolist(), strict=True)
        ):
            if row in chosen:
                values, own = (part.tolist() for part in chosen[row])
            k = min(query.k, length)
            lists.append(([names[item] for item in own[:k]], values[:k]))
        return lists


def _pairs(items: Sequence[np.ndarray | None]) -> tuple[Tensor, Tensor]:
    """(rows, items) of the items of every row."""
    parts = [np.empty(0, np.int64) if one is None else one for one in items]
    rows = np.repeat(np.arange(len(parts)), [len(one) for one in parts])
    return torch.from_numpy(rows), torch.from_numpy(np.concatenate(parts).astype(np.int64))


def in_memory(run: str | Path) -> Model:
    """The model of a run folder or model file, in memory of its own.

    The tensors of a safetensors file are mapped: if somebody copies another model over the file, they change.
    """
    model = saved_model.load(run)
    data = model.interactions
    names = (*SPLITS, "user_ids", "item_ids")
    copies: dict[str, Any] = {name: deepcopy(getattr(data, name)) for name in names}
    return replace(
        model,
        users=deepcopy(model.users),
        items=deepcopy(model.items),
        parameters={name: tensor.clone() for name, tensor in model.parameters.items()},
        scaling=deepcopy(model.scaling),
        content=None if model.content is None else model.content.clone(),
        interactions=replace(data, **copies),
    )


def _version(*tables: Tensor) -> str:
    digest = hashlib.sha256()
    for table in tables:
        digest.update(np.ascontiguousarray(table.numpy()).data)
    return digest.hexdigest()[:16]
