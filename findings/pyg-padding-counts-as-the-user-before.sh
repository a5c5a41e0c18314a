#!/usr/bin/env bash
# torch_geometric 2.8.1: the -1 that fills a short list of MIPSKNNIndex counts in the LinkPred metrics as an item of the
# user one row above.
#
# search(..., exclude_links=...) returns k items for each user, and fills the row with -1 where fewer are left, after what
# the user has already was taken out. The metrics take such a matrix. One would guess that -1 is never a hit. They number
# all pairs as max_index * row + item (LinkPredMetricData.pred_rel_mat in metrics/link_pred.py), so that -1 in a row is
# the largest item in the row above. If that is a true item of the user above, each -1 is a hit for the user
# below: one true item gives a recall of 2. With the same two users in the other order all metrics are right.
# LinkPredCoverage counts -1 as the last item of the catalogue, and LinkPredAveragePopularity takes its popularity.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet torch-geometric==2.8.1 torchmetrics==1.9.0 faiss-cpu==1.15.1 numpy==2.4.6 torch==2.13.0
HOME="$work" OMP_NUM_THREADS=1 "$work/venv/bin/python" -W ignore - <<'PYTHON'
import torch
import torch_geometric
from torch_geometric import metrics
from torch_geometric.nn.pool import MIPSKNNIndex

print("torch_geometric", torch_geometric.__version__, "torch", torch.__version__)
users = torch.tensor([[1.0, 0.9, 0.8, 0.7, 0.6], [0.1, 0.2, 0.3, 0.4, 0.5]])
has = torch.tensor([[1, 1, 1], [2, 3, 4]])  # user 1 has items 2, 3 and 4 already
wants = torch.tensor([[0, 1], [4, 0]])  # user 0 wants item 4, user 1 wants item 0
lists = MIPSKNNIndex(emb=torch.eye(5)).search(users, k=3, exclude_links=has).index
print("lists:", lists.tolist())
assert lists.tolist() == [[0, 1, 2], [1, 0, -1]]

other_order = lists.flip(0), torch.stack([1 - wants[0], wants[1]])
names = ("Recall", "Precision", "HitRatio", "MAP", "NDCG", "F1")
seen = {}
for order, pair in (("user 0 first", (lists, wants)), ("user 1 first", other_order)):
    for name in names:
        metric = getattr(metrics, f"LinkPred{name}")(k=3)
        metric.update(*pair)
        seen[order, name] = round(metric.compute().item(), 4)
    print(order, {name: seen[order, name] for name in names})
assert seen["user 1 first", "Recall"] == 0.5 and seen["user 0 first", "Recall"] == 1.0
assert seen["user 1 first", "Precision"] == 0.1667 and seen["user 0 first", "Precision"] == 0.3333
assert all(seen["user 0 first", name] > seen["user 1 first", name] for name in names if name != "HitRatio")

alone = metrics.LinkPredRecall(k=3)
alone.update(lists, torch.tensor([[0, 1], [4, 0]]))
one = metrics.LinkPredRecall(k=3)
one.update(lists[:1], wants[:, :1])
print("sum of recall:", alone.accum.item(), "of which user 0 has", one.accum.item(), "so that user 1 has 2 of 1")
assert alone.accum == 2 and one.accum == 0

coverage = metrics.LinkPredCoverage(k=3, num_dst_nodes=5)
coverage.update(lists, wants)
popularity = metrics.LinkPredAveragePopularity(k=3, popularity=torch.tensor([0.0, 0, 0, 0, 600]))
popularity.update(lists, wants)
print("coverage of items 0, 1, 2 among 5:", round(coverage.compute().item(), 4), "mean popularity:", popularity.compute().item())
assert coverage.mask.tolist() == [True, True, True, False, True] and popularity.compute() == 100
PYTHON
