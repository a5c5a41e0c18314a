"""The costs of `mmssl_fast.dropin.sparse` and of `lightgcn_layers` that docs/dropin.md and its measurements give.

    python benchmarks/dropin_costs.py [--rounds 40] [--only steps]

Times are processor time on one thread. The versions alternate; "own" is torch, twice, to show the noise. Training steps
run inside the context, which programs enter once: entering replaces methods of torch.Tensor, after which Python looks
up all others again.
"""

import argparse
import itertools
import sys
import time
import warnings
from pathlib import Path
from statistics import median

import torch

from mmssl_fast.dropin import sparse
from mmssl_fast.dropin.layers import lightgcn_layers
from mmssl_fast.dropin.sparse.pattern import Snapshot

sys.path.append(str(Path(__file__).parents[1] / "tests"))
from dropin_clients import lightgcn

DROPPED = (
    (100, 60, 700),
    (300, 200, 3000),
    (600, 400, 6000),
    (1500, 1000, 10000),
    (2000, 1000, 30000),
    (9308, 6710, 59541),
)
SMALL = ((30, 20, 150), (75, 50, 400), (100, 60, 700), (120, 80, 1000), (150, 100, 1500), (300, 200, 3000))
TIKTOK = (9308, 6710, 59541)
FUNCTIONS = [torch.sparse.mm, torch.matmul]  # in a list, where the context does not replace them


class LightGCN(lightgcn.LightGCN):
    """The model of the tests, with the function for products as an attribute."""

    multiply = staticmethod(FUNCTIONS[0])

    def forward(self):
        kept = [torch.cat((self.user.weight, self.item.weight))]
        for _ in range(self.layers):
            kept.append(self.multiply(self.adjacency, kept[-1]))
        mean = torch.stack(kept, dim=1).mean(dim=1)
        return mean[: self.n_users], mean[self.n_users :]


def model_of(n_users, n_items, interactions, layers=3, dropout=0.0):
    random = torch.Generator().manual_seed(0)
    users, items, negatives = (torch.randint(n, (interactions,), generator=random) for n in (n_users, n_items, n_items))
    torch.manual_seed(0)
    adjacency = lightgcn.joint_adjacency(users, items, n_users, n_items).coalesce()
    model = LightGCN(adjacency, n_users, n_items, width=64, layers=layers)
    optimiser = torch.optim.Adam(model.parameters(), lr=1e-3)

    def step():
        if dropout:  # as LightGCN-PyTorch and MMRec write it
            kept = torch.rand(adjacency._nnz()) >= dropout
            ids, values = adjacency._indices()[:, kept], adjacency._values()[kept] / (1 - dropout)
            model.adjacency = torch.sparse_coo_tensor(ids, values, adjacency.shape, check_invariants=False)
        optimiser.zero_grad()
        model.loss(users[:256], items[:256], negatives[:256]).backward()
        optimiser.step()

    return model, step


def seconds(call, times):
    call()
    begun = time.process_time()
    for _ in range(times):
        call()
    return (time.process_time() - begun) / times


def alternate(versions, rounds, times):
    """{name: (median, fastest) in seconds a call}; versions: {name: (call, whether inside the context)}."""
    found = {name: [] for name in versions}
    for turn in range(rounds):
        names = list(versions)
        for name in names[turn % len(names) :] + names[: turn % len(names)]:
            call, inside = versions[name]
            if inside:
                sparse.enable()
                call()
            found[name].append(seconds(call, times))
            sparse.disable()
    return {name: (median(taken), min(taken)) for name, taken in found.items()}


def microseconds(title, versions, rounds, times=300):
    print(f"{title:58s}" + "".join(f"  {n} {a * 1e6:.2f}" for n, (a, _) in alternate(versions, rounds, times).items()))


def calls(rounds):
    """What single calls cost, in microseconds."""
    left, right, vector = torch.randn(1, 64), torch.randn(64, 986), torch.randn(64)
    small = model_of(30, 20, 150)[0].adjacency
    x = torch.randn(50, 64, requires_grad=True)
    own_mm, own_matmul = FUNCTIONS
    dense = {"own": (lambda: own_matmul(left, right), False), "inside": (lambda: torch.matmul(left, right), True)}
    microseconds("dense 1 x 64 by 64 x 986", dense, rounds)
    dense = {"own": (lambda: own_matmul(vector, right), False), "inside": (lambda: torch.matmul(vector, right), True)}
    microseconds("dense vector by 64 x 986", dense, rounds)
    product = {"own": (lambda: own_mm(small, x), False), "inside": (lambda: torch.sparse.mm(small, x), True)}
    microseconds(f"sparse product of {small._nnz()} entries, left to torch", product, rounds)

    def made(multiply, products):
        new = torch.sparse_coo_tensor(small._indices(), small._values(), small.shape, check_invariants=False)
        for _ in range(products):
            multiply(new, x)

    for n in (1, 2):
        new = {"own": (lambda n=n: made(own_mm, n), False), "inside": (lambda n=n: made(torch.sparse.mm, n), True)}
        microseconds(f"a new matrix of {small._nnz()} entries, products left to torch: {n}", new, rounds)

    def enter():
        with sparse.accelerated():
            pass

    microseconds("entering and leaving the context", {"": (enter, False)}, rounds, 50)


