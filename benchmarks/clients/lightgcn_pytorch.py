"""gusye1234/LightGCN-PyTorch and its forks: an epoch is its `BPR_train_original`, evaluation its `Test`."""

from __future__ import annotations

import sys

from driver import Client, old_numpy, stand_in, write_user_lists


class LightGCNPyTorch(Client):
    name = "LightGCN-PyTorch"
    full_needs_sparse = False

    def write(self, data) -> None:
        folder = self.folder / "data" / "lastfm"
        folder.mkdir(parents=True)
        write_user_lists(folder, train=data.train, valid=data.val, test=data.test)

    def start(self) -> None:
        old_numpy()
        stand_in("tensorboardX", "world_gaudi")  # the latter is of LightGCN++, for other processors
        options = {"testbatch": "100", "topks": "[5, 20]"} | self.options
        sys.argv = ["main.py", "--tensorboard", "0", "--dataset", "gowalla"]
        sys.argv += [word for key, value in options.items() if key != "split" for word in (f"--{key}", value)]
        sys.path.insert(0, str(self.checkout / "code"))
        import dataloader
        import Procedure
        import utils
        import world
        from model import LightGCN

        world.config["A_split"] = "split" in self.options
        utils.set_seed(world.seed)
        self.procedure = Procedure
        self.dataset = dataloader.Loader(path=str(self.folder / "data" / "lastfm"))
        self.model = LightGCN(world.config, self.dataset).to(world.device)
        self.bpr = utils.BPRLoss(self.model, world.config)

    def accelerate(self) -> object:
        from mmssl_fast.dropin import lightgcn_pytorch

        return lightgcn_pytorch.accelerate(self.procedure, self.model, self.bpr, self.dataset)

    def epoch(self) -> dict[str, float]:
        said = self.procedure.BPR_train_original(self.dataset, self.model, self.bpr, 0)
        return {"norm of the parameters": float(sum(p.detach().norm() for p in self.model.parameters()))} | {
            "loss": float(said.split("-")[0].removeprefix("loss"))
        }

    def evaluate(self) -> dict[str, float]:
        found = self.procedure.Test(self.dataset, self.model, 0)
        return {f"{name} {k}": float(x) for name, values in found.items() for k, x in enumerate(values)}


CLIENT = LightGCNPyTorch
