"""tkipf/pygcn, a GCN that classifies nodes: here users and items, in the format of Cora, by the strongest feature.

A turn is a step of its optimizer, with the forward pass of the validation after it.
"""

from __future__ import annotations

import os
import sys

import numpy as np
from program import Program


class PyGCN(Program):
    name = "pygcn"
    main = "pygcn/train.py"

    def write(self, data) -> None:
        folder = self.folder / "data" / "cora"
        folder.mkdir(parents=True)
        (self.folder / "run").mkdir()
        features = np.concatenate([np.asarray(x)[:, :500] for x in data.features.values()], axis=1)
        bits = (features > np.median(features, axis=0)).astype(int)
        of_user = (data.train @ bits > 0).astype(int)
        with open(folder / "cora.content", "w") as file:
            for node, row in enumerate(np.concatenate([of_user, bits])):
                words = (node, *row, f"class{row[:7].argmax()}")
                file.write("\t".join(map(str, words)) + "\n")
        pairs = data.train.tocoo()
        np.savetxt(folder / "cora.cites", np.stack([pairs.row, pairs.col + data.n_users], axis=1), fmt="%d")

    def arguments(self) -> list[str]:
        os.chdir("run")  # it reads ../data/cora
        sys.path.insert(0, str(self.checkout))
        return ["--no-cuda", "--epochs", "100000"]

    def evaluate(self) -> dict[str, float]:
        names = self.module
        names.model.eval()
        output = names.model(names.features, names.adj)
        return {"accuracy": float(names.accuracy(output[names.idx_test], names.labels[names.idx_test]))}


CLIENT = PyGCN
