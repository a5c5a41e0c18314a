"""The parts of a training step on one CPU thread, each with its floor: ``python benchmarks/step_profile.py DATA``.

Every operation is timed where it is dispatched (CPU time of the thread). The floor of an operation is the larger of its
matrix products at the rate of torch's largest product and its inputs and outputs at the rate of a copy, both measured
in the same run. It is the floor of the operations as they are: fewer passes have a lower one.
"""

import argparse
import time
from collections import Counter, defaultdict

import torch
from mmssl_trainer import configure, load_data
from mmssl_trainer.training.loop import Run
from mmssl_trainer.training.progress import NullObserver
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves

GROUPS = {
    "infonce": ("infonce",),
    "gradient_norm": ("gradient_norm",),
    "act_norm_dropout": ("act_norm_dropout",),
    "relation rows": ("relation", "gumbel", "sampled_dot", "spmm", "searchsorted"),
    "graph": ("propagate", "lightgcn"),
    "attention and unit rows": ("modality_mix", "unit_rows"),
    "bpr_loss": ("bpr_loss",),
    "matrix products": ("aten.mm", "aten.addmm", "aten.bmm", "aten.linear"),
}
PHASES = {  # methods of MMSSLSystem and its objective
    "_encoded": "encoder, forward",
    "discriminator_terms": "D, forward",
    "generator_terms": "G, forward",
    "_descend": "backward and optimisers",
}


class Profile(TorchDispatchMode):
    """Adds up time, matrix operations and bytes by (phase, group)."""

    def __init__(self) -> None:
        super().__init__()
        self.phase = "step"
        self.seconds, self.flops, self.bytes = Counter(), Counter(), Counter()
        self.floors = defaultdict(list)  # (flops, bytes) of every operation

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        node = torch._C._current_autograd_node()
        names = str(func), node.name() if node is not None else ""
        began = time.thread_time()
        result = func(*args, **(kwargs or {}))
        seconds = time.thread_time() - began
        group = next((g for name in names for g, words in GROUPS.items() if any(w in name for w in words)), "the rest")
        key = self.phase, group
        views = result.untyped_storage().data_ptr() if isinstance(result, torch.Tensor) else None
        inputs = [x for x in tree_leaves((args, kwargs)) if isinstance(x, torch.Tensor)]
        moved = 0
        if all(x.untyped_storage().data_ptr() != views for x in inputs) or str(func).split(".")[1].endswith("_"):
            moved = sum(x.nbytes for x in inputs + [x for x in tree_leaves(result) if isinstance(x, torch.Tensor)])
        work = operations(str(func), args), moved
        self.seconds[key] += seconds
        self.flops[key] += work[0]
        self.bytes[key] += work[1]
        self.floors[key].append(work)
        return result

    def floor(self, key, flops_per_second: float, bytes_per_second: float) -> float:
        return sum(max(f / flops_per_second, b / bytes_per_second) for f, b in self.floors[key])


def operations(name: str, args: tuple) -> float:
    """The operations of the matrix products of a call."""
    if name.startswith("aten.mm."):
        return 2 * args[0].shape[0] * args[0].shape[1] * args[1].shape[1]
    if name.startswith("aten.addmm"):
        return 2 * args[1].shape[0] * args[1].shape[1] * args[2].shape[1]
    if name.startswith("mmssl_fast.infonce_with_grad"):
        h, _, ids = args[:3]
        return 3 * 2 * ids.unique().numel() * 2 * h.shape[0] * h.shape[1]
    if name == "mmssl_fast.gradient_norm.default":  # W Wᵀ, which is symmetric, and g times it
        (rows, hidden), items = args[0].shape, args[1].shape[1]
        return hidden * hidden * items + 2 * rows * hidden * hidden
    return 0


def best(call, repeats: int = 7) -> float:
    """The least CPU time of several calls."""
    times = []
    for _ in range(repeats):
        began = time.thread_time()
        call()
        times.append(time.thread_time() - began)
    return min(times)


def ceilings() -> dict[str, float]:
    """GFLOP/s of matrix products in float32 and bfloat16, and GB/s of a copy."""
    x, big = torch.randn(1024, 1024), torch.randn(1 << 25)
    found = {}
    for dtype in (torch.float32, torch.bfloat16):
        a = x.to(dtype)
        found[str(dtype).removeprefix("torch.")] = 2 * 1024**3 / best(lambda a=a: a @ a) / 1e9
    target = torch.empty_like(big)
    return found | {"copy": 2 * big.nbytes / best(lambda: target.copy_(big)) / 1e9}


def build(data: str, settings: list[str], hidden: list[int] | None = None) -> Run:
    """A run on one thread, with settings KEY=VALUE and the widths of the discriminator."""
    values = dict(each.split("=", 1) for each in settings)
    if hidden:
        values["model.hidden"] = hidden
    run = Run(load_data(data), configure({"train.threads": 1} | values), NullObserver())
    run.system.start_epoch(1)
    return run


def step(run: Run) -> None:
    run.system.step(run.next_batch())
    run.fit.step += 1


def profiled(run: Run, steps: int) -> Profile:
    profile = Profile()
    for owner in (run.system, getattr(run.system, "objective", None)):
        for method, phase in PHASES.items():
            if hasattr(owner, method):
                setattr(owner, method, within(profile, phase, getattr(owner, method)))
    with profile:
        for _ in range(steps):
            step(run)
    return profile


def within(profile: Profile, phase: str, method):
    def call(*args, **kwargs):
        outer, profile.phase = profile.phase, phase
        try:
            return method(*args, **kwargs)
        finally:
            profile.phase = outer

    return call


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("data")
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="configuration, as in train")
    parser.add_argument("--steps", type=int, default=3)
    parser.add_argument("--rounds", type=int, default=10, help="steps that are timed as a whole")
    parser.add_argument("--hidden", type=int, nargs=2, help="widths of the discriminator")
    given = parser.parse_args()
    torch.set_num_threads(1)
    run = build(given.data, given.set, given.hidden)
    step(run)
    whole = best(lambda: step(run), given.rounds)
    rates = ceilings()
    profile = profiled(run, given.steps)
    bfloat16 = "train.precision=bfloat16" in given.set
    rate = 1e9 * rates["bfloat16" if bfloat16 else "float32"]
    print(", ".join(f"{name} {value:.1f}" for name, value in rates.items()), "(GFLOP/s, GFLOP/s, GB/s)")
    print(f"step, best of {given.rounds}: {1e3 * whole:.1f} ms")
    print("| phase | part | ms | share | GFLOP | MB | floor, ms |\n|---|---|---|---|---|---|---|")
    total = sum(profile.seconds.values())
    for key, seconds in profile.seconds.most_common():
        n = given.steps
        floor = profile.floor(key, rate, 1e9 * rates["copy"])
        if seconds > 0.002 * total:
            numbers = profile.flops[key] / n / 1e9, profile.bytes[key] / n / 1e6, 1e3 * floor / n
            print(
                f"| {key[0]} | {key[1]} | {1e3 * seconds / n:.1f} | {100 * seconds / total:.1f}% "
                f"| {numbers[0]:.2f} | {numbers[1]:.0f} | {numbers[2]:.1f} |"
            )
    floors = sum(profile.floor(key, rate, 1e9 * rates["copy"]) for key in profile.seconds)
    print(f"| all | | {1e3 * total / given.steps:.1f} | 100% | | | {1e3 * floors / given.steps:.1f} |")


if __name__ == "__main__":
    main()
