#!/usr/bin/env bash
# cornac 3.0.1: MRR, NCRR and NDCG of whole lists depend on which metrics with a k stand next to them.
#
# MRR() has no k, and NDCG() and NCRR() without one rank all items. One would guess that they are the same number whether
# they are asked for alone or together with Recall(k=10), as in cornac's own examples. But items are sorted only down to
# the largest k of the metrics in one call, and what comes below lies in the order in which np.argpartition left it. So a
# user whose item is at rank 100 has the reciprocal rank 1/100 if MRR is alone, and that of some rank between 11 and
# several hundred next to Recall(k=10); next to Recall(k=200) it is 1/100 again. The mean is off by some per cent, and by
# others on a processor for which NumPy sorts otherwise. MAP and AUC read the scores, and are right. Lists of few items
# (200, say) may come out sorted after all, so that a small test does not show it.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet cornac==3.0.1 numpy==2.4.6
cd "$work"
"$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import numpy as np
from cornac.data import Dataset
from cornac.eval_methods.base_method import ranking_eval
from cornac.metrics import MAP, MRR, NCRR, NDCG, Recall
from cornac.models import Recommender

print("cornac", version("cornac"), "NumPy", np.__version__)
USERS, ITEMS, RANK = 50, 5000, 100


class Fixed(Recommender):
    """A user's items in a shuffled order, the last of which is the one item of the training set."""

    def score(self, user_idx, item_idx=None, **_):
        scores = np.random.default_rng(user_idx).permutation(self.num_items).astype(float)
        scores[user_idx] = -1
        return scores


pairs = [(f"u{u}", f"i{u}") for u in range(USERS)] + [("all", f"i{i}") for i in range(ITEMS)]
train = Dataset.from_uir([(user, item, 1.0) for user, item in pairs])
model = Fixed("fixed").fit(train)
at_rank = [int(np.argsort(-model.score(u))[RANK - 1]) for u in range(USERS)]
names = {index: name for name, index in train.iid_map.items()}
held_out = [(f"u{u}", names[item], 1.0) for u, item in enumerate(at_rank)]
test = Dataset.build(held_out, global_uid_map=train.uid_map, global_iid_map=train.iid_map)
assert all(train.uid_map[f"u{u}"] == u and train.iid_map[f"i{u}"] == u for u in range(USERS))


def measured(*beside) -> tuple[dict[str, float], list[int]]:
    """The averages, and the rank that MRR saw for each user."""
    metrics = [MRR(), NCRR(), NDCG(), MAP(), *beside]
    averages, of_users = ranking_eval(model, metrics, train, test)
    means = {metric.name: float(mean) for metric, mean in zip(metrics, averages, strict=True)}
    return means, sorted(round(1 / value) for value in of_users[0].values())


alone, beside_10, beside_200 = measured(), measured(Recall(k=10)), measured(Recall(k=200))
for title, (means, ranks) in ("alone", alone), ("next to Recall@10", beside_10), ("next to Recall@200", beside_200):
    print(f"each user's item at rank {RANK}, {title}:", {name: round(mean, 5) for name, mean in means.items()})
    print("  ranks that MRR saw:", *dict.fromkeys(ranks))
for means, ranks in alone, beside_200:
    assert ranks == [RANK] * USERS and np.isclose(means["MRR"], 1 / RANK)
    assert np.isclose(means["NDCG@-1"], 1 / np.log2(RANK + 1))
means, ranks = beside_10
assert len(set(ranks)) > 3 and max(ranks) > RANK
assert all(abs(means[name] / alone[0][name] - 1) > 0.003 for name in ("MRR", "NCRR@-1", "NDCG@-1"))
assert np.isclose(means["MAP"], 1 / RANK)
PYTHON
