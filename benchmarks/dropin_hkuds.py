"""Compares the authors' MMSSL code with and without the drop-in of docs/dropin.md: losses, time, memory.

dropin_hkuds.sh runs it. Each side is a separate process. The sides run their steps in turns, so that both have the same
load on the machine. A side runs main.py of the code, copied to a temporary folder. The script replaces what a CPU and
current NumPy lack: `.cuda`, dgl, visdom, tqdm, sklearn and tensorboard (the training loop uses none of them),
np.asfarray, and a process pool of zero workers. Dropout is 0 and the seed is the same, so that both have the same
noise.
"""

from __future__ import annotations

import argparse
import json
import os
import pickle
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import types
import warnings
from importlib.machinery import ModuleSpec
from pathlib import Path

import numpy as np
from mmssl_trainer import threads

TERMS = {
    "lossr": "D real",
    "lossf": "D fake",
    "gp": "D penalty",
    "loss_D": "D loss",
    "G_batch_mf_loss": "G ranking",
    "G_batch_emb_loss": "G regulariser",
    "feat_emb_loss": "G features",
    "batch_contrastive_loss1": "G contrastive 1",
    "batch_contrastive_loss2": "G contrastive 2",
    "G_lossf": "G adversarial",
    "batch_loss": "G loss",
}
NOISE = "u_ui = hkuds.noisy_rows(self.ui_graph_raw[users], args.log_log_scale, args.real_data_tau, inputf.device)"
FUSED = "self.optim_D = optim.Adam(self.D.parameters(), lr=args.D_lr, betas=(0.5, 0.9), fused=True)"
DATASET, QUIET = "catalogue", {"stdout": subprocess.PIPE, "stdin": subprocess.PIPE, "text": True}


def main() -> None:
    threads.configure()  # torch is imported later, by each side
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    sides = parser.add_subparsers(dest="command", required=True)
    compare = sides.add_parser("compare")
    compare.add_argument("path", type=Path, help="checkout of the released code")
    compare.add_argument("data", type=Path, help="catalogue, any layout that mmssl-fast reads")
    compare.add_argument("--modalities", default="image,audio", help="the two that stand for image and text")
    compare.add_argument("--steps", type=int, default=10)
    compare.add_argument("--control", action="store_true", help="a third side without the real rows' noise part")
    compare.add_argument("--parts", default="", help="of hkuds.PARTS, comma-separated; default: all")
    compare.add_argument("--gemm", choices=("bfloat16",), help="opt in to bfloat16 products")
    compare.add_argument("--float64", action="store_true", help="interactions stored as float64 instead of float32")
    compare.add_argument("--json", type=Path, help="also write the figures here")
    compare.add_argument(
        "--options", default="", help='of the released code, e.g. "--log_log_scale 1 --ui_pre_scale 1"'
    )
    side = sides.add_parser("side")
    side.add_argument("folder", type=Path)
    side.add_argument("options", nargs=argparse.REMAINDER)
    args = parser.parse_args()
    run_side(args.folder, args.options) if args.command == "side" else run_compare(args)


# --- the parent -------------------------------------------------------------------------------------------------------
def run_compare(args) -> None:
    with tempfile.TemporaryDirectory() as temporary:
        folder = Path(temporary)
        write_data(args.data, folder / "data" / DATASET, args.modalities.split(","), args.float64)
        options = ["--data_path", f"{folder / 'data'}/", "--dataset", DATASET, "--epoch", "1", "--debug"]
        options += ["--drop_rate", "0", "--G_drop1", "0", "--G_drop2", "0", *args.options.split()]
        names = ["released", "drop-in"] + ["no noise"] * args.control
        sides = []
        for name in names:
            write_code(args.path / "MMSSL", folder / name, None if name == "released" else args, name == "no noise")
            command = [sys.executable, "-P", __file__, "side", str(folder / name), *options]
            sides.append(Side(name, subprocess.Popen(command, **QUIET)))
        result = take_turns(sides, args.steps)
        for side in sides:
            side.process.wait()
    report(result, args.steps)
    if args.json:
        args.json.write_text(json.dumps(result, indent=1))


def write_data(source: Path, target: Path, modalities: list[str], float64: bool) -> None:
    """Writes the catalogue in the format of the code: {user: items} as JSON, the matrix as a pickle, two features."""
    from mmssl_trainer.data import load

    data = load(source)
    target.mkdir(parents=True)
    for split, name in (("train", "train"), ("val", "val"), ("test", "test")):
        matrix = getattr(data, split).tocsr()
        lists = np.split(matrix.indices, matrix.indptr[1:-1])
        (target / f"{name}.json").write_text(json.dumps({str(u): items.tolist() for u, items in enumerate(lists)}))
    import scipy.sparse as sp

    with open(target / "train_mat", "wb") as file:
        pickle.dump(sp.csr_matrix(data.train.astype(np.float64 if float64 else np.float32)), file)
    for name, own in zip(("image", "text"), modalities, strict=True):
        np.save(target / f"{name}_feat.npy", np.asarray(data.features[own], np.float32))


