"""HKUDS/MMSSL and the trainers that descend from it: a turn is a step of their loop, evaluation their `test_torch`.

`--set main=codes/main.py` names the program within the checkout. The options that follow `args=` are its own.
"""

from __future__ import annotations

import json
import multiprocessing
import pickle
import sys
import types

import numpy as np
import scipy.sparse as sp
import torch
from driver import Client, cuda_is_the_cpu, old_numpy, stand_in

ABSENT = ("dgl", "dotenv", "visdom", "wandb", "setproctitle", "torch_sparse", "torch.utils.tensorboard", "tqdm")


class HKUDS(Client):
    name = "HKUDS/MMSSL and its forks"
    turn = "step"
    full_needs_sparse = False

    def write(self, data) -> None:
        folder = self.folder / "data" / "catalogue"
        folder.mkdir(parents=True)
        for split in ("train", "val", "test"):
            matrix = getattr(data, split).tocsr()
            lists = np.split(matrix.indices, matrix.indptr[1:-1])
            keep = {str(u): items.tolist() for u, items in enumerate(lists) if len(items) or split == "train"}
            (folder / f"{split}.json").write_text(json.dumps(keep))
        for name in ("train_mat", "train_mat.pkl"):
            with open(folder / name, "wb") as file:
                pickle.dump(sp.csr_matrix(data.train.astype(np.float32)), file)
        for name, features in zip(("image", "text"), data.features.values(), strict=False):
            np.save(folder / f"{name}_feat.npy", np.asarray(features, np.float32))
        (self.folder / "none.tsv").write_text("0\n")

    def start(self) -> None:
        old_numpy()
        stand_in(*ABSENT)
        workers = types.SimpleNamespace(map=lambda f, x: [f(y) for y in x], close=lambda: None)
        multiprocessing.Pool = lambda *_: workers
        cuda_is_the_cpu()
        program = self.checkout / self.options.get("main", "MMSSL/main.py")
        sys.path.insert(0, str(program.parent))
        sys.argv = [program.name, "--data_path", f"{self.folder / 'data'}/", "--dataset", "catalogue", "--epoch", "1"]
        sys.argv += ["--debug", *self.options.get("args", "").split()]
        self.text = program.read_text()
        self.module = types.ModuleType("__main__")
        self.module.__file__ = str(program)
        sys.modules["__main__"] = self.module

    def run(self, turns) -> None:
        def bar(iterable, *_, **__):
            frame = sys._getframe(1)
            yield from turns.over(iterable, lambda: _losses(frame.f_locals))

        sys.modules["tqdm"].tqdm = bar
        if self.side == "full":
            self.module.__dict__["accelerate_now"] = self._accelerate
            self.text = self.text.replace("if __name__ ==", "accelerate_now()\nif __name__ ==", 1)
        exec(compile(self.text, self.module.__file__, "exec"), self.module.__dict__)

    def _accelerate(self) -> None:
        from mmssl_fast.dropin import hkuds

        kept = [part for part in hkuds.PARTS if part not in self.options.get("without", "").split(",")]
        ks = eval(self.options["ks"]) if "ks" in self.options else None
        self.said = hkuds.accelerate(self.module.Trainer, kept, ks=ks)

    def evaluate(self) -> dict[str, float]:
        random = torch.Generator().manual_seed(0)
        data = self.module.data_generator
        users, items = (torch.randn(n, 64, generator=random) for n in (data.n_users, data.n_items))
        found = self.module.test_torch(users, items, list(data.val_set), True)
        values = found.items() if isinstance(found, dict) else enumerate(found)
        return {f"{name} {k}": float(x) for name, value in values for k, x in enumerate(np.ravel(value))}


def _losses(names: dict) -> dict[str, float]:
    found = {}
    for name, value in names.items():
        number = isinstance(value, float) or (isinstance(value, torch.Tensor) and value.numel() == 1)
        if number and ("loss" in name or name == "gp") and "time" not in name:
            found[name] = float(value)
    return found


CLIENT = HKUDS
