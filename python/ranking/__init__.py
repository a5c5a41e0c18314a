"""Ranking of items and ranking metrics, for validation, testing and recommendation. All items without a training
interaction of the user are ranked, not only a sample of them.

order.py ranks items, ties.py treats equal scores, metrics.py computes the metrics, and splits.py computes them on the
splits of a dataset.
"""

from .arguments import DEFAULT_KS, check_heldout, check_list_lengths, users_at_once
from .metrics import metrics_of_users, ranking_metrics, user_metrics
from .order import Ranking
from .splits import breakdown, excluded, item_popularity, split_metrics, user_metrics_on_test

__all__ = [
    "DEFAULT_KS",
    "Ranking",
    "breakdown",
    "check_heldout",
    "check_list_lengths",
    "excluded",
    "item_popularity",
    "metrics_of_users",
    "ranking_metrics",
    "split_metrics",
    "user_metrics",
    "user_metrics_on_test",
    "users_at_once",
]
