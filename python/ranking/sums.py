"""Sums over users that do not depend on the number of processes, and groups of users to rank at once."""

from __future__ import annotations

from collections.abc import Iterator

import torch
from torch import Tensor

from mmssl_fast.distributed import Ranks, all_max, all_sum

PASS_ENTRIES = 1 << 24  # length of all lists that a rank computes during one broadcast of all items


class OrderedSums:
    """Equals ``sum(values.sum(0) for values in torch.cat(every rank's values).split(chunk))``, added in this order.

    Chunks are counted over the users of all ranks. If a chunk belongs to one rank, that rank computes its sum. If it
    belongs to several, all ranks receive its single values. The result is bit-identical for any number of ranks.

    n_own: number of users of this rank. `add` takes their values in pieces, whose sizes are in `pieces`.
    chunk: number of users in a chunk.
    shape: shape of the values of one user.
    n: number of users of all ranks.

    With one rank, nothing is sent.
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
        """Add the values [b, …], float64, of the next b users of this rank, where b is the next of `pieces`."""
        number, offset = divmod(self.at, self.chunk)
        if number in self.shared:
            self.values[self.shared[number], offset : offset + len(values)] = values
        else:
            self.sums[number] = values.sum(0)
        self.at += len(values)

    def total(self) -> Tensor:
        """The sum over the users of all ranks, bit-identical on every rank. All ranks must call it."""
        sums, values = all_sum(self.sums, self.ranks), all_sum(self.values, self.ranks)  # one nonzero term: exact
        for number, slot in self.shared.items():
            sums[number] = values[slot, : min(self.chunk, self.n - number * self.chunk)].sum(0)
        total = torch.zeros(sums.shape[1:], dtype=torch.float64, device=sums.device)
        for one in sums:
            total += one
        return total


def passes(chunks: list[Tensor], k: int, ranks: Ranks) -> Iterator[list[Tensor]]:
    """Groups of chunks whose lists are computed together. With one process, a group has one chunk. With several, it has
    as many as PASS_ENTRIES allows, because all items are broadcast once per group. All ranks get the same number of
    groups, some of which may be empty."""
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
