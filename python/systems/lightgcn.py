"""LightGCN (He et al., SIGIR 2020): id embeddings propagated over the graph, trained with BPR alone."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast import bpr_loss, lightgcn

from .base import Batch


class LightGCNSystem:
    """Mean over L layers of the two-sided normalised propagation of id embeddings; BPR (Eq. 14) with AdamW."""

    trains = True
    least_batch = 1

    def build(self, dataset, graph, config) -> None:
        self.graph, self.layers = graph, config.model.layers

        def table(rows: int) -> torch.nn.Parameter:
            return torch.nn.Parameter(
                torch.nn.init.xavier_uniform_(torch.empty(rows, config.model.dim)).to(graph.device)
            )

        self.users, self.items = table(graph.n_users), table(graph.n_items)
        self.optimisers = {
            "adamw": torch.optim.AdamW(
                [self.users, self.items], lr=config.optimiser.lr, weight_decay=config.optimiser.weight_decay
            )
        }

    def start_epoch(self, epoch: int) -> None:
        pass

    def step(self, batch: Batch) -> dict[str, Tensor]:
        users, items = lightgcn(self.graph, self.users, self.items, self.layers, norm="both")
        loss = bpr_loss(users, items, batch.users, batch.positives, batch.negatives)
        optimiser = self.optimisers["adamw"]
        optimiser.zero_grad(set_to_none=True)
        loss.backward()
        optimiser.step()
        return {"bpr": loss}

    @torch.no_grad()
    def embeddings(self) -> tuple[Tensor, Tensor]:
        return lightgcn(self.graph, self.users, self.items, self.layers, norm="both")

    def parameters(self) -> dict[str, Tensor]:
        return {"users": self.users.detach(), "items": self.items.detach()}

    def state(self) -> dict[str, Tensor]:
        return self.parameters()

    @torch.no_grad()
    def load_state(self, tensors: dict[str, Tensor]) -> None:
        for name, table in (("users", self.users), ("items", self.items)):
            if tensors[name].shape != table.shape:
                raise ValueError(f"{name} has shape {tuple(tensors[name].shape)}, not {tuple(table.shape)}")
            table.copy_(tensors[name])
