"""The validation metric that selects the best epoch: train.select_by (Recall@20) of all items, or of cold items ranked
among themselves.

A cold item's embedding comes from its features alone. It is shorter than those of other items, which training pushes
apart, so that cold items come after all others and their Recall@20 among all items is 0 in every epoch.
"""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import scipy.sparse as sp
import torch

from mmssl_fast import distributed

from ..config.sections import Config
from ..data import Dataset
from ..embeddings import Table, only_rows, zero_rows
from ..errors import InputError
from ..ranking import item_popularity, split_metrics

ALL, COLD, SELECTED = "recall@20", "cold_recall@20", "selected"


def selection(val: dict[str, float]) -> float:
    """The metric by which epochs and trials are compared, from the validation metrics of one of them: "selected", if
    train.select_by is not Recall@20.

    >>> selection({"recall@20": 0.0, "cold_recall@20": 0.1})
    0.1
    """
    return val.get(SELECTED, val.get(COLD, val[ALL]))


class Validation:
    """Computes the validation metrics of a run.

    With train.select = "auto", cold items select if every validation pair has a cold item and the system gives cold
    items an embedding. items: the embeddings before training. Raises InputError if train.select = "cold" and one of the
    two is missing.
    """

    def __init__(self, dataset: Dataset, items: Table, config: Config) -> None:
        self.dataset, self.cold, self.by = dataset, item_popularity(dataset) == 0, config.train.select_by
        self.ks, self.batch = sorted({*config.evaluate.ks, config.train.select_k}), config.evaluate.batch
        self.by_cold_items = config.train.select != "all" and self._by_cold_items(items, config)

    def _by_cold_items(self, items: Table, config: Config) -> bool:
        forced, is_cold = config.train.select == "cold", self.cold[self.dataset.val.indices]
        if not forced and not (len(is_cold) and is_cold.all()):
            return False
        if not is_cold.any():
            raise InputError(
                f'train.select = "cold": {self.dataset.name} has no validation pair of an item without training '
                'interactions; use "all"'
            )
        ranks = distributed.current()
        own = ranks.mine(torch.from_numpy(self.cold))
        here = (~zero_rows(items).cpu()[own]).any()
        embedded = bool(distributed.all_max(here.to(torch.int64), ranks))
        if forced and not embedded:
            raise InputError(
                f'train.select = "cold": {config.model.system} gives no embedding to items without training '
                'interactions; use "all", or a system that uses features'
            )
        return embedded

    def metrics(self, users: Table, items: Table) -> dict[str, float]:
        """`ranking.split_metrics` of the validation split. If cold items select, also "cold_recall@20" and so on: only
        cold items are ranked and only they count as relevant. "selected": the value of train.select_by, if that is not
        Recall@20."""
        result = split_metrics(users, items, self.dataset, "val", self.ks, batch=self.batch)
        if self.by_cold_items:
            result |= self._of_cold_items(users, items)
        if self.by != ALL:
            result[SELECTED] = result[f"cold_{self.by}" if self.by_cold_items else self.by]
        return result

    def _of_cold_items(self, users: Table, items: Table) -> dict[str, float]:
        val = sp.csr_array(self.dataset.val @ sp.diags_array(self.cold.astype(np.float32)))
        val.eliminate_zeros()
        # A zero embedding puts the other items last.
        cold = only_rows(items, distributed.current().mine(torch.from_numpy(self.cold)))
        among = split_metrics(users, cold, replace(self.dataset, val=val), "val", self.ks, batch=self.batch)
        return {
            f"cold_{name}": value
            for name, value in among.items()
            if name.startswith(("recall", "ndcg")) or name == self.by
        }
