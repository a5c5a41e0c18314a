"""RUCAIBox/RecBole-GNN: `model=LightGCN` by default, or `NGCF` and others. It needs RecBole and PyTorch Geometric.

Both have to be installed. torch_sparse is not needed, because the edges are given as `edge_index` and `edge_weight`.
"""

from __future__ import annotations

from typing import ClassVar

from driver import client, stand_in


class RecBoleGNN(client("recbole")):
    name = "RecBole-GNN"
    settings: ClassVar[dict[str, object]] = {"enable_sparse": False, "gnn_transform": None}

    def start(self) -> None:
        stand_in("torch_sparse")
        super().start()

    def names(self) -> tuple:
        from recbole_gnn.config import Config
        from recbole_gnn.utils import create_dataset, data_preparation, get_model, get_trainer

        return Config, create_dataset, data_preparation, get_model, get_trainer

    def accelerate(self) -> object:
        from mmssl_fast.dropin import pyg

        return "\n".join(f"{name}: {done}" for name, done in pyg.accelerate(self.model).items())


CLIENT = RecBoleGNN
