#!/usr/bin/env bash
# OpenVINO 2026.4.1: int64 ids of 2^31 and more become one and the same id, or another one, under the type int64.
#
# A ranking model may end in a table of catalogue ids, from which it takes the ids of the best places: TopK, then Gather, in
# ONNX with int64. Its output is declared int64 in the compiled model too, and comes back as a NumPy array of int64. One
# would guess that ids come back as they are, as from the ONNX reference and other runtimes, or that they are refused. The CPU
# plugin computes in int32 and converts back. Constants are cut off at the ends of the range, so that every id above 2^31 - 1 is
# 2147483647; inputs are taken modulo 2^32, so that 2^40 + 10 is 10, another item. `id % buckets` of a hashed id is another
# bucket than in training, and an id compared with a constant that is equal to it is not equal. Scores, places
# and the ids below 2^31 are right. No warning.
#
# Prints what it sees and fails if that changes. Needs Python 3.11 and a network.
set -euo pipefail
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
python3 -m venv "$work/venv"
"$work/venv/bin/pip" install --quiet openvino==2026.4.1 onnx==1.23.2 numpy==2.4.6
cd "$work"
HOME="$work" "$work/venv/bin/python" -W error::RuntimeWarning - <<'PYTHON'
from importlib.metadata import version

import numpy as np
import onnx
import openvino as ov
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

print("OpenVINO", version("openvino"), "ONNX", version("onnx"))
IDS = np.array([5, 2**31 + 7, 2**40 + 10, 2**53 + 1])
core = ov.Core()


def both(nodes, constants, feeds, outputs) -> tuple[dict, dict]:
    """The outputs of one ONNX model from the ONNX reference and from OpenVINO."""
    values = [helper.make_tensor_value_info(name, helper.np_dtype_to_tensor_dtype(value.dtype), value.shape)
              for name, value in feeds.items()]
    results = [helper.make_tensor_value_info(name, kind, [len(IDS)]) for name, kind in outputs.items()]
    tables = [numpy_helper.from_array(value, name) for name, value in constants.items()]
    graph = helper.make_graph([helper.make_node(*node) for node in nodes], "graph", values, results, tables)
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9)
    onnx.checker.check_model(model)
    onnx.save(model, "model.onnx")
    compiled = core.compile_model("model.onnx", "CPU")
    for port in compiled.outputs:
        if outputs[port.any_name] == TensorProto.INT64:
            assert port.element_type == ov.Type.i64, port
    answer = compiled(feeds)
    wanted = ReferenceEvaluator(model).run(list(outputs), feeds)
    return dict(zip(outputs, wanted, strict=True)), {name: answer[name] for name in outputs}


best = [("TopK", ["scores", "k"], ["values", "places"]), ("Gather", ["ids", "places"], ["best"])]
outputs = {"values": TensorProto.FLOAT, "places": TensorProto.INT64, "best": TensorProto.INT64}
scores = np.array([0.1, 0.3, 0.4, 0.2], np.float32)
right, seen = both(best, {"ids": IDS, "k": np.array([4])}, {"scores": scores}, outputs)
print("the best ids:", right["best"].tolist(), "OpenVINO:", seen["best"].dtype, seen["best"].tolist())
assert right["best"].tolist() == [2**40 + 10, 2**31 + 7, 2**53 + 1, 5]
assert np.array_equal(right["values"], seen["values"]) and np.array_equal(right["places"], seen["places"])
assert seen["best"].dtype == np.int64 and seen["best"].tolist() == [2**31 - 1] * 3 + [5]

nodes = [("Identity", ["id"], ["same"]), ("Mod", ["id", "buckets"], ["bucket"]), ("Equal", ["id", "one"], ["is one"])]
outputs = {"same": TensorProto.INT64, "bucket": TensorProto.INT64, "is one": TensorProto.BOOL}
right, seen = both(nodes, {"buckets": np.array([1000]), "one": IDS[2:3]}, {"id": IDS}, outputs)
for name in outputs:
    print(f"{name}: {right[name].tolist()} OpenVINO: {seen[name].tolist()}")
assert np.array_equal(right["same"], IDS) and seen["same"].tolist() == [5, 7 - 2**31, 10, 1]
assert right["bucket"].tolist() == [5, 655, 786, 993] and seen["bucket"].tolist()[0::2] == [5, 10]
assert right["is one"].tolist() == [False, False, True, False] and not np.any(seen["is one"])
PYTHON
