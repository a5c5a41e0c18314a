"""huangtinglin/MixGCF with its LightGCN; `--set "args=--ns rns --n_negs 1"` draws single negatives."""

from __future__ import annotations

from driver import write_user_lists
from program import Program, numbers


class MixGCF(Program):
    name = "MixGCF"
    absent = ("prettytable", "tqdm")

    def write(self, data) -> None:
        folder = self.folder / "yelp2018"  # the name decides on the format
        folder.mkdir(parents=True)
        write_user_lists(folder, train=data.train, test=data.test)

    def arguments(self) -> list[str]:
        return ["--data_path", f"{self.folder}/", "--dataset", "yelp2018", "--gnn", "lightgcn", "--cuda", ""]

    def evaluate(self) -> dict[str, float]:
        names = self.module
        names.model.eval()
        return numbers(names.test(names.model, names.user_dict, names.n_params, mode="test"))


CLIENT = MixGCF
