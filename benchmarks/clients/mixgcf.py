"""huangtinglin/MixGCF with its LightGCN; `--set "args=--ns rns --n_negs 1"` draws single negatives."""

from __future__ import annotations

from driver import user_lists
from program import Program, numbers


class MixGCF(Program):
    name = "MixGCF"
    absent = ("prettytable", "tqdm")

    def write(self, data) -> None:
        folder = self.folder / "yelp2018"  # the name decides on the format
        folder.mkdir(parents=True)
        for split, matrix in (("train", data.train), ("test", data.test)):
            lines = (" ".join(map(str, (user, *items))) for user, items in user_lists(matrix))
            (folder / f"{split}.txt").write_text("\n".join(lines))

    def arguments(self) -> list[str]:
        return ["--data_path", f"{self.folder}/", "--dataset", "yelp2018", "--gnn", "lightgcn", "--cuda", ""]

    def evaluate(self) -> dict[str, float]:
        names = self.module
        names.model.eval()
        return numbers(names.test(names.model, names.user_dict, names.n_params, mode="test"))


CLIENT = MixGCF
