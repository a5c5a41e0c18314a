"""Runs a public client with and without mmssl_fast.dropin, in turns: losses, metrics, CPU time, peak memory.

A client is a public project. A file in this folder describes it: the format of its data, how it starts, what a turn is
(an epoch or a step), and how it evaluates. CHECKOUT is a copy of its repository. Each side is a separate process, and
the sides run their turns one after another, so that all have the same load on the machine::

    python benchmarks/clients/run.py lightgcn_pytorch CHECKOUT [--data FOLDER] [--turns 5] [--sides own,sparse,full]

Sides: "own" is the unchanged client, "sparse" the client under `sparse.enable()`, and "full" uses everything else that
mmssl_fast.dropin has for it. `--sides own,own2,sparse` runs the unchanged client twice, to show the noise; options can
be set for one side, as in `--set own2.threads=2` (threads of torch, an option of every client). Times are
processor time, because other programs may be running; elapsed times are shown as well, and only they are of use with
several threads (OMP_NUM_THREADS=2). Without --data, the built-in data set of mmssl_trainer is used.
"""

from __future__ import annotations

import contextlib
import importlib.util
import itertools
import json
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from collections.abc import Iterator
from importlib.machinery import ModuleSpec
from pathlib import Path

FOLDER = Path(__file__).parent
NO_CLIENTS = ("command_line", "convergence", "driver", "every", "program", "run")
CLIENTS = sorted(file.stem for file in FOLDER.glob("*.py") if file.stem not in NO_CLIENTS)
SEED = 2022
# For glibc. Otherwise it returns large buffers to the system in some steps, and the next ones pay for new pages.
KEPT_MEMORY = {"MALLOC_MMAP_THRESHOLD_": str(2**32), "MALLOC_TRIM_THRESHOLD_": str(2**34)}


class Finished(Exception):
    """Raised when the parent requests no further turn."""


class Client:
    """The description of a client. `folder` is initially empty; each side has its own."""

    name = ""
    turn = "epoch"
    full_needs_sparse = True  # whether the side "full" runs under sparse.enable() as well

    def __init__(self, checkout: Path, folder: Path, side: str, options: dict[str, str]) -> None:
        self.checkout, self.folder, self.side, self.options = checkout, folder, side, options

    def write(self, data) -> None:
        """Writes the mmssl_trainer Dataset into self.folder in the client's own format."""
        raise NotImplementedError

    def start(self) -> None:
        """Imports the client and makes its model; seeds are set before."""
        raise NotImplementedError

    def accelerate(self) -> object:
        """Changes the client as described in docs/dropin.md, for the side "full". Returns a text to print."""
        return ""

    def run(self, turns: Turns) -> None:
        """Runs a turn for each item of `turns`."""
        for _ in turns:
            turns.losses = self.epoch()

    def epoch(self) -> dict[str, float]:
        raise NotImplementedError

    def evaluate(self) -> dict[str, float]:
        raise NotImplementedError


class Turns:
    """Waits for the parent before each item, and sends it the time and the `losses` of the turn after it."""

    def __init__(self, requests: Iterator[str], answer) -> None:
        self._requests, self._answer, self.losses = requests, answer, {}

    def __iter__(self):
        return self.over(itertools.repeat(None), lambda: self.losses)

    def over(self, items, losses):
        """The items of the loop of the client, one turn each. losses() is called after each in its frame."""
        for item in items:
            if next(self._requests, "") != "turn\n":
                raise Finished
            begun, begun_wall = cpu_seconds(), time.perf_counter()
            yield item
            self._answer(cpu=cpu_seconds() - begun, wall=time.perf_counter() - begun_wall, losses=losses())


def main() -> None:
    if sys.argv[1:2] == ["side"]:
        run_side(*json.loads(sys.argv[2]))
        return
    import command_line  # not on the sides, where a client may have a module of this name

    args = command_line.read(CLIENTS)
    given, kind = args.set, client(args.client)
    from mmssl_trainer.data import load
    from mmssl_trainer.data.synthetic import synthetic
    from mmssl_trainer.errors import InputError

    try:
        data = load(args.data) if args.data else synthetic(SEED, args.users, args.items)
    except (InputError, OSError, ValueError) as error:
        raise SystemExit(f"the data cannot be read: {error}") from None
    with tempfile.TemporaryDirectory() as temporary:
        sides = []
        for name in args.sides:
            folder = Path(temporary) / name
            folder.mkdir()
            options = options_of(name, given)
            kind(args.checkout.resolve(), folder, name, options).write(data)
            told = json.dumps([args.client, str(args.checkout.resolve()), str(folder), name, options])
            # Some clients iterate over sets of strings, whose order depends on this seed.
            kept = {"PYTHONHASHSEED": "0"} | (KEPT_MEMORY if args.keep_memory else {})
            sides.append(Side(name, [sys.executable, "-P", sys.argv[0], "side", told], kept))
        result = take_turns(sides, args.turns, args.evaluations)
    print(f"{kind.name}: {data.n_users} users, {data.n_items} items, {data.train.nnz} interactions, {given or ''}")
    report(result, kind.turn)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


