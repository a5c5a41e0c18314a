"""Equal runs leave equal files, to the byte: docs/determinism.md lists those that hold no times."""

import hashlib
import json
import os
import subprocess
import sys

import pytest
import torch
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.files import read_header, write_tensors
from safetensors import safe_open

pytestmark = pytest.mark.processes

TIMELESS = {
    "run/config.toml",
    "run/model.safetensors",
    "run/curves.png",
    "run/state/0000000008.safetensors",
    "top.csv",
    "top.parquet",
    "best.toml",
}
TIMED = {"run/metrics.jsonl", "run/result.json", "run/baselines.json", "run/state/0000000008.json"}
PROGRAM = """
import sys
from mmssl_trainer.cli.main import main
data = sys.argv[1]
small = ["--data", data, "--system", "mmssl", "--epochs", "2", "--batch", "64", "--threads", "1",
         "--set", "model.dim=8", "--set", "model.hidden=[16, 8]"]
assert main(["train", *small, "--out", "run", "--compare"]) == 0
assert main(["recommend", "run", "--out", "top.csv"]) == 0
assert main(["recommend", "run", "--out", "top.parquet"]) == 0
assert main(["tune", "--data", data, "--system", "svd", "--space", "space.toml", "--trials", "2", "--threads", "1",
             "--set", "model.dim=8", "--out", "tuned"]) == 0
assert main(["report", "run", "--out", "page.html"]) == 0
"""


def once(place, data, seed):
    """What two commands' files are: {name: sha256} of a process with this seed of Python's hashes."""
    place.mkdir()
    (place / "space.toml").write_text("[svd]\npower = [0, 2]\n")
    done = subprocess.run(
        [sys.executable, "-P", "-c", PROGRAM, str(data)],
        cwd=place,
        capture_output=True,
        text=True,
        check=False,
        env=os.environ | {"PYTHONHASHSEED": str(seed)},
    )
    assert done.returncode == 0, done.stderr
    (place / "tuned" / "best.toml").rename(place / "best.toml")
    names = [str(path.relative_to(place)) for path in place.rglob("*") if path.is_file()]
    return {name: hashlib.sha256((place / name).read_bytes()).hexdigest() for name in names}


def test_equal_runs_of_two_processes_leave_equal_files(tmp_path):
    data = synthetic(seed=4, n_users=40, n_items=30, modalities={"image": 5, "text": 4})
    folder = write_plain(data, tmp_path / "data")
    first, second = (once(tmp_path / str(seed), folder, seed) for seed in (1, 2))
    assert first.keys() == second.keys()
    assert {name for name in first if name in TIMELESS and first[name] == second[name]} == TIMELESS
    assert {name for name in first if name.startswith("run/")} == TIMED | {
        name for name in TIMELESS if name.startswith("run/")
    }
    pages = [(tmp_path / seed / "page.md").read_text().splitlines() for seed in "12"]
    others = [(a, b) for a, b in zip(*pages, strict=True) if a != b]
    timed = ("| MMSSL (run)", "| training ", "| per epoch ", "| validation ", "| peak memory ")
    assert all(line.startswith(timed) for pair in others for line in pair), others


def test_report_of_one_run_is_the_same_in_every_process(tmp_path):
    folder = write_plain(synthetic(seed=4, n_users=40, n_items=30, modalities={"image": 5}), tmp_path / "data")
    begin = [sys.executable, "-P", "-m", "mmssl_trainer"]
    run = [*begin, "train", "--data", str(folder), "--system", "popularity", "--out", "run"]
    subprocess.run(run, cwd=tmp_path, check=True, capture_output=True)
    pages = []
    for seed in ("1", "2"):
        environment = os.environ | {"PYTHONHASHSEED": seed}
        subprocess.run([*begin, "report", "run"], cwd=tmp_path, check=True, capture_output=True, env=environment)
        pages.append([(tmp_path / f"report.{end}").read_bytes() for end in ("html", "md")])
    assert pages[0] == pages[1]


def test_one_key_holds_the_metadata_in_order(tmp_path):
    """safetensors shuffles the keys of its metadata: forty files of eight keys are alike only with one."""
    metadata = {f"key {at}": f"value {at}" for at in range(8)}
    files = set()
    for at in range(40):
        shuffled = dict(sorted(metadata.items(), key=lambda pair, at=at: hash((at, pair))))
        write_tensors(tmp_path / "one.safetensors", {"a": torch.arange(3)}, shuffled)
        files.add((tmp_path / "one.safetensors").read_bytes())
    assert len(files) == 1
    with safe_open(tmp_path / "one.safetensors", "pt") as file:
        assert read_header(file.metadata()) == metadata and len(file.metadata()) == 1


@pytest.mark.parametrize(
    "found, header",
    [
        (None, {}),
        ({"format": "model 1", "mmssl_fast": "0.1.0"}, {"format": "model 1", "mmssl_fast": "0.1.0"}),
        ({"header": json.dumps({"a": "b"})}, {"a": "b"}),
        ({"header": "[1]"}, {}),
        ({"header": "{"}, {}),
        ({"header": "[" * 100_000}, {}),
    ],
    ids=["none", "as earlier versions wrote it", "one key", "a list", "cut off", "nested"],
)
def test_header_of_a_file(found, header):
    assert read_header(found) == header
