"""Xu107/MMHCL, as for its data set Clothing, which has two modalities."""

from __future__ import annotations

import json
import os

import numpy as np
from driver import user_lists
from program import Program, numbers

DATASET = "Clothing"


class MMHCL(Program):
    name = "MMHCL"
    main = "codes/main.py"
    absent = ("tqdm",)

    def write(self, data) -> None:
        folder = self.folder / "data" / DATASET
        (folder / "5-core").mkdir(parents=True)
        (self.folder / "codes").mkdir()
        for split in ("train", "val", "test"):
            lists = {str(user): items for user, items in user_lists(getattr(data, split))}
            (folder / "5-core" / f"{split}.json").write_text(json.dumps(lists))
        for name, features in zip(("image", "text"), data.features.values(), strict=False):
            np.save(folder / f"{name}_feat.npy", np.asarray(features, np.float32))

    def arguments(self) -> list[str]:
        os.chdir("codes")  # it reads ../data
        return ["--dataset", DATASET]

    def evaluate(self) -> dict[str, float]:
        names = self.module
        return numbers(names.trainer.test(list(names.data_generator.val_set), is_val=True))


CLIENT = MMHCL
