"""HKUDS/DiffMM. A turn is a batch of the recommender, after the first training of the diffusion models."""

from __future__ import annotations

import numpy as np
import torch
from driver import pickle_matrices
from program import Program, numbers


class DiffMM(Program):
    name = "DiffMM"
    main = "Main.py"
    absent = ("setproctitle", "tqdm")

    def write(self, data) -> None:
        folder = self.folder / "Datasets" / "baby"
        folder.mkdir(parents=True)
        pickle_matrices(folder, trnMat=data.train, tstMat=data.test)
        for name, features in zip(("image", "text"), data.features.values(), strict=False):
            np.save(folder / f"{name}_feat.npy", np.asarray(features, np.float32))

    def arguments(self) -> list[str]:
        return ["--data", "baby"]

    def ends_turn(self, optimizer: torch.optim.Optimizer) -> bool:
        return optimizer is self.module.coach.opt

    def evaluate(self) -> dict[str, float]:
        with torch.no_grad():
            return numbers(self.module.coach.testEpoch())


CLIENT = DiffMM