def write_code(source: Path, target: Path, args, silence: bool) -> None:
    """Copies the code. With `args`, it is changed as described in docs/dropin.md."""
    shutil.copytree(source, target)
    if args is None:
        return
    lines = (target / "main.py").read_text().split("\n")

    def change(start: str, *new: str, before: int = 0, after: int = 1) -> None:
        """Replaces the first line that begins with `start`, and its neighbours, by `new` with the same indentation."""
        at = next((k for k, line in enumerate(lines) if line.strip().startswith(start)), None)
        if at is None:
            raise SystemExit(f"dropin_hkuds: {target}/main.py has no line that begins with {start!r}")
        indent = lines[at][: len(lines[at]) - len(lines[at].lstrip())]
        lines[at - before : at + after] = [indent + line for line in new]

    call = [f"parts={args.parts.split(',')!r}" if args.parts else "skip_unread=True"]
    call += [f"gemm=torch.{args.gemm}"] * bool(args.gemm)
    change("from Models import", "from mmssl_fast.dropin import hkuds", after=0)
    change("trainer = Trainer(", f"hkuds.accelerate({', '.join(['Trainer', *call])})", after=0)
    change("self.image_ui_graph_tmp = self.text_ui_graph_tmp = torch.tensor", after=2)
    if not args.parts:
        change("u_ui = F.softmax(", NOISE, before=1)
        change("self.optim_D = optim.Adam(", FUSED)
    if silence:
        change("u_ui += ui_u_sim_detach", "u_ui.zero_()", after=0)
    (target / "main.py").write_text("\n".join(lines))


class Side:
    def __init__(self, name: str, process: subprocess.Popen) -> None:
        self.name, self.process = name, process

    def ask(self, request: str) -> dict:
        self.process.stdin.write(request + "\n")
        self.process.stdin.flush()
        answer = self.process.stdout.readline()
        if not answer:
            raise SystemExit(f"dropin_hkuds: the {self.name} side ended with status {self.process.wait()}")
        return json.loads(answer)


def take_turns(sides: list[Side], steps: int) -> dict:
    """{"sides": {name: {"steps", "start_mib", "memory_mib", "sample_s", "evaluate"}}, "load", "cores"}."""
    result = {side.name: {"steps": [], "sample_s": []} for side in sides}
    for side in sides:
        result[side.name]["start_mib"] = side.ask("start")["memory_mib"]
    for step in range(steps):
        for side in sides[:: 1 - 2 * (step % 2)]:
            result[side.name]["steps"].append(side.ask("step"))
    for side in sides:
        result[side.name] |= side.ask("end")
    for _ in range(5):
        for side in sides[:2]:
            result[side.name]["sample_s"].append(side.ask("sample")["seconds"])
    for side in sides[:2]:
        result[side.name]["evaluate"] = side.ask("evaluate")
    for side in sides:
        side.ask("quit")
    return {"sides": result, "load": os.getloadavg(), "cores": os.cpu_count()}


def report(result: dict, steps: int) -> None:
    import torch

    sides = result["sides"]
    others = [name for name in sides if name != "released"]
    load = f"load {result['load'][0]:.1f} on {result['cores']} cores, {torch.get_num_threads()} threads a side"
    print(f"torch {torch.__version__}, Python {sys.version.split()[0]}, {load}")
    print(f"{f'largest relative difference, {steps} steps':32s}" + "".join(f"{name:>12s}" for name in others))
    for key, label in TERMS.items():
        truth, *found = ([step["terms"][key] for step in sides[name]["steps"]] for name in ("released", *others))
        row = [max(abs(a - t) / max(abs(t), 1e-12) for a, t in zip(f, truth, strict=True)) for f in found]
        values = f"({truth[0]:.6g} at first, {truth[-1]:.6g} at last)"
        print(f"  {label:30s}" + "".join(f"{x:12.1e}" for x in row) + f"   {values}")
    released, ours = sides["released"], sides["drop-in"]
    print(f"{'':32s}{'released':>12s}{'drop-in':>12s}")

    def line(label: str, a: float, b: float, note: str = "") -> None:
        print(f"{label:32s}{a:12.4g}{b:12.4g}   {a / b:.2f}x {note}")

    ratios = [r["seconds"] / o["seconds"] for r, o in zip(released["steps"], ours["steps"], strict=True)]
    spread = f"(step by step: median {statistics.median(ratios):.2f}, {min(ratios):.2f} to {max(ratios):.2f})"
    for label, key, note in (("step, s", "seconds", spread), ("step, CPU s", "cpu", "")):
        line(label, *(statistics.median(step[key] for step in side["steps"]) for side in (released, ours)), note)
    line("sampling, CPU s", *(statistics.median(side["sample_s"]) for side in (released, ours)))
    line("evaluation, s", *(side["evaluate"]["seconds"] for side in (released, ours)))
    start = "({:.0f} and {:.0f} before the code is read)".format(*(side["start_mib"] for side in (released, ours)))
    line("peak memory, MiB", released["memory_mib"], ours["memory_mib"], start)
    a, b = (side["evaluate"]["metrics"] for side in (released, ours))
    worst = max(abs(x - y) for name in a for x, y in zip(a[name], b[name], strict=True))
    print(f"metrics of the same embeddings differ by at most {worst:.1e}")


