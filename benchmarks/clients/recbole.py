"""RecBole: `model=LightGCN` by default. CHECKOUT is a folder that holds the package `recbole`.

`dtype=float64` shows which differences are rounding errors of float32 that grow in training.
"""

from __future__ import annotations

import logging
import sys
from typing import ClassVar

import torch
from driver import Client, old_numpy, stand_in


class RecBole(Client):
    name = "RecBole"
    full_needs_sparse = False
    settings: ClassVar[dict[str, object]] = {}  # further settings of the client

    def names(self) -> tuple:
        """What `start` uses of the package."""
        from recbole.config import Config
        from recbole.data import create_dataset, data_preparation
        from recbole.utils import get_model, get_trainer

        return Config, create_dataset, data_preparation, get_model, get_trainer

    def write(self, data) -> None:
        folder = self.folder / "catalogue"
        folder.mkdir(parents=True)
        for split in ("train", "val", "test"):
            coo = getattr(data, split).tocoo()
            lines = ["user_id:token\titem_id:token", *(f"{u}\t{i}" for u, i in zip(coo.row, coo.col, strict=True))]
            (folder / f"catalogue.{split}.inter").write_text("\n".join(lines))

    def start(self) -> None:
        old_numpy()
        stand_in("thop", "texttable", "ray", "ray.tune", "kg_distill", "tensorboard", "torch.utils.tensorboard")
        sys.path.insert(0, str(self.checkout))
        sys.argv = ["run.py"]
        logging.disable()
        torch.set_default_dtype(getattr(torch, self.options.get("dtype", "float32")))
        from recbole.utils import init_seed

        Config, create_dataset, data_preparation, get_model, get_trainer = self.names()
        name = self.options.get("model", "LightGCN")
        settings = {
            "data_path": str(self.folder),
            "benchmark_filename": ["train", "val", "test"],
            "load_col": {"inter": ["user_id", "item_id"]},
            "checkpoint_dir": str(self.folder),
            "show_progress": False,
            "use_gpu": False,
            "state": "CRITICAL",
        } | self.settings
        config = Config(model=name, dataset="catalogue", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        self.train, self.valid, _ = data_preparation(config, dataset)
        init_seed(config["seed"], config["reproducibility"])
        self.model = get_model(name)(config, self.train._dataset).to(config["device"])
        self.trainer = get_trainer(config["MODEL_TYPE"], name)(config, self.model)
        self.trainer.eval_collector.data_collect(self.train)
        self.number = 0

    def accelerate(self) -> object:
        from mmssl_fast.dropin import recbole

        return recbole.accelerate(self.trainer, self.valid)

    def epoch(self) -> dict[str, float]:
        loss = self.trainer._train_epoch(self.train, self.number)
        self.number += 1
        return {"loss": float(sum(loss)) if isinstance(loss, tuple) else float(loss)}

    def evaluate(self) -> dict[str, float]:
        found = self.trainer.evaluate(self.valid, load_best_model=False)
        return {name: float(value) for name, value in found.items()}


CLIENT = RecBole
