"""The released code's sampler: the same draws from Python's and NumPy's generators, without a call for each."""

from __future__ import annotations

import math
import random
from collections.abc import Mapping, Sequence

import numpy as np


class TripleSampler:
    """``sample()`` equals the released ``Data.sample()``, draw for draw: users by ``random.sample`` (``random.choice``
    where the batch is larger than n_users), then for each user a positive by ``np.random.randint`` over its items and a
    negative by ``np.random.randint`` over all, drawn again while it is one of the user's.

    Both global generators end where the released loop would leave them, so whatever draws next is the same too.

    Args:
        train_items: user id → list of item ids, the positives.
        exist_users: ids to draw from, each with at least one item.
        batch_size, n_users, n_items: sizes.

    Raises:
        ValueError: when a user has every item, for whom the released loop does not end.
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
        self._last, self._mask = n_items - 1, _mask(n_items - 1)
        self._of = {
            u: (items := train_items[u], frozenset(items), len(items) - 1, _mask(len(items) - 1)) for u in exist_users
        }
        full = [u for u, (_, seen, _, _) in self._of.items() if len(seen) >= n_items]
        if full:
            raise ValueError(
                f"TripleSampler: user {full[0]} has every one of the {n_items} items and no negative to sample "
                f"({len(full)} such users); leave them out of exist_users"
            )

    def sample(self) -> tuple[list[int], list[int], list[int]]:
        """(users, positives, negatives), lists of length batch_size."""
        if self._with_choice:
            users = [random.choice(self._users) for _ in range(self._batch)]
        else:
            users = _sample(self._users, self._batch)
        state, drawn = np.random.get_state(legacy=False), 3 * len(users)
        while True:
            words = np.random.randint(0, 2**32, size=drawn, dtype=np.uint32).tolist()
            np.random.set_state(state)
            try:
                pos, neg, used = self._read(users, words)
            except StopIteration:
                drawn *= 2
                continue
            np.random.randint(0, 2**32, size=used, dtype=np.uint32)
            return users, pos, neg

    def _read(self, users: list[int], words: list[int]) -> tuple[list[int], list[int], int]:
        """What the generator's 32-bit words give: randint keeps the low bits of a word and takes the next while they
        exceed the range; a range of one value takes none."""
        pos, neg, take = [], [], iter(words)
        following, of, last, every = take.__next__, self._of, self._last, self._mask
        for user in users:
            items, seen, top, mask = of[user]
            at = top
            if top:
                at = following() & mask
                while at > top:
                    at = following() & mask
            pos.append(items[at])
            item = following() & every
            while item > last or item in seen:
                item = following() & every
            neg.append(item)
        return pos, neg, len(words) - take.__length_hint__()


def _sample(population: Sequence[int], k: int) -> list[int]:
    """Equals ``random.sample(population, k)``, and leaves the generator as it does.

    Where the population is large against k, that function draws places by rejection, n.bit_length() bits of a 32-bit
    word each, until it has k different ones; here the words come at once.
    """
    n = len(population)
    if n <= 21 + 4 ** math.ceil(math.log(3 * k, 4)) or k <= 5:
        return random.sample(population, k)
    state, drawn = random.getstate(), 3 * k
    while True:
        words = np.frombuffer(random.getrandbits(32 * drawn).to_bytes(4 * drawn, "little"), "<u4")
        random.setstate(state)
        places = words >> (32 - n.bit_length())
        tries = np.flatnonzero(places < n)
        first = np.sort(np.unique(places[tries], return_index=True)[1])[:k]
        if len(first) == k:
            random.getrandbits(32 * int(tries[first[-1]] + 1))
            return [population[place] for place in places[tries[first]].tolist()]
        drawn *= 2


def _mask(largest: int) -> int:
    """The smallest 2ᵏ − 1 that is not below `largest`."""
    return (1 << largest.bit_length()) - 1
