"""Sums over users that do not depend on how many processes share them, and the turns in which the processes rank."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mmssl_fast.distributed import Ranks, all_max, all_sum

PASS_ENTRIES = 1 << 24  # of the lists that a rank makes while every rank's items are broadcast once


class OrderedSums:
    """Equals ``sum(values.sum(0) for values in torch.cat(every rank's values).split(chunk))``, added in this order.

    Users are counted through all ranks. A chunk that lies on one rank is summed there; of a chunk that two or more
    ranks share, all get the single values. The result has the same bits for any number of ranks.

    n_own: users of this rank, of whom `add` takes the values in pieces of `pieces` users. chunk: users summed at once.
    shape: of one user's values. n: users of all ranks. With one rank nothing is sent.
    """

    def __init__(self, n_own: int, chunk: int, shape: tuple[int, ...], device: torch.device, ranks: Ranks) -> None:
        counts = torch.zeros(ranks.size, dtype=torch.int64)
        counts[ranks.rank] = n_own
        ends = all_sum(counts, ranks).cumsum(0).tolist()
        self.ranks, self.chunk, self.n = ranks, chunk, ends[-1]
        self.at = ends[ranks.rank] - n_own
        cuts = {end // chunk for end in ends[:-1] if end % chunk}
        self.shared = {number: slot for slot, number in enumerate(sorted(cuts))}
        self.sums = torch.zeros((-(-self.n // chunk), *shape), dtype=torch.float64, device=device)
        self.values = torch.zeros((len(cuts), chunk if cuts else 0, *shape), dtype=torch.float64, device=device)
        self.pieces: list[int] = []
        first, last = self.at, ends[ranks.rank]
        while first < last:
            end = min(last, (first // chunk + 1) * chunk)
            self.pieces.append(end - first)
            first = end

    def add(self, values: Tensor) -> None:
        """The values [b, …], float64, of this rank's next b users: one of `pieces`."""
        number, offset = divmod(self.at, self.chunk)
        if number in self.shared:
            self.values[self.shared[number], offset : offset + len(values)] = values
        else:
            self.sums[number] = values.sum(0)
        self.at += len(values)

    def total(self) -> Tensor:
        """The sum over all users of all ranks, the same bits on every rank; a collective."""
        sums, values = all_sum(self.sums, self.ranks), all_sum(self.values, self.ranks)  # zero but on one rank: exact
        for number, slot in self.shared.items():
            sums[number] = values[slot, : min(self.chunk, self.n - number * self.chunk)].sum(0)
        total = torch.zeros(sums.shape[1:], dtype=torch.float64, device=sums.device)
        for one in sums:
            total += one
        return total


def passes(chunks: list[Tensor], k: int, ranks: Ranks) -> Iterator[list[Tensor]]:
    """The chunks in groups whose lists are made together: one a group in one process, else as many as PASS_ENTRIES
    allows, since each group takes one broadcast of all items. All ranks get equally many groups, some of them empty."""
    if ranks.size == 1:
        yield from ([chunk] for chunk in chunks)
        return
    groups: list[list[Tensor]] = []
    entries = 0
    for chunk in chunks:
        if not groups or entries + len(chunk) * k > PASS_ENTRIES:
            groups.append([])
            entries = 0
        groups[-1].append(chunk)
        entries += len(chunk) * k
    most = int(all_max(torch.tensor([len(groups)]), ranks))
    yield from [*groups, *([] for _ in range(most - len(groups)))]
