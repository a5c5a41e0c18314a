"""RUCAIBox/RecBole-GNN: `model=LightGCN` by default, or `NGCF` and others. It needs RecBole and PyTorch Geometric.

Both have to be installed. torch_sparse is not needed, because the edges are given as `edge_index` and `edge_weight`.
`own2.edges=shuffled` gives the edges in another order on the side own2: what the client's own rounding errors change.
"""

from __future__ import annotations

from typing import ClassVar

import torch
from driver import client, stand_in


class RecBoleGNN(client("recbole")):
    name = "RecBole-GNN"
    settings: ClassVar[dict[str, object]] = {"enable_sparse": False, "gnn_transform": None}

    def start(self) -> None:
        stand_in("torch_sparse")
        super().start()
        if self.options.get("edges") == "shuffled":
            order = torch.randperm(len(self.model.edge_weight), generator=torch.Generator().manual_seed(1))
            self.model.edge_index = self.model.edge_index[:, order]
            self.model.edge_weight = self.model.edge_weight[order]

    def names(self) -> tuple:
        from recbole_gnn.config import Config
        from recbole_gnn.utils import create_dataset, data_preparation, get_model, get_trainer

        return Config, create_dataset, data_preparation, get_model, get_trainer

    def accelerate(self) -> object:
        from mmssl_fast.dropin import pyg

        before = self.rounding_error()
        done = [f"{name}: {what}" for name, what in pyg.accelerate(self.model).items()]
        errors = f"largest and mean error of a sum over neighbours: {before}; with mmssl_fast {self.rounding_error()}"
        return "\n".join([*done, errors])

    @torch.no_grad()
    def rounding_error(self) -> str:
        """Of the first convolution's sum of the embeddings, against float64, relative to the largest entry."""
        edges, weight, x = self.model.edge_index, self.model.edge_weight, self.model.get_ego_embeddings().detach()
        conv = next(module for module in self.model.modules() if hasattr(module, "propagate"))
        found = (conv.propagate if [*conv.parameters()] else conv)(edge_index=edges, x=x, edge_weight=weight)
        truth = torch.zeros(x.shape, dtype=torch.float64)
        truth.index_add_(0, edges[1], x[edges[0]].double() * weight.double()[:, None])
        error = (found - truth).abs() / truth.abs().max()
        return f"{error.max():.2e} and {error.mean():.2e}"


CLIENT = RecBoleGNN
