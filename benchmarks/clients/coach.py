"""HKUDS programs with a Coach: DiffMM, and AdaGCL with `--set data=lastfm`. A turn is a batch of the recommender."""

from __future__ import annotations

import pickle

import numpy as np
import scipy.sparse as sp
import torch
from program import Program, numbers

FOLDERS = {"baby": "baby", "lastfm": "lastFM"}


class Coach(Program):
    name = "HKUDS Coach"
    main = "Main.py"
    absent = ("setproctitle", "tqdm")

    @property
    def _data(self) -> str:
        return self.options.get("data", "baby")

    def write(self, data) -> None:
        folder = self.folder / "Datasets" / FOLDERS[self._data]
        folder.mkdir(parents=True)
        for name, matrix in (("trnMat", data.train), ("tstMat", data.test)):
            with open(folder / f"{name}.pkl", "wb") as file:
                pickle.dump(sp.coo_matrix(matrix), file)
        for name, features in zip(("image", "text"), data.features.values(), strict=False):
            np.save(folder / f"{name}_feat.npy", np.asarray(features, np.float32))

    def arguments(self) -> list[str]:
        return ["--data", self._data]

    def ends_turn(self, optimizer: torch.optim.Optimizer) -> bool:
        coach = self.module.coach
        return optimizer is getattr(coach, "opt_gen_2", coach.opt)  # the last one of a batch

    def evaluate(self) -> dict[str, float]:
        with torch.no_grad():
            return numbers(self.module.coach.testEpoch())


CLIENT = Coach
