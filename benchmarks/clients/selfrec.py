"""Coder-Yu/SELFRec: `model=XSimGCL` by default, any of its graph models. A turn is a batch of its training loop."""

from __future__ import annotations

import os
import sys

import torch
from driver import Client, cuda_is_the_cpu, old_numpy, stand_in, user_lists

FILES = {"training": "train", "test": "test"}


class SELFRec(Client):
    name = "SELFRec"
    turn = "step"

    def write(self, data) -> None:
        for split in ("train", "test"):
            lines = (f"{u} {i} 1" for u, items in user_lists(getattr(data, split)) for i in items)
            (self.folder / f"{split}.txt").write_text("\n".join(lines) + "\n")

    def start(self) -> None:
        old_numpy()
        stand_in("gensim", "sentence_transformers", "faiss", "torch.utils.tensorboard")
        cuda_is_the_cpu()
        sys.path.insert(0, str(self.checkout))
        import importlib

        from data.loader import FileIO
        from util.conf import ModelConf

        name = self.options.get("model", "XSimGCL")
        conf = ModelConf(str(self.checkout / "conf" / f"{name}.yaml"))
        conf.config["training.set"], conf.config["test.set"] = (
            str(self.folder / f"{s}.txt") for s in ("train", "test")
        )
        conf.config["output"] = str(self.folder) + "/"
        sets = [FileIO.load_data_set(conf[f"{split}.set"], "graph") for split in ("training", "test")]
        self.module = importlib.import_module(f"model.graph.{name}")
        os.makedirs(self.folder / "log", exist_ok=True)
        self.recommender = getattr(self.module, name)(conf, *sets)
        self.recommender.build()

    def run(self, turns) -> None:
        batches = self.module.next_batch_pairwise

        def in_turns(*arguments, **options):
            frame = sys._getframe(1)
            yield from turns.over(batches(*arguments, **options), lambda: _losses(frame.f_locals))

        self.module.next_batch_pairwise = in_turns
        while True:
            self.recommender.train()

    def evaluate(self) -> dict[str, float]:
        one = self.recommender
        with torch.no_grad():
            one.user_emb, one.item_emb = one.model()[:2]
        lists = one.test()
        return {f"first item of {user}": float(items[0][0]) for user, items in list(lists.items())[:50]}


def _losses(names: dict) -> dict[str, float]:
    return {k: float(x) for k, x in names.items() if "loss" in k and torch.is_tensor(x) and x.ndim == 0}


CLIENT = SELFRec
