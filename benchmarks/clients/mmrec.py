"""enoche/MMRec and its forks: any of their models, `model=LightGCN` by default.

An epoch is its `_train_epoch`, evaluation its own.
"""

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
        np.save(folder / "user_graph_dict.npy", neighbours(data.train), allow_pickle=True)

    def start(self) -> None:
        old_numpy()
        stand_in("lmdb", "torchvision", "torchvision.transforms", "torchvision.transforms.functional", "wandb")
        source = self.checkout / "src" if (self.checkout / "src").exists() else self.checkout
        sys.path.insert(0, str(source))
        os.chdir(source)  # its configuration is read from the current folder
        logging.disable()
        from utils.configurator import Config
        from utils.dataloader import EvalDataLoader, TrainDataLoader
        from utils.dataset import RecDataset
        from utils.utils import get_model, get_trainer, init_seed

        name = self.options.get("model", "LightGCN")
        settings = {"data_path": f"{self.folder / 'data'}/", "use_gpu": False, "save_recommended_topk": False}
        settings |= {"inter_file_name": "baby.inter", "user_graph_dict_file": "user_graph_dict.npy"}
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
        # DRAGON replaces this one in each step, which is possible only because .to() makes it a tensor on a GPU.
        if (table := self.model._parameters.pop("result_embed", None)) is not None:
            self.model.result_embed = table.detach()
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


def neighbours(train, most: int = 200) -> dict[int, list[list]]:
    """For every user, the users with most items in common and their numbers, as DRAGON and DualGNN read them."""
    common = (train @ train.T).tolil()
    common.setdiag(0)
    found = {}
    for user, (ids, counts) in enumerate(zip(common.rows, common.data, strict=True)):
        best = sorted((-count, other) for other, count in zip(ids, counts, strict=True) if count)[:most]
        found[user] = [[other for _, other in best], [float(-count) for count, _ in best]]
    return found


CLIENT = MMRec