def options_of(side: str, given: dict[str, str]) -> dict[str, str]:
    """The options KEY=VALUE, replaced by those SIDE.KEY=VALUE."""
    general = {key: value for key, value in given.items() if "." not in key}
    return general | {key.partition(".")[2]: value for key, value in given.items() if key.startswith(f"{side}.")}


def client(name: str) -> type[Client]:
    """The class of a file of this folder, whose name may be the client's own package's."""
    spec = importlib.util.spec_from_file_location(f"client_{name}", FOLDER / f"{name}.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.CLIENT


# --- the parent -------------------------------------------------------------------------------------------------------
class Side:
    def __init__(self, name: str, command: list[str], environment: dict[str, str]) -> None:
        pipes = {"stdin": subprocess.PIPE, "stdout": subprocess.PIPE, "text": True}
        self.name, self.process = name, subprocess.Popen(command, env=os.environ | environment, **pipes)

    def ask(self, request: str) -> dict:
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            status = self.process.wait()
            reason = "its error is above" if status else "its training is over; use fewer --turns, or more data"
            raise SystemExit(f"the side {self.name!r} ended with status {status}: {reason}")
        return json.loads(answer)


def take_turns(sides: list[Side], turns: int, evaluations: int) -> dict:
    result = {side.name: {**side.ask("start"), "turns": [], "evaluations": []} for side in sides}
    for turn in range(turns):
        for side in sides[:: 1 - 2 * (turn % 2)]:
            result[side.name]["turns"].append(side.ask("turn"))
    for side in sides:
        result[side.name] |= side.ask("end")
    for evaluation in range(evaluations):
        for side in sides[:: 1 - 2 * (evaluation % 2)]:
            result[side.name]["evaluations"].append(side.ask("evaluate"))
    for side in sides:
        result[side.name] |= side.ask("quit")
        side.process.wait()
    return result


def report(result: dict, turn: str) -> None:
    import torch

    names = list(result)
    threads = "one thread" if torch.get_num_threads() == 1 else f"{torch.get_num_threads()} threads"
    print(f"torch {torch.__version__}, {threads}, load {os.getloadavg()[0]:.1f} on {os.cpu_count()} processors")
    print(f"{'':36s}" + "".join(f"{name:>12s}" for name in names))

    def row(label: str, values: list[float], ratios: bool = True) -> None:
        said = "  ".join(f"{values[0] / max(v, 1e-9):.2f}x" for v in values[1:]) if ratios else ""
        print(f"{label:36s}" + "".join(f"{v:12.4g}" for v in values) + f"   {said}")

    first = result[names[0]]["turns"]
    row(f"{turn}, CPU s (median)", [_median(result[name]["turns"]) for name in names])
    row(f"{turn}, CPU s (fastest)", [min(answer["cpu"] for answer in result[name]["turns"]) for name in names])
    row(f"{turn}, elapsed s (median)", [_median(result[name]["turns"], "wall") for name in names])
    timed = all("cpu" in answer for name in names for answer in result[name]["evaluations"])
    if timed and result[names[0]]["evaluations"]:
        evaluations = [min(answer["cpu"] for answer in result[name]["evaluations"]) for name in names]
        row("evaluation, CPU s (fastest)", evaluations)
        totals = [_median(result[name]["turns"]) + cpu for name, cpu in zip(names, evaluations, strict=True)]
        row(f"{turn} and evaluation, CPU s", totals)
    row("peak memory, MiB", [result[name]["memory_mib"] for name in names])
    for name in names[1:]:
        ratios = [a["cpu"] / b["cpu"] for a, b in zip(first, result[name]["turns"], strict=True)]
        print(f"{name}: {turn} by {turn} {min(ratios):.2f} to {max(ratios):.2f}x")
        pairs = [(a["losses"], b["losses"]) for a, b in zip(first, result[name]["turns"], strict=True)]
        for key in first[-1]["losses"]:
            values = [(a[key], b[key]) for a, b in pairs if key in a and key in b]
            worst = max(abs(b - a) / max(abs(a), 1e-12) if a == a and b == b else float(a != b) for a, b in values)
            print(f"  {key} {values[0][0]:.7g} at first, {values[-1][0]:.7g} at last; relative difference {worst:.1e}")
        a, b = ((result[side]["evaluations"] or [{}])[-1].get("metrics", {}) for side in (names[0], name))
        if a:
            worst = max(abs(a[key] - b.get(key, float("nan"))) for key in a)
            shown = ", ".join(f"{key} {value:.5g}" for key, value in list(a.items())[:4])
            print(f"  {len(a)} metrics differ by at most {worst:.1e} ({shown})")
        if result[name]["said"]:
            print("  " + result[name]["said"].replace("\n", "\n  "))


def _median(turns: list[dict], key: str = "cpu") -> float:
    return statistics.median(turn[key] for turn in turns)


# --- a side -----------------------------------------------------------------------------------------------------------
def run_side(name: str, checkout: str, folder: str, side: str, options: dict[str, str]) -> None:
    channel, sys.stdout = os.fdopen(os.dup(1), "w"), open(os.devnull, "w")
    warnings.simplefilter("ignore")
    requests = iter(sys.stdin.readline, "")

    def answer(**fields) -> None:
        print(json.dumps(fields), file=channel, flush=True)

    import random

    import numpy as np
    import torch

    from mmssl_fast.dropin import sparse  # on every side, so that all start from the same memory

    random.seed(SEED)
    np.random.seed(SEED)  # noqa: NPY002  the clients draw from it
    torch.manual_seed(SEED)
    if threads := options.pop("threads", ""):
        torch.set_num_threads(int(threads))
    one = client(name)(Path(checkout), Path(folder), side, options)
    sys.path.remove(str(FOLDER))  # its module names are not the client's business
    os.chdir(folder)
    if not next(requests, ""):  # another side ended with an error
        return
    if side == "sparse" or (side == "full" and one.full_needs_sparse):
        sparse.enable()
    one.start()
    one.said = one.accelerate() if side == "full" else ""
    profiler = _profiler(side)
    answer(before_mib=peak_mib())
    with contextlib.suppress(Finished), profiler:
        one.run(Turns(requests, answer))
    answer(said=str(sparse.report() if side == "sparse" else one.said))
    for request in requests:
        if request != "evaluate\n":
            break
        begun = cpu_seconds()
        if type(one).evaluate is Client.evaluate:  # this client's driver has none
            answer()
            continue
        metrics = one.evaluate()
        answer(cpu=cpu_seconds() - begun, metrics=metrics)
    answer(memory_mib=peak_mib())


def _profiler(side: str):
    """MMSSL_CLIENT_PROFILE=side prints where the turns of a side go, on its standard error."""
    if os.environ.get("MMSSL_CLIENT_PROFILE") != side:
        return contextlib.nullcontext()
    import cProfile
    import pstats

    @contextlib.contextmanager
    def profiling():
        profile = cProfile.Profile()
        try:
            with profile:
                yield
        finally:
            pstats.Stats(profile, stream=sys.stderr).sort_stats("tottime").print_stats(22)

    return profiling()


def cpu_seconds() -> float:
    return time.process_time()


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


class Anything:
    """The content of a replaced module: accepts every call and attribute access, and does nothing."""

    def __init__(self, *_, **__) -> None:
        pass

    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything()

    def __call__(self, *_, **__):
        return self


class _Empty(types.ModuleType):
    def __getattr__(self, name: str):
        if name.startswith("__"):
            raise AttributeError(name)
        return Anything


def stand_in(*names: str) -> None:
    """Modules with these names that do nothing, for imports that the training loop does not use."""
    for name in names:
        module = sys.modules[name] = _Empty(name)
        module.__spec__, module.__path__ = ModuleSpec(name, None), []
        parent, _, last = name.rpartition(".")
        if isinstance(sys.modules.get(parent), _Empty):
            setattr(sys.modules[parent], last, module)


def pickle_matrices(folder: Path, **matrices) -> None:
    """Write each matrix to FOLDER/NAME.pkl in coordinate form."""
    import pickle

    from scipy.sparse import coo_matrix

    for name, matrix in matrices.items():
        (folder / f"{name}.pkl").write_bytes(pickle.dumps(coo_matrix(matrix)))


def cuda_is_the_cpu() -> None:
    """Tensors and modules stay where they are at .cuda()."""
    import torch

    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self


def old_numpy() -> None:
    """Names that NumPy and SciPy had when the clients were written."""
    import numpy as np
    from scipy.sparse import dok_matrix, spmatrix

    names = {"float": float, "int": int, "bool": bool, "object": object, "str": str, "long": np.int64}
    names |= {"float_": np.float64, "bool8": np.bool_, "int_": np.int64, "complex_": np.complex128}
    names |= {"complex": complex, "unicode": str, "unicode_": np.str_, "object0": np.object_}
    names["asfarray"] = lambda a: np.asarray(a, float)
    for name, value in names.items():
        if name not in vars(np):
            setattr(np, name, value)

    def update(self, entries) -> None:
        self._dict.update(entries)

    dok_matrix._update = update
    if not hasattr(spmatrix, "A"):
        spmatrix.A = property(lambda self: self.toarray())


def write_user_lists(folder: Path, **matrices) -> None:
    """NAME.txt in `folder` for every matrix of this name: a line "user item item ..." for every user with items."""
    for name, matrix in matrices.items():
        lines = (" ".join(map(str, (user, *items))) for user, items in user_lists(matrix))
        (folder / f"{name}.txt").write_text("\n".join(lines))


def user_lists(matrix) -> Iterator[tuple[int, list[int]]]:
    """(user, items) of every user with items."""
    csr = matrix.tocsr()
    for user in range(csr.shape[0]):
        items = csr.indices[csr.indptr[user] : csr.indptr[user + 1]]
        if len(items):
            yield user, items.tolist()
