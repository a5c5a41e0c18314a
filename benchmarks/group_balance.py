"""How unequal the groups of ranks are: the interactions of the largest one over the mean, for three orders of the ids.

`python benchmarks/group_balance.py DATA …` reads folders in any layout, and `drawn`: 2 million interactions of 100,000
users and 50,000 items, drawn from power laws with the exponents 0.8 and 1.0, with ids in the order of popularity. A
group has the interactions of its users and those of its items (distributed.groups). "degree" is the order of
`data prepare --renumber degree`. The results do not depend on the machine.
"""

import argparse
from pathlib import Path

import numpy as np
import scipy.sparse as sp
from mmssl_trainer.data import load
from mmssl_trainer.data.prepare.renumber import balanced_order

from mmssl_fast.distributed import Ranks


def drawn() -> sp.csr_array:
    rng, shape = np.random.default_rng(0), (100_000, 50_000)
    share = [1 / np.arange(1, n + 1) ** exponent for n, exponent in zip(shape, (0.8, 1.0), strict=True)]
    users, items = (rng.choice(len(one), 2_000_000, p=one / one.sum()) for one in share)
    pairs = np.unique(users * shape[1] + items)
    return sp.csr_array((np.ones(len(pairs), np.float32), np.divmod(pairs, shape[1])), shape)


def largest(degrees: list[np.ndarray], groups: int) -> float:
    """The largest sum of the degrees of a group's users and items over the mean."""
    sums = np.zeros(groups)
    for one in degrees:
        sums += [one[first:last].sum() for first, last in Ranks(0, groups).spans(len(one))]
    return sums.max() / sums.mean()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("data", nargs="+", help="a folder, or drawn")
    parser.add_argument("--groups", nargs="+", type=int, default=[2, 3, 4, 8, 16])
    given = parser.parse_args()
    print(f"| data | order | {' | '.join(f'{groups} groups' for groups in given.groups)} |")
    print(f"|---|---|{'---|' * len(given.groups)}")
    for name in given.data:
        train = drawn() if name == "drawn" else load(name).train
        degrees = [np.diff(train.indptr), np.bincount(train.indices, minlength=train.shape[1])]
        rng = np.random.default_rng(0)
        orders = {"of the source": np.arange, "random": rng.permutation, "degree": None}
        for label, order in orders.items():
            moved = [one[balanced_order(one) if order is None else order(len(one))] for one in degrees]
            ratios = " | ".join(f"{largest(moved, groups):.2f}" for groups in given.groups)
            print(f"| {Path(name).name} | {label} | {ratios} |")


if __name__ == "__main__":
    main()
