"""Training, evaluating and recommending over many processes: rows, columns and what ranks exchange.

torchrun starts the processes. A table over users or items lies by rows, n/P on each of P ranks, wherever nodes are read
one by one, and by columns, all nodes and d/P of the features, while it is propagated; the graph is on every rank. An op
here has the name of the one on one process and takes this rank's rows and the ranks besides.

>>> import torch
>>> from mmssl_fast import InteractionGraph
>>> from mmssl_fast import distributed as md
>>> ranks = md.start()  # rank 0 of 1 without torchrun
>>> graph = InteractionGraph.from_pairs([0, 0, 1], [0, 1, 1], 2, 2)
>>> users, items = ranks.mine(torch.eye(2)), ranks.mine(torch.eye(2))
>>> md.lightgcn(graph, users, items, 2, ranks)[0].shape
torch.Size([2, 2])
>>> md.stop()
"""

from .bpr_loss import bpr_loss
from .collectives import (
    all_max,
    all_sum,
    all_texts,
    broadcast_blocks,
    column_softmax,
    columns_to_rows,
    copy_to_ranks,
    gather_rows,
    gather_whole,
    merge_logsumexp,
    merge_topk,
    reduce_from_ranks,
    reduce_gradients,
    rows_to_columns,
)
from .cosine_topk import cosine_topk
from .propagate import lightgcn, propagate
from .ranks import ONE, Ranks, current, start, started_together, stop

__all__ = [
    "ONE",
    "Ranks",
    "all_max",
    "all_sum",
    "all_texts",
    "bpr_loss",
    "broadcast_blocks",
    "column_softmax",
    "columns_to_rows",
    "copy_to_ranks",
    "cosine_topk",
    "current",
    "gather_rows",
    "gather_whole",
    "lightgcn",
    "merge_logsumexp",
    "merge_topk",
    "propagate",
    "reduce_from_ranks",
    "reduce_gradients",
    "rows_to_columns",
    "start",
    "started_together",
    "stop",
]
