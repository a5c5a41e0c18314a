"""RecBole: LightGCN and BPR, with its own validation and early stopping (valid_metric MRR@10, stopping_step 10)."""

import logging
import os
import tempfile
from pathlib import Path

import numpy as np
from protocol import Driver, K

driver = Driver("recbole", "torch", "numpy")

import torch  # noqa: E402

torch.set_num_threads(1)
from recbole.config import Config  # noqa: E402
from recbole.data import create_dataset, data_preparation  # noqa: E402
from recbole.data.interaction import Interaction  # noqa: E402
from recbole.utils import get_model, get_trainer, init_seed  # noqa: E402

logging.disable()
data, driver.out = driver.data, driver.out.resolve()
folder = Path(tempfile.mkdtemp())
os.chdir(folder)  # RecBole writes logs to the current folder


def write(split, users, items):
    lines = ["user:token\titem:token", *(f"{u}\t{i}" for u, i in zip(users, items, strict=True))]
    (folder / "films" / f"films.{split}.inter").write_text("\n".join(lines) + "\n")


(folder / "films").mkdir()
write("train", data.user_ids[data.users], data.item_ids[data.items])
write("val", data.user_ids[data.val_users], data.item_ids[data.val_items])
# Only the training interactions are looked at below, but three files are demanded.
write("test", data.user_ids[data.val_users], data.item_ids[data.val_items])


def model(name):
    def lists():
        settings = {
            "data_path": str(folder),
            "USER_ID_FIELD": "user",
            "ITEM_ID_FIELD": "item",
            "load_col": {"inter": ["user", "item"]},
            "benchmark_filename": ["train", "val", "test"],
            "checkpoint_dir": str(folder),
            "use_gpu": False,
            "show_progress": False,
            "state": "CRITICAL",
        }
        config = Config(model=name, dataset="films", config_dict=settings)
        init_seed(config["seed"], config["reproducibility"])
        dataset = create_dataset(config)
        train, valid, _ = data_preparation(config, dataset)
        init_seed(config["seed"] + config["local_rank"], config["reproducibility"])
        made = get_model(name)(config, train._dataset).to(config["device"])
        trainer = get_trainer(config["MODEL_TYPE"], name)(config, made)
        validate = trainer._valid_epoch

        def validate_apart(*arguments, **named):
            with driver.left_out():
                return validate(*arguments, **named)

        trainer._valid_epoch = validate_apart
        with driver.fitted():
            trainer.fit(train, valid, saved=True, show_progress=False)
        # its own checkpoint of the best epoch; torch 2.6 and newer do not unpickle its configuration by themselves
        made.eval()
        made.load_state_dict(torch.load(trainer.saved_model_file, weights_only=False)["state_dict"])
        items = np.array([-1, *map(int, dataset.id2token("item", range(1, dataset.item_num)))])
        seen = {}
        for user, item in zip(data.users, data.item_ids[data.items].tolist(), strict=True):
            seen.setdefault(int(user), set()).add(item)
        for user in data.test_users.tolist():
            number = torch.tensor([dataset.token2id("user", str(data.user_ids[user]))])
            with torch.no_grad():
                scores = made.full_sort_predict(Interaction({"user": number})).reshape(-1).numpy()
            scores = np.where(np.isin(items, [*seen[user], -1]), -np.inf, scores)
            yield data.user_ids[user], items[np.argsort(-scores, kind="stable")[:K]]

    return lists


driver.run({name: model(name) for name in ("LightGCN", "BPR")})
