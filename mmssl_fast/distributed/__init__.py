"""Training, evaluation and recommendation with several processes (ranks), which torchrun starts. There is a file for
each operation, and for each kind of communication.

Each of P ranks has n/P rows of a table of n users or items, with all d columns. For propagation, the ranks exchange
rows for columns: each then has all n rows and d/P columns. The graph is on every rank, or divided among groups of ranks
(`GroupGraph`). The operations have the names of those for one process; they take this rank's rows of the tables, and
the `Ranks` as an additional argument.

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
    column_softmax,
    columns_to_rows,
    copy_to_ranks,
    gather_rows,
    merge_logsumexp,
    reduce_from_ranks,
    rows_to_columns,
)
from .cosine_topk import cosine_topk, seen_of_items
from .dropout import dropout
from .exchange import Exchange, start_columns_to_rows, start_rows_to_columns
from .gradient_norm import gradient_norm
from .group_graph import GroupGraph, batch_rows, own_rows
from .infonce import infonce
from .initial import kaiming_normal_columns, skip_uniform, xavier_uniform
from .propagate import lightgcn, lightgcn_columns, propagate, propagate_columns
from .ranks import ONE, Ranks, current, on_this_machine, start, started_together, stop
from .relation_rows import normalize_rows, relation_linear
from .sample_bpr import sample_bpr
from .thinned import own_edges, thinned
from .transfers import (
    all_max,
    all_sum,
    all_texts,
    broadcast_blocks,
    exchange_parts,
    gather_whole,
    merge_topk,
    reduce_gradients,
)

__all__ = [
    "ONE",
    "Exchange",
    "GroupGraph",
    "Ranks",
    "all_max",
    "all_sum",
    "all_texts",
    "batch_rows",
    "bpr_loss",
    "broadcast_blocks",
    "column_softmax",
    "columns_to_rows",
    "copy_to_ranks",
    "cosine_topk",
    "current",
    "dropout",
    "exchange_parts",
    "gather_rows",
    "gather_whole",
    "gradient_norm",
    "infonce",
    "kaiming_normal_columns",
    "lightgcn",
    "lightgcn_columns",
    "merge_logsumexp",
    "merge_topk",
    "normalize_rows",
    "on_this_machine",
    "own_edges",
    "own_rows",
    "propagate",
    "propagate_columns",
    "reduce_from_ranks",
    "reduce_gradients",
    "relation_linear",
    "rows_to_columns",
    "sample_bpr",
    "seen_of_items",
    "skip_uniform",
    "start",
    "start_columns_to_rows",
    "start_rows_to_columns",
    "started_together",
    "stop",
    "thinned",
    "xavier_uniform",
]
