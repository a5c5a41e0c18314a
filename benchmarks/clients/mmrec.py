"""enoche/MMRec: any of its models, `model=LightGCN` by default. An epoch is its `_train_epoch`, evaluation its own."""

from __future__ import annotations

import logging
import os
import sys

import numpy as np
from driver import Client, old_numpy, stand_in


class MMRec(Client):
    name = "MMRec"

    def write(self, data) -> None:
        folder = self.folder / "data" / "baby"
        folder.mkdir(parents=True)
        lines = ["userID\titemID\tx_label"]
        for label, matrix in enumerate((data.train, data.val, data.test)):
            coo = matrix.tocoo()
            lines += [f"{user}\t{item}\t{label}" for user, item in zip(coo.row, coo.col, strict=True)]
        (folder / "baby.inter").write_text("\n".join(lines))
        for name, features in zip(("image", "text"), data.features.values(), strict=False):
            np.save(folder / f"{name}_feat.npy", np.asarray(features, np.float32))

    def start(self) -> None:
        old_numpy()
        stand_in("lmdb", "torchvision", "torchvision.transforms", "torchvision.transforms.functional", "wandb")
        source = self.checkout / "src"
        sys.path.insert(0, str(source))
        os.chdir(source)  # its configuration is read from the current folder
        logging.disable()
        from utils.configurator import Config
        from utils.dataloader import EvalDataLoader, TrainDataLoader
        from utils.dataset import RecDataset
        from utils.utils import get_model, get_trainer, init_seed

        name = self.options.get("model", "LightGCN")
        settings = {"data_path": f"{self.folder / 'data'}/", "use_gpu": False, "save_recommended_topk": False}
        config = Config(name, "baby", settings)
        for key in {*config["hyper_parameters"]}:  # the first of the values it would search
            value = config[key]
            config[key] = value[0] if isinstance(value, list) else value
        for key, value in self.options.items():
            if key != "model":
                config[key] = type(config[key])(float(value))
        os.chdir(self.folder)
        init_seed(config["seed"])
        dataset = RecDataset(config)
        str(dataset)  # counts interactions as it describes itself
        parts = dataset.split()
        for part in parts:
            str(part)
        self.train = TrainDataLoader(config, parts[0], batch_size=config["train_batch_size"], shuffle=True)
        self.valid = EvalDataLoader(config, parts[1], additional_dataset=parts[0], batch_size=config["eval_batch_size"])
        init_seed(config["seed"])
        self.train.pretrain_setup()
        self.model = get_model(name)(config, self.train).to(config["device"])
        self.trainer = get_trainer()(config, self.model)

    def accelerate(self) -> object:
        from mmssl_fast.dropin import mmrec

        return mmrec.accelerate(self.trainer, self.train, self.valid)

    def epoch(self) -> dict[str, float]:
        self.model.pre_epoch_processing()
        loss, _ = self.trainer._train_epoch(self.train, 0)
        self.model.post_epoch_processing()
        return {"loss": float(sum(loss)) if isinstance(loss, tuple) else float(loss)}

    def evaluate(self) -> dict[str, float]:
        return {name: float(value) for name, value in self.trainer.evaluate(self.valid).items()}


CLIENT = MMRec
