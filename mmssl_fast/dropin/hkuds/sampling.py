"""The sampler of the released code: the same random numbers from Python's and NumPy's generators, in fewer calls.

Positives and negatives are drawn in C++ (csrc/cpu/numpy_triples.cpp) through the C interface of NumPy's bit generator:

    for row in rows:
        own = items[crow[row] : crow[row + 1]]
        pos.append(own[np.random.randint(0, len(own))])
        neg.append(np.random.randint(0, n_items))
        while neg[-1] in own:
            neg[-1] = np.random.randint(0, n_items)
"""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np
from numpy.random import mtrand

from ..._C import numpy_triples


class TripleSampler:
    """``sample()`` equals the released ``Data.sample()`` in every random number.

    Users are drawn by ``random.sample``, or by ``random.choice`` if the batch is larger than n_users. For each user, a
    positive is drawn by ``np.random.randint`` from the items of the user, and a negative by ``np.random.randint`` from
    all items, again until it is not one of the user's. Both global generators end in the same state as with the
    released loop, so that later random numbers are the same, too.

    Args:
        train_items: {user id: list of item ids}, the positives.
        exist_users: the user ids to draw from, each with at least one item.
        batch_size, n_users, n_items: sizes.

    Raises:
        ValueError: a user has every item. The released loop does not end in this case.

    Example:
        >>> sampler = TripleSampler({0: [1], 1: [0, 2]}, [0, 1], batch_size=2, n_users=2, n_items=5)
        >>> users, positives, negatives = sampler.sample()
        >>> sorted(users)
        [0, 1]
    """

    def __init__(
        self,
        train_items: Mapping[int, Sequence[int]],
        exist_users: Sequence[int],
        batch_size: int,
        n_users: int,
        n_items: int,
    ) -> None:
        self._users, self._batch, self._with_choice = exist_users, batch_size, batch_size > n_users
        self._n_items, self._places = n_items, range(len(exist_users))
        lists = [train_items[user] for user in exist_users]
        lengths = np.array([len(items) for items in lists], dtype=np.int64)
        self._crow = np.concatenate([np.zeros(1, dtype=np.int64), lengths.cumsum()])
        self._items = np.array([item for items in lists for item in items], dtype=np.int64)
        row = np.repeat(np.arange(len(lists)), lengths)
        self._ascending = self._items[np.lexsort((self._items, row))]
        full = [u for u, items in zip(exist_users, lists, strict=True) if len(set(items)) >= n_items]
        if full:
            raise ValueError(
                f"TripleSampler: user {full[0]} has interacted with all {n_items} items, so there is no negative to "
                f"sample ({len(full)} such users); leave them out of exist_users"
            )

    def sample(self) -> tuple[list[int], list[int], list[int]]:
        """(users, positives, negatives), lists of length batch_size."""
        if self._with_choice:
            places = np.array([random.choice(self._places) for _ in range(self._batch)])
        else:
            places = _sample(len(self._places), self._batch)
        generator = mtrand.get_bit_generator()
        with generator.lock:
            pos, neg = numpy_triples(generator.capsule, places, self._crow, self._items, self._ascending, self._n_items)
        return list(map(self._users.__getitem__, places.tolist())), pos.tolist(), neg.tolist()


def _sample(n: int, k: int) -> np.ndarray:
    """Equals ``np.array(random.sample(range(n), k))``, and leaves the generator in the same state.

    If n is much larger than k, that function draws by rejection: it takes n.bit_length() bits of a 32-bit word at a
    time, until it has k different numbers below n. Here, all words are drawn in one call.
    """
    if n <= 21 + 4 ** math.ceil(math.log(3 * k, 4)) or k <= 5:
        return np.array(random.sample(range(n), k), dtype=np.int64)
    state, drawn = random.getstate(), 3 * k
    while True:
        words = np.frombuffer(random.getrandbits(32 * drawn).to_bytes(4 * drawn, "little"), "<u4")
        random.setstate(state)
        places = words >> (32 - n.bit_length())
        tries = np.flatnonzero(places < n)
        first = np.sort(np.unique(places[tries], return_index=True)[1])[:k]
        if len(first) == k:
            random.getrandbits(32 * int(tries[first[-1]] + 1))
            return places[tries[first]].astype(np.int64)
        drawn *= 2
