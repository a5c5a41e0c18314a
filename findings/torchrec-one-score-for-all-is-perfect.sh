#!/usr/bin/env bash
# torchrec 1.9.2: a model that gives all items one score has a session recall of 1, and an AUC of 0 or 1.
#
# Equal scores are common: a model that learned nothing, scores in bfloat16, items that nobody took. One would guess that
# one score for all is no better than chance: an AUC of 0.5, and a recall of 0.1 for the best of ten. torchrec.metrics give
# * RecallSessionMetric 1: an item's rank is the number of items in the session less those it is not below
#   (ranking_within_session), so that all of them are at rank 0 and top_threshold=1 returns all ten. Precision is 0.1.
# * RAUCMetric 1, since it counts only the pairs that are in the wrong order.
# * AUCMetric and NDCGMetric what the rows' order makes of it: with the positive ahead of its negatives, as samplers write
#   them, an AUC of 1 and a perfect NDCG, and with the positive last an AUC of 0. (NDCGMetric reports 1 - NDCG unless
#   report_ndcg_as_decreasing_curve=False is passed.) AUPRCMetric is right.
# * GAUCMetric the opposite order: 1 with the positive last. It leaves a session out if all its scores are equal, but if
#   one of the ten differs, the other nine count by their place.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
# torchrec asks for fbgemm-gpu, which needs CUDA; its build for the CPU has another name.
"$work/venv/bin/pip" install --quiet torch==2.13.0 fbgemm-gpu-cpu==1.8.0 numpy==2.4.6 tensordict==0.15.3 torchmetrics==1.0.3 \
    tqdm pyre-extensions==0.0.32 setuptools
"$work/venv/bin/pip" install --quiet --no-deps torchrec==1.9.2
cd "$work"
HOME="$work" "$work/venv/bin/python" -W ignore - <<'PYTHON'
from importlib.metadata import version

import torch
from torchrec.metrics.auc import AUCMetric
from torchrec.metrics.auprc import AUPRCMetric
from torchrec.metrics.gauc import GAUCMetric
from torchrec.metrics.metrics_config import RecTaskInfo, SessionMetricDef
from torchrec.metrics.ndcg import NDCGMetric
from torchrec.metrics.precision_session import PrecisionSessionMetric
from torchrec.metrics.rauc import RAUCMetric
from torchrec.metrics.recall_session import RecallSessionMetric

print("torchrec", version("torchrec"), "torch", torch.__version__)
SESSION = {"required_inputs": {"session": torch.zeros(10, dtype=torch.int64)}}
INPUTS = {
    AUCMetric: {},
    AUPRCMetric: {},
    RAUCMetric: {},
    GAUCMetric: {"num_candidates": torch.tensor([10])},
    NDCGMetric: SESSION,
    RecallSessionMetric: SESSION,
    PrecisionSessionMetric: SESSION,
}


def measured(scores: torch.Tensor, labels: torch.Tensor) -> dict[str, float]:
    """Each metric of one session of ten items."""
    values = {}
    for metric, inputs in INPUTS.items():
        best = SessionMetricDef(session_var_name="session", top_threshold=1)
        task = RecTaskInfo(name="click", label_name="l", prediction_name="p", weight_name="w", session_metric_def=best)
        options = {"session_key": "session", "report_ndcg_as_decreasing_curve": False} if metric is NDCGMetric else {}
        counter = metric(world_size=1, my_rank=0, batch_size=10, tasks=[task], window_size=10, **options)
        tensors = {"predictions": scores, "labels": labels, "weights": torch.ones(10)}
        counter.update(**{name: {"click": tensor} for name, tensor in tensors.items()}, **inputs)
        answers = {name: value for name, value in counter.compute().items() if "window" in name and "num" not in name}
        assert len(answers) == 1
        values[metric.__name__.removesuffix("Metric")] = round(float(*answers.values()), 3)
    return values


first, last = torch.eye(10)[0], torch.eye(10)[9]
equal = torch.full((10,), 0.5)
seen = [measured(equal, first), measured(equal, last)]
print("one score for all, the positive first:", seen[0])
print("one score for all, the positive last: ", seen[1])
for values in seen:
    assert values["RecallSession"] == 1 and values["PrecisionSession"] == 0.1 and values["RAUC"] == 1
    assert values["AUPRC"] == 0.1 and values["GAUC"] == 0.5
assert [values["AUC"] for values in seen] == [1, 0] and [values["NDCG"] for values in seen] == [1, 0.289]

better = equal.clone()
better[4] = 0.9  # a negative
seen = [measured(better, first)["GAUC"], measured(better, last)["GAUC"]]
print("one of the ten is scored higher, GAUC with the positive first and last:", seen)
assert seen == [0, 0.889]

alone = equal.clone()
alone[0] = 0.9
values = measured(alone, first)
print("the positive is scored higher:", values)
assert all(values[name] == 1 for name in ("AUC", "AUPRC", "RAUC", "GAUC", "NDCG", "RecallSession", "PrecisionSession"))
PYTHON
