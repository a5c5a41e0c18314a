"""Samplers of LightGCN-type trainers: the same random numbers from Python's and NumPy's generators, in fewer calls."""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator, Mapping, Sequence
from collections.abc import Set as AbstractSet
from itertools import chain
from typing import Any

import numpy as np

from .._C import numpy_triples

Ids = np.ndarray[Any, np.dtype[np.int64]]


class UniformTriples:
    """Equals a loop over ``np.random.randint(0, n_users, n)`` that draws a positive and a negative for each user with
    items: the positive by ``randint(0, len(items))``, the negative by ``randint(0, n_items)`` until it is not an item
    of the user.

    NumPy's global generator ends in the same state as after the loop.

    Args:
        lists: lists[u] has the items of user u.
        n_items: I.

    Raises:
        ValueError: a user has every item. The loop does not end in this case.
    """

    def __init__(self, lists: Sequence[Sequence[int]], n_items: int) -> None:
        lengths = np.array([len(items) for items in lists], dtype=np.int64)
        self._n_users, self._n_items, self._lengths = len(lists), n_items, lengths
        self._crow = np.concatenate([np.zeros(1, dtype=np.int64), lengths.cumsum()])
        self._items = np.array([item for items in lists for item in items], dtype=np.int64)
        row = np.repeat(np.arange(len(lists)), lengths)
        self._ascending = self._items[np.lexsort((self._items, row))]
        full = [user for user, items in enumerate(lists) if len(set(items)) >= n_items]
        if full:
            raise ValueError(
                f"user {full[0]} has interacted with all {n_items} items, so there is no negative to sample"
            )

    def sample(self, n: int) -> Ids:
        """int64 [≤ n, 3]: user, positive, negative; fewer than n if users without items were drawn."""
        users: Ids = np.random.randint(0, self._n_users, n)
        users = users[self._lengths[users] > 0]
        generator: Any = vars(np.random)["get_bit_generator"]()
        with generator.lock:
            pos, neg = numpy_triples(generator.capsule, users, self._crow, self._items, self._ascending, self._n_items)
        return np.stack([users, np.asarray(pos), np.asarray(neg)], axis=1)


def chosen_negatives(
    population: Sequence[int], users: Iterable[int], seen: Mapping[int, AbstractSet[int]]
) -> list[int]:
    """Equals, for each user, ``random.sample(population, 1)[0]``, repeated until the item is not in ``seen[user]``.

    Python's generator ends in the same state as after the loop. For a population of size n, at most 2^32,
    ``random.sample(population, 1)`` takes ``n.bit_length()`` bits of a 32-bit word, until they are a number below n.
    Here, many words are drawn in one call.
    """
    users = list(users)
    words = _Words(len(population), 32 + 2 * len(users))
    draws = chain.from_iterable(words)
    found, again = [], 0
    for user in users:
        known = seen[user]
        item = population[next(draws)]
        while item in known:
            item = population[next(draws)]
            again += 1
        found.append(item)
    words.leave(len(found) + again)
    return found


class _Words:
    """Lists of numbers below n, as ``random.sample`` draws them. `leave(k)` sets Python's generator to the state after
    the first k."""

    def __init__(self, n: int, block: int) -> None:
        self._n, self._block, self._start, self._taken = n, block, random.getstate(), 0
        self._places: list[Ids] = []

    def __iter__(self) -> Iterator[list[int]]:
        while True:
            words = np.frombuffer(random.getrandbits(32 * self._block).to_bytes(4 * self._block, "little"), "<u4")
            numbers = words >> (32 - self._n.bit_length())
            below = np.flatnonzero(numbers < self._n)
            self._places.append(below + self._taken)
            self._taken += self._block
            yield numbers[below].tolist()

    def leave(self, k: int) -> None:
        random.setstate(self._start)
        if k:
            random.getrandbits(32 * (int(np.concatenate(self._places)[k - 1]) + 1))