# --- a side -----------------------------------------------------------------------------------------------------------
class Finished(Exception):
    """Raised when the parent requests no further step."""


def run_side(folder: Path, options: list[str]) -> None:
    channel, sys.stdout = os.fdopen(os.dup(1), "w"), open(os.devnull, "w")
    warnings.simplefilter("ignore")
    asked = iter(sys.stdin.readline, "")

    def answer(**fields) -> None:
        print(json.dumps(fields), file=channel, flush=True)

    import torch

    import mmssl_fast  # noqa: F401  in both sides, so that both start from the same memory

    stand_in(turns(asked, answer))
    os.chdir(folder)
    sys.path.insert(0, str(folder))
    sys.argv = ["main.py", *options]
    module = types.ModuleType("__main__")
    sys.modules["__main__"] = module
    next(asked)
    answer(memory_mib=peak_mib())
    try:
        exec(compile((folder / "main.py").read_text(), str(folder / "main.py"), "exec"), module.__dict__)
    except Finished:
        answer(memory_mib=peak_mib())
    trainer, data = module.trainer_of_this_side, module.data_generator
    for request in asked:
        if request == "sample\n":
            answer(seconds=statistics.median(cpu_seconds_of(data.sample) for _ in range(20)))
        elif request == "evaluate\n":
            generator = torch.Generator().manual_seed(0)
            users, items = (torch.randn(n, 64, generator=generator) for n in (trainer.n_users, trainer.n_items))
            start = time.perf_counter()
            found = module.test_torch(users, items, list(data.val_set), is_val=True)
            seconds = time.perf_counter() - start
            answer(seconds=seconds, metrics={k: np.ravel(v).tolist() for k, v in found.items()})
        else:
            answer()
            return


def cpu_seconds_of(call) -> float:
    """The processor time of a short call. Wall time would include other processes."""
    start = time.process_time()
    call()
    return time.process_time() - start


def turns(asked, answer):
    """Replaces the progress bar of the loop: an iterator that waits for the parent and sends it the terms of each
    step."""

    def bar(iterable, *_, **__):
        frame, begun = sys._getframe(1), None
        frame.f_globals["trainer_of_this_side"] = frame.f_locals["self"]
        for item in iterable:
            if begun is not None:
                wall, cpu = time.perf_counter() - begun[0], time.process_time() - begun[1]
                terms = {name: float(frame.f_locals[name]) for name in TERMS}
                answer(seconds=wall, cpu=cpu, terms=terms)
            if next(asked) != "step\n":
                raise Finished
            begun = time.perf_counter(), time.process_time()
            yield item

    return bar


def stand_in(bar) -> None:
    import multiprocessing

    import torch

    np.asfarray = lambda a: np.asarray(a, float)
    multiprocessing.Pool = lambda *_: types.SimpleNamespace(map=lambda f, x: [f(y) for y in x], close=lambda: None)
    torch.Tensor.cuda = torch.nn.Module.cuda = lambda self, *_, **__: self
    for name in ("dgl", "visdom", "sklearn", "sklearn.metrics", "torch.utils.tensorboard", "tqdm"):
        sys.modules[name] = types.ModuleType(name)
        sys.modules[name].__spec__ = ModuleSpec(name, None)
    sys.modules["sklearn.metrics"].roc_auc_score = None
    sys.modules["torch.utils.tensorboard"].SummaryWriter = None
    sys.modules["tqdm"].tqdm = bar


def peak_mib() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / (1 << 20 if sys.platform == "darwin" else 1 << 10)


if __name__ == "__main__":
    main()