def compare_steps(rounds, *model):
    """Ratios of the first deciles of single steps, which other load on the machine changes less than medians.

    The context is open all the time. The versions are one model whose function for products is torch's own or the one
    that stands in torch, so that nothing else differs.
    """
    own = FUNCTIONS[0]
    sparse.reset_report()
    with sparse.accelerated():
        one, step = model_of(*model)
        functions = {"own": own, "again": own, "inside": torch.sparse.mm}
        times = {name: [] for name in functions}
        for turn in range(rounds * (20 if model[2] < 10000 else 4)):
            names = list(functions)
            for name in names[turn % 3 :] + names[: turn % 3]:
                one.multiply = functions[name]
                begun = time.thread_time()
                step()
                times[name].append(time.thread_time() - begun)
    done = sparse.report()
    first, again, ours = (sorted(each[10:])[len(each) // 10] for each in times.values())
    return (
        f"own {first * 1e6:.0f} µs, own / own {first / again:.3f}, own / inside {(first + again) / 2 / ours:.3f}, "
        f"{done.taken} products taken, {done.left.total()} left"
    )


def steps(rounds):
    """Training steps of LightGCN with three layers on small graphs."""
    for sizes in SMALL:
        said = compare_steps(rounds, *sizes)
        print(f"step, {sum(sizes[:2])} nodes, {2 * sizes[2]} entries: {said}", flush=True)


def dropped(rounds):
    """Training steps in which half of the edges are removed, other ones in each step."""
    for (*sizes, interactions), layers in itertools.product(DROPPED, (1, 2, 3)):
        said = compare_steps(rounds, *sizes, interactions, layers, 0.5)
        entries = f"{interactions} of {2 * interactions} entries, {layers} layers"
        print(f"step, {sum(sizes)} nodes, {entries}: {said}", flush=True)


def large(rounds):
    """What a matrix of the size of TikTok costs, and the layers in one operation, in milliseconds."""
    model = model_of(*TIKTOK)[0]
    adjacency, tables = model.adjacency, (model.user.weight, model.item.weight)
    snapshot, prepared = Snapshot.of(adjacency), sparse.Adjacency.from_torch(adjacency)
    x = torch.randn(adjacency.shape[1], 64)

    def differentiated(forward):
        users, items = forward()
        return torch.autograd.grad(users.square().sum() + items.square().sum(), tables)

    joint = lambda: lightgcn_layers(adjacency, torch.cat(tables), 3).split([len(tables[0]), len(tables[1])])  # noqa: E731
    versions = {
        "torch.sparse.mm, forward": lambda: torch.sparse.mm(adjacency, x),
        "prepared, forward": lambda: prepared @ x,
        "comparing the contents": lambda: snapshot.is_still(adjacency),
        "preparing": lambda: sparse.Adjacency.from_torch(adjacency),
        "three layers and gradients, loop over torch.sparse.mm": lambda: differentiated(model),
        "three layers and gradients, lightgcn_layers, joint": lambda: differentiated(joint),
        "three layers and gradients, lightgcn_layers, pair": lambda: differentiated(
            lambda: lightgcn_layers(adjacency, tables, 3)
        ),
    }
    print(f"{adjacency.shape[0]} nodes, {adjacency._nnz()} entries, 64 columns:")
    for name, (_, best) in alternate(
        {n: (call, False) for n, call in versions.items()}, max(3, rounds // 4), 1
    ).items():
        print(f"  {name:56s}{best * 1e3:8.2f} ms (fastest)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.partition("\n")[0])
    parser.add_argument("--rounds", type=int, default=40)
    parser.add_argument("--only", choices=["calls", "steps", "dropped", "large"], help="one part")
    args = parser.parse_args()
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    print(f"torch {torch.__version__}, one thread")
    for part in (calls, steps, dropped, large):
        if args.only in (None, part.__name__):
            part(args.rounds)
