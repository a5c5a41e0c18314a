"""MMRec, a checkout in the folder MMREC: LightGCN, and VBPR with the features of titles and genres.

It has lists of values to search where others have defaults; the first of each list is used. Training ends by its own
validation (Recall@20, stopping_step 20).
"""

import logging
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest import mock

import numpy as np
from protocol import Driver, K

driver = Driver("torch", "numpy", "scipy")
source = Path(os.environ["MMREC"]).resolve() / "src"
driver.library = "MMRec"
commit = subprocess.run(["git", "-C", source, "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
driver.versions["MMRec"] = (os.environ.get("MMREC_COMMIT") or commit)[:7]

import torch  # noqa: E402

torch.set_num_threads(1)
data, driver.out = driver.data, driver.out.resolve()
folder = Path(tempfile.mkdtemp())
sys.path.insert(0, str(source))
os.chdir(source)  # its configuration is read from the current folder
logging.disable()
for name in ("", ".transforms", ".transforms.functional"):  # for pictures, which are not read here
    sys.modules[f"torchvision{name}"] = mock.MagicMock()
from utils.configurator import Config  # noqa: E402
from utils.dataloader import EvalDataLoader, TrainDataLoader  # noqa: E402
from utils.dataset import RecDataset  # noqa: E402
from utils.utils import get_model, get_trainer, init_seed  # noqa: E402

place = folder / "baby"  # the name of a data set whose configuration it has
place.mkdir()
lines = ["userID\titemID\tx_label"]
for label, (users, items) in enumerate([(data.users, data.items), (data.val_users, data.val_items)]):
    lines += [f"{user}\t{item}\t{label}" for user, item in zip(users, items, strict=True)]
(place / "baby.inter").write_text("\n".join(lines) + "\n")
np.save(place / "image_feat.npy", data.features("genre"))
np.save(place / "text_feat.npy", data.features("text"))


def model(name):
    def lists():
        settings = {"data_path": f"{folder}/", "use_gpu": False, "save_recommended_topk": False}
        config = Config(name, "baby", settings)
        for key in {*config["hyper_parameters"]}:
            config[key] = config[key][0] if isinstance(config[key], list) else config[key]
        init_seed(config["seed"])
        dataset = RecDataset(config)
        str(dataset)  # counts the interactions, which its loaders need
        parts = dataset.split()
        for part in parts[:2]:
            str(part)
        train = TrainDataLoader(config, parts[0], batch_size=config["train_batch_size"], shuffle=True)
        valid = EvalDataLoader(config, parts[1], additional_dataset=parts[0], batch_size=config["eval_batch_size"])
        train.pretrain_setup()
        made = get_model(name)(config, train).to(config["device"])
        trainer = get_trainer()(config, made)
        validate, best, state = trainer._valid_epoch, [-1.0], {}

        def validate_apart(loader):
            if loader is None:  # it would also test after every epoch
                return 0.0, {}
            with driver.left_out():
                score, found = validate(loader)
                if score > best[0]:  # it keeps the metrics of the best epoch, but not its parameters
                    best[0] = score
                    state.update({key: value.clone() for key, value in made.state_dict().items()})
                return score, found

        trainer._valid_epoch = validate_apart
        with driver.fitted():
            trainer.fit(train, valid, None, saved=False, verbose=False)
        made.load_state_dict(state)
        made.eval()
        users = torch.from_numpy(data.test_users)
        with torch.no_grad():
            scores = made.full_sort_predict([users]).clone()
        matrix = data.matrix()
        for row, user in enumerate(data.test_users.tolist()):
            scores[row, torch.from_numpy(matrix[user].indices).long()] = -torch.inf
            yield data.user_ids[user], data.item_ids[torch.topk(scores[row], K).indices.numpy()]

    return lists


driver.run({name: model(name) for name in ("LightGCN", "VBPR")})
