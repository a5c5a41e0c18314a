"""A loaded model, ready to rank: the lists of many requests in one call."""

from __future__ import annotations

import hashlib
import time
from collections.abc import Sequence
from copy import deepcopy
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from torch import Tensor

from mmssl_fast import InteractionGraph, SeenRows, cosine_topk

from ..data import SPLITS
from ..embeddings import dense
from ..errors import InputError, shown
from ..inference.towers import user_tower
from ..ranking import Ranking
from ..runs import saved_model
from ..runs.recommend import EXCLUDE, id_hashes, popularity_of, seen_interactions
from ..runs.saved_model import Model
from .limits import Refusal


@dataclass(slots=True)
class Query:
    """A list to compute. user: index; −1 for a new user. vector: embedding [d] of a new user. item: index of the item
    whose similar items are wanted, −1 for a recommendation. exclude: indices. candidates: distinct indices, or None."""

    user: int
    k: int
    vector: Tensor | None = None
    item: int = -1
    exclude: np.ndarray | None = None
    candidates: np.ndarray | None = None


# Of a query: original ids, and scores.
Ranked = tuple[list[int | str], list[float]]


class Catalogue:
    """The users and items of a model. It is not changed after it was made; a reload makes another one.

    exclude: the interactions that are left out of a user's lists, those of "train" or of "all" splits.
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

        self.no_histories = ""  # why the model cannot embed a user by a history
        try:
            self._tower = user_tower(model)
        except InputError as error:
            self.no_histories = str(error)

    @classmethod
    def load(cls, run: str | Path, exclude: str = "train") -> Catalogue:
        """The catalogue of a run folder or model file. Raises InputError that names the file and what it lacks."""
        model = _copied(saved_model.load(run))
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
            raise Refusal(422, f"{place}: the model has no item {shown(item)}; leave it out")
        return index

    def find_items(self, items: Sequence[int | str], place: str) -> np.ndarray:
        """The distinct indices of items, in ascending order. Raises Refusal that names the first unknown id."""
        return np.unique(
            np.array([self.find_item(item, f"{place}[{row}]") for row, item in enumerate(items)], np.int64)
        )

    @torch.no_grad()
    def embed(self, histories: Sequence[np.ndarray]) -> Tensor:
        """Embeddings [n, d] of new users, as of `fold_in`. histories: distinct indices of items, in ascending order."""
        crow = np.cumsum([0, *(len(history) for history in histories)])
        return self._tower(torch.from_numpy(crow), torch.from_numpy(np.concatenate(histories)))

    def can_be_compared(self, item: int) -> bool:
        """Whether the item has an embedding, so that other items can be similar to it."""
        return bool(self._with_embedding[item])

    def rank(self, queries: Sequence[Query]) -> list[Ranked]:
        """The lists of the queries, in their order. They are the same whichever queries come together."""
        answers: list[Ranked] = [([], [])] * len(queries)
        whole = [n for n, query in enumerate(queries) if query.item < 0 and query.candidates is None]
        similar = [n for n, query in enumerate(queries) if query.item >= 0]
        for group, find in ((whole, self._recommended), (similar, self._similar)):
            if group:
                for n, answer in zip(group, find([queries[n] for n in group]), strict=True):
                    answers[n] = answer
        for n, query in enumerate(queries):
            if query.item < 0 and query.candidates is not None:
                answers[n] = self._among(query, query.candidates)
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
        if any(one is not None for one in excluded):
            items = [np.empty(0, np.int64) if one is None else one for one in excluded]
            rows = np.repeat(np.arange(len(items)), [len(one) for one in items])
            more = (torch.from_numpy(rows), torch.from_numpy(np.concatenate(items)))
        else:
            more = None
        scores, found = self._ranking.best(vectors, index, max(query.k for query in queries), more)
        return self._lists(queries, scores, found)

    def _among(self, query: Query, candidates: np.ndarray) -> Ranked:
        """The list of a query with candidates: the ranking of these items alone."""
        vectors, index = self._vectors([query])
        first, last = self._seen.indptr[index], self._seen.indptr[index + 1]
        out = [self._seen.indices[int(first) : int(last)], *([] if query.exclude is None else [query.exclude])]
        left = np.setdiff1d(candidates, np.concatenate(out), assume_unique=False)
        if not len(left):
            return [], []
        ranking = Ranking(self._items[left], self._popularity[left], None, self._labels[left])
        scores, found = ranking.best(vectors, torch.zeros(1, dtype=torch.int64), query.k)
        return self._lists([query], scores, torch.where(found < 0, -1, torch.from_numpy(left)[found.clamp(min=0)]))[0]

    def _similar(self, queries: Sequence[Query]) -> list[Ranked]:
        index = torch.tensor([query.item for query in queries])
        k = min(max(query.k for query in queries), len(self._similar_to))
        own = SeenRows(torch.arange(len(index) + 1), self._similar_place[index])
        cosines, found = cosine_topk(self._items[index], self._unit_items, k, own)
        return self._lists(queries, cosines, torch.where(found < 0, -1, self._similar_to[found.clamp(min=0)]))

    def _lists(self, queries: Sequence[Query], scores: Tensor, items: Tensor) -> list[Ranked]:
        lengths = (items >= 0).sum(1).tolist()
        ids, lists = self.item_ids, []
        for query, length, row, values in zip(queries, lengths, items.tolist(), scores.tolist(), strict=True):
            k = min(query.k, length)
            lists.append(([ids[item] for item in row[:k]], values[:k]))
        return lists


def _copied(model: Model) -> Model:
    """The model in memory of its own.

    The tensors of a safetensors file are mapped: if somebody copies another model over the file, they change.
    """
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
