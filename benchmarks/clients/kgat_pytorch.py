"""LunaBlack/KGAT-pytorch. The knowledge graph has the strongest feature of each modality of an item as its entities.

A turn is a step of its recommendation loss. The steps of its other loss and the update of the attention, which follow
once an epoch, belong to the turn in which they run. It needs at least 1024 users and 2048 users and items, its sizes of
batches, because in smaller data it draws from keys of a dict, which Python refuses.
"""

from __future__ import annotations

import logging
import random
import sys

import numpy as np
import torch
from driver import write_user_lists
from program import Program, numbers


class KGAT(Program):
    name = "KGAT-pytorch"
    main = "main_kgat.py"
    cf_optimizer: torch.optim.Optimizer | None = None

    def write(self, data) -> None:
        folder = self.folder / "catalogue"
        folder.mkdir(parents=True)
        write_user_lists(folder, train=data.train, test=data.test)
        lines, first = [], data.n_items
        for relation, features in enumerate(data.features.values()):
            features = np.asarray(features)
            for item, strongest in enumerate(features.argmax(axis=1)):
                lines.append(f"{item} {relation} {first + strongest}")
            first += features.shape[1]
        (folder / "kg_final.txt").write_text("\n".join(lines))

    def arguments(self) -> list[str]:
        logging.disable()
        real = random.sample
        random.sample = lambda population, k: real(list(population), k)  # as before Python 3.11
        return ["--data_dir", f"{self.folder}/", "--data_name", "catalogue", "--use_pretrain", "0"]

    def ends_turn(self, optimizer: torch.optim.Optimizer) -> bool:
        if self.cf_optimizer is None:
            frame = sys._getframe()
            while frame.f_code.co_name != "train":
                frame = frame.f_back
            self.training, self.cf_optimizer = frame.f_locals, optimizer
        return optimizer is self.cf_optimizer

    def evaluate(self) -> dict[str, float]:
        names = self.training
        _, found = self.module.evaluate(names["model"], names["data"], names["Ks"], names["device"])
        return numbers({f"{name}@{k}": value for k, metrics in found.items() for name, value in metrics.items()})


CLIENT = KGAT
