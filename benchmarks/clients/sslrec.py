"""HKUDS/SSLRec: `model=lightgcn` by default, any of its models of general_cf. An epoch is its `train_epoch`."""

from __future__ import annotations

import os
import sys
import types

from driver import Client, cuda_is_the_cpu, old_numpy, pickle_matrices, stand_in
from program import numbers


class SSLRec(Client):
    name = "SSLRec"

    def write(self, data) -> None:
        folder = self.folder / "datasets" / "general_cf" / "sparse_gowalla"
        folder.mkdir(parents=True)
        pickle_matrices(folder, train_mat=data.train, valid_mat=data.val, test_mat=data.test)
        (self.folder / "config").symlink_to(self.checkout / "config")  # read from the current folder

    def start(self) -> None:
        old_numpy()
        stand_in("torch.utils.tensorboard")
        cuda_is_the_cpu()
        sys.path.insert(0, str(self.checkout))
        name = self.options.get("model", "lightgcn")
        sys.argv = ["main.py", "--model", name, "--dataset", "gowalla", "--device", "cpu"]
        os.chdir(self.folder)
        from config.configurator import configs
        from data_utils.build_data_handler import build_data_handler
        from models.bulid_model import build_model
        from trainer.build_trainer import build_trainer
        from trainer.trainer import init_seed

        for key, value in self.options.items():
            if key != "model":
                configs["model"][key] = type(configs["model"][key])(float(value))
        init_seed()
        handler = build_data_handler()
        handler.load_data()
        self.model = build_model(handler).to(configs["device"])
        self.losses: dict[str, float] = {}
        ignored = lambda *_, **__: None  # noqa: E731
        logger = types.SimpleNamespace(log=ignored, log_eval=ignored, log_loss=self._log_loss)
        self.trainer = build_trainer(handler, logger)
        self.trainer.create_optimizer(self.model)
        self.number = 0

    def _log_loss(self, epoch: int, losses: dict[str, float], **_) -> None:
        self.losses = dict(losses)

    def epoch(self) -> dict[str, float]:
        self.trainer.train_epoch(self.model, self.number)
        self.number += 1
        return self.losses

    def evaluate(self) -> dict[str, float]:
        return numbers(self.trainer.evaluate(self.model, self.number))


CLIENT = SSLRec
