"""huangtinglin/NGCF-PyTorch. Its default removes edges in each step; `--set "args=--node_dropout_flag 0"` does not."""

from __future__ import annotations

from typing import ClassVar

from driver import write_user_lists
from program import Program, numbers


class NGCF(Program):
    name = "NGCF-PyTorch"
    main = "NGCF/main.py"
    edits: ClassVar[dict[str, str]] = {"'cuda:' + str(args.gpu_id)": "'cpu'"}

    def write(self, data) -> None:
        folder = self.folder / "catalogue"
        folder.mkdir(parents=True)
        write_user_lists(folder, train=data.train, test=data.test)

    def arguments(self) -> list[str]:
        return ["--data_path", f"{self.folder}/", "--dataset", "catalogue"]

    def evaluate(self) -> dict[str, float]:
        names = self.module
        return numbers(names.test(names.model, list(names.data_generator.test_set), drop_flag=False))


CLIENT = NGCF
