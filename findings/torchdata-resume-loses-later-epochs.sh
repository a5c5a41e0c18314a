#!/usr/bin/env bash
# torchdata 0.11.0 (torch 2.13.0): a StatefulDataLoader without worker processes resumes its epoch, and shuffles all later
# epochs in another order.
#
# The loader shuffles by a generator of its own, and its state_dict is loaded into a new loader, to continue a run. One
# would guess that the continued run sees the same batches as the uninterrupted one. The rest of the epoch is the same
# indeed, which is what a short test looks at; every later epoch has another order. In the first run the generator gives the
# permutation and then a seed for the epoch (_base_seed). Loading sets it back to before the permutation, and repeats
# only the permutation (_StatefulRandomSamplerIterator.load_state_dict in stateful_dataloader/sampler.py). It happens
# after any number of batches, none and all included. With one worker process or two, or with the generator given to
# a RandomSampler instead of the loader, all epochs are the same.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torchdata==0.11.0 numpy==2.4.6 torch==2.13.0
cd "$work"
cat >resume.py <<'PYTHON'
from importlib.metadata import version

import torch
from torch.utils.data import RandomSampler
from torchdata.stateful_dataloader import StatefulDataLoader

ROWS = list(range(20))


def loader(workers: int, in_sampler: bool) -> StatefulDataLoader:
    generator = torch.Generator().manual_seed(0)
    if in_sampler:
        return StatefulDataLoader(ROWS, 4, sampler=RandomSampler(ROWS, generator=generator), num_workers=workers)
    return StatefulDataLoader(ROWS, 4, shuffle=True, generator=generator, num_workers=workers)


def epoch(batches) -> list[list[int]]:
    return [batch.tolist() for batch in batches]


def same(workers: int, batches: int, in_sampler: bool = False) -> list[bool]:
    """Whether the interrupted epoch and the three after it are equal in both runs."""
    first = loader(workers, in_sampler)
    running = iter(first)
    for _ in range(batches):
        next(running)
    state = first.state_dict()
    whole = [epoch(running), *(epoch(first) for _ in range(3))]
    second = loader(workers, in_sampler)
    second.load_state_dict(state)
    resumed = [epoch(second) for _ in range(4)]
    assert all(sorted(sum(part, [])) == ROWS for part in whole[1:] + resumed[1:])
    return [a == b for a, b in zip(whole, resumed, strict=True)]


if __name__ == "__main__":
    print("torchdata", version("torchdata"), "torch", torch.__version__)
    for batches in (0, 2, 5):
        seen = {f"{workers} workers": same(workers, batches) for workers in (0, 1, 2)}
        seen["0 workers, generator in the sampler"] = same(0, batches, in_sampler=True)
        print(f"interrupted after {batches} of 5 batches: {seen}")
        assert seen.pop("0 workers") == [True, False, False, False]
        assert all(equal == [True] * 4 for equal in seen.values())
PYTHON
HOME="$work" "$work/venv/bin/python" -W ignore resume.py
