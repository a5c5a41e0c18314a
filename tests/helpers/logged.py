"""What TensorBoard, MLflow and Weights & Biases read back of a run, and what the run folder says that it should be."""

import json
import struct

import pytest

NEEDED = "a log is tested where its package is installed"


def expected(run):
    """{name: {epoch: value}} of the losses, validation metrics and test metrics of a run."""
    values = {}
    for line in (run / "metrics.jsonl").read_text().splitlines():
        record = json.loads(line)
        for part, each in (("loss", record["losses"]), ("val", record["val"])):
            for name, value in each.items():
                values.setdefault(f"{part}/{name}", {})[record["epoch"]] = value
    result = json.loads((run / "result.json").read_text())
    return values | {f"test/{name}": {result["best_epoch"]: value} for name, value in result["test"].items()}


def in_tensorboard(run):
    accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator", reason=NEEDED)
    events = accumulator.EventAccumulator(str(run / "tensorboard"))
    events.Reload()
    assert events.Tags()["tensors"] == ["config/text_summary"]
    scalars = {name: events.Scalars(name) for name in events.Tags()["scalars"]}
    for name, each in scalars.items():
        assert len({event.step for event in each}) == len(each), name
    return {name: {event.step: event.value for event in each} for name, each in scalars.items()}


def in_mlflow(run):
    mlflow = pytest.importorskip("mlflow", reason=NEEDED)
    client = mlflow.MlflowClient(tracking_uri=f"sqlite:///{run}/mlflow.db")
    (found,) = client.search_runs([client.get_experiment_by_name("mmssl_fast").experiment_id])
    assert found.data.params["model.system"] and found.info.status == "FINISHED"
    histories = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
    return {
        name.replace("_at_", "@"): {each.step: each.value for each in history} for name, history in histories.items()
    }


def in_wandb(run):
    """Of all sittings of the run: its offline files are a log of records, which `wandb sync` sends."""
    proto = pytest.importorskip("wandb.proto.wandb_internal_pb2", reason=NEEDED)
    found, config, summary = {}, {}, {}
    for path in sorted((run / "wandb").glob("offline-run-*/run-*.wandb")):
        for content in records_of(path.read_bytes()):
            record = proto.Record.FromString(content)
            config |= {each.key: json.loads(each.value_json) for each in record.run.config.update}
            summary |= {name_of(each): json.loads(each.value_json) for each in record.summary.update}
            row = {name_of(each): json.loads(each.value_json) for each in record.history.item}
            for name, value in row.items():
                if not name.startswith("_") and name != "epoch":
                    found.setdefault(name, {})[row["epoch"]] = value
    assert config["model"]["system"] and config["train"]["log_to"] == "wandb"
    test = {name: {summary["best_epoch"]: value} for name, value in summary.items() if name.startswith("test/")}
    return found | test


def records_of(content):
    """The records of an offline file: a log as of LevelDB, in blocks of 32 KiB, after a header of seven bytes."""
    assert content[:4] == b":W&B"
    at, record = 7, b""
    while at + 7 <= len(content):
        if (left := 32768 - at % 32768) < 7:
            at += left
            continue
        _, length, kind = struct.unpack_from("<IHB", content, at)
        record += content[at + 7 : at + 7 + length]
        at += 7 + length
        if kind in (1, 4):  # a whole record, or the last part of one
            yield record
            record = b""


def name_of(item):
    return item.key or ".".join(item.nested_key)
