"""The command line: what is printed, exit codes, and what is written."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from command_line import SMALL, fails
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load
from mmssl_trainer.config.sections import SYNTHETIC_EPOCHS
from mmssl_trainer.data import synthetic
from mmssl_trainer.runs.folder import RunFolder


# --- what works ------------------------------------------------------------------------------------------------------
def test_train_prints_a_table_and_names_the_folder(run, folder, tmp_path, capsys):
    assert main(["train", "--data", str(folder), "--out", str(tmp_path / "run"), "--compare", *SMALL]) == 0
    captured = capsys.readouterr()
    assert "Recall@20" in captured.out and "LightGCN" in captured.out and "popularity" in captured.out
    assert str(tmp_path / "run") in captured.out
    assert "\x1b" not in captured.out + captured.err  # no colours, no progress bar away from a terminal
    baselines = json.loads((tmp_path / "run" / "baselines.json").read_text())
    assert set(baselines) == {"popularity"} and baselines["popularity"]["test"]["recall@20"] > 0


def test_resolved_config_repeats_the_run(run, tmp_path, capsys):
    assert main(["train", "--config", str(run / "config.toml"), "--out", str(tmp_path / "again")]) == 0
    results = [json.loads((path / "result.json").read_text()) for path in (run, tmp_path / "again")]
    assert results[0]["test"] == results[1]["test"] and results[0]["val"] == results[1]["val"]
    assert (run / "config.toml").read_text() == (tmp_path / "again" / "config.toml").read_text()


def test_default_folder_is_under_runs(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    for _ in range(2):
        assert main(["train", "--data", str(folder), "--system", "popularity"]) == 0
    runs = list((tmp_path / "runs").iterdir())
    assert len(runs) == 2 and all(one.name.startswith("popularity-data-") for one in runs)


def test_no_arguments_trains_mmssl_on_the_built_in_data(tmp_path, monkeypatch, capsys):
    """The whole first command of the README, on a smaller catalogue: three systems in a table, the features help."""
    small = synthetic(seed=0, n_users=300, n_items=200, modalities={"image": 16, "text": 16})
    monkeypatch.setattr("mmssl_trainer.data.synthetic", lambda seed: small)
    monkeypatch.chdir(tmp_path)
    assert main(["train"]) == 0
    printed = capsys.readouterr().out
    assert [name in printed for name in ("MMSSL", "popularity", "LightGCN", "seconds")] == [True] * 4
    (run,) = (tmp_path / "runs").iterdir()
    assert load(run / "config.toml").train.epochs == SYNTHETIC_EPOCHS
    recall = json.loads((run / "result.json").read_text())["test"]["recall@20"]
    baselines = json.loads((run / "baselines.json").read_text())
    assert recall > baselines["lightgcn"]["test"]["recall@20"] > baselines["popularity"]["test"]["recall@20"]


def test_evaluate_agrees_with_training(run, capsys):
    assert main(["evaluate", str(run), "--json"]) == 0
    metrics = json.loads(capsys.readouterr().out)
    assert metrics == pytest.approx(json.loads((run / "result.json").read_text())["test"])
    assert main(["evaluate", str(run), "--split", "val", "--k", "3", "--json"]) == 0
    assert set(json.loads(capsys.readouterr().out)) == {
        *(f"{name}@3" for name in ("recall", "precision", "ndcg", "hit", "mrr")),
        "users",
    }
    assert main(["evaluate", str(run), "--mask-validation"]) == 0
    assert "ndcg" in capsys.readouterr().out


def test_recommend_to_file_needs_no_data(run, tmp_path, capsys):
    out = tmp_path / "top.csv"
    assert main(["recommend", str(run), "--out", str(out), "--k", "3"]) == 0
    header, *lines = out.read_text().splitlines()
    assert header == "user,rank,item,score" and len(lines) == 180
    assert lines[0].startswith("user000,1,10") and "180" in capsys.readouterr().out


def test_recommend_for_some_users(run, tmp_path, capsys):
    listed = tmp_path / "users.txt"
    listed.write_text("user007\n\nuser011\n")
    assert main(["recommend", str(run), "--users", "user003,user001", "--users-from", str(listed), "--k", "1"]) == 0
    printed = capsys.readouterr().out
    order = [printed.index(f"user{n}") for n in ("003", "001", "007", "011")]
    assert order == sorted(order)


def test_data_check(folder, capsys):
    assert main(["data", "check", str(folder)]) == 0
    printed = capsys.readouterr().out
    assert "60" in printed and "image" in printed and "train interactions" in printed
    assert main(["data", "check", str(folder), "--modality", "text", "--json"]) == 0
    assert [one["name"] for one in json.loads(capsys.readouterr().out)["modalities"]] == ["text"]


def test_doctor(capsys):
    code = main(["doctor", "--json"])
    found = json.loads(capsys.readouterr().out)
    assert code == (1 if found["problems"] else 0)
    assert found["built against torch"] and found["instruction set in use"] in found["instruction sets built"]
    assert found["ops"]["propagate"]["cpu"].startswith("C++")
    assert main(["doctor"]) == code
    printed = capsys.readouterr().out
    assert "cosine_topk" in printed and found["built against torch"] in printed


@pytest.mark.processes
def test_benchmark_runs_pytest_in_a_checkout(tmp_path, capfd, alone):
    (tmp_path / "benchmarks").mkdir()
    (tmp_path / "pyproject.toml").write_text("[tool.pytest.ini_options]\npython_files = ['bench_*.py']\n")
    (tmp_path / "benchmarks" / "bench_one.py").write_text("def test_one(benchmark):\n    benchmark(sum, [1, 2])\n")
    assert main(["benchmark", "--checkout", str(tmp_path), "-k", "one", "--benchmark-disable-gc"]) == 0
    assert "test_one" in capfd.readouterr().out


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    printed = capsys.readouterr().out
    for command in ("train", "evaluate", "recommend", "data", "doctor", "benchmark"):
        assert command in printed


def test_interruption_keeps_the_best_model(folder, tmp_path, monkeypatch, capsys):
    """Ctrl-C: one line, exit code 130, and what was reached so far can be used."""
    written = RunFolder.epoch_ended

    def interrupted(self, record):
        written(self, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "epoch_ended", interrupted)
    out = tmp_path / "run"
    assert main(["train", "--data", str(folder), "--out", str(out), *SMALL, "--epochs", "9"]) == 130
    assert capsys.readouterr().err.splitlines()[-1] == "mmssl-fast: interrupted"
    assert {one.name for one in out.iterdir()} == {"config.toml", "metrics.jsonl", "model.safetensors"}
    assert main(["evaluate", str(out)]) == 0


def test_installed_command_and_closed_pipe(run):
    """The process itself: module entry, exit code, and no traceback when the reader goes away."""
    command = [sys.executable, "-P", "-m", "mmssl_trainer", "recommend", str(run), "--users", "user001"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "user001" in done.stdout and done.stderr == ""
    reader, writer = os.pipe()
    os.close(reader)
    done = subprocess.run(command, stdout=writer, stderr=subprocess.PIPE, text=True, check=False)
    os.close(writer)
    assert "Traceback" not in done.stderr and done.returncode != 0


def test_tiktok_is_read(capsys):
    path = Path(os.environ.get("MMSSL_FAST_TIKTOK", Path(__file__).parents[4] / "shared" / "data" / "tiktok"))
    if not path.is_dir():
        pytest.skip(f"the TikTok data is not at {path}; set MMSSL_FAST_TIKTOK")
    assert main(["data", "check", str(path), "--json"]) == 0
    summary = json.loads(capsys.readouterr().out)
    assert (summary["users"], summary["items"], summary["interactions"]["train"]) == (9308, 6710, 59541)


# --- what is said --------------------------------------------------------------------------------------------------
@pytest.mark.parametrize("arguments, shown", [([], "Commands:"), (["data"], "check"), (["--version"], "mmssl-fast 0.")])
def test_help_and_version_alone_are_no_mistake(capsys, arguments, shown):
    assert main(arguments) == 0
    captured = capsys.readouterr()
    assert shown in captured.out and captured.err == ""


def test_a_line_an_epoch_without_a_terminal(folder, tmp_path, capsys):
    assert main(["train", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL]) == 0
    lines = [line for line in capsys.readouterr().err.splitlines() if " epoch " in line]
    assert [line.partition(":")[0] for line in lines] == ["LightGCN epoch 1/2", "LightGCN epoch 2/2"]
    assert all("bpr 0." in line and "validation recall@20 0." in line for line in lines)


def test_evaluate_and_train_name_the_system_alike(run, folder, tmp_path, capsys):
    assert main(["train", "--data", str(folder), "--out", str(tmp_path / "run"), *SMALL]) == 0
    assert "LightGCN on data, test: " in capsys.readouterr().out
    assert main(["evaluate", str(run)]) == 0
    assert "LightGCN on data, test: " in capsys.readouterr().out


def test_run_that_has_not_ended_says_so(folder, tmp_path, monkeypatch, capsys):
    written, out = RunFolder.epoch_ended, tmp_path / "run"

    def interrupted(self, record):
        written(self, record)
        if record["epoch"] == 2:
            raise KeyboardInterrupt

    monkeypatch.setattr(RunFolder, "epoch_ended", interrupted)
    assert main(["train", "--data", str(folder), "--out", str(out), *SMALL, "--epochs", "9"]) == 130
    said = f"{out}: the run has not ended, 2 of at most 9 epochs done; "
    said += f"if it was interrupted, resume it: mmssl-fast train --resume {out}"
    for command in (["evaluate", str(out)], ["recommend", str(out / "model.safetensors"), "--users", "user001"]):
        capsys.readouterr()
        assert main(command) == 0
        assert capsys.readouterr().err.startswith(f"note: {said}")
    fails(capsys, ["report", str(out), "--out", str(tmp_path / "page.html")], said)
    (out / "model.safetensors").unlink()
    fails(capsys, ["evaluate", str(out)], "has no model yet", f"train --resume {out}")


@pytest.fixture(scope="module")
def newcomers(tmp_path_factory):
    """Users and items with held-out interactions only: a folder, and a run of SVD on it."""
    place = tmp_path_factory.mktemp("newcomers")
    rows = [f"u{u},i{(7 * u + n * n) % 20},{'train' if n < 4 else 'test'}" for u in range(30) for n in range(6)]
    rows += [f"new{u},i{n},test" for u in range(3) for n in range(4)] + [f"u{u},cold,test" for u in range(5)]
    (place / "data").mkdir()
    (place / "data" / "interactions.csv").write_text("\n".join(["user,item,split", *rows]) + "\n")
    items = sorted({row.split(",")[1] for row in rows})
    (place / "data" / "items.csv").write_text("\n".join(["item", *items]) + "\n")
    np.save(place / "data" / "image_feat.npy", np.ones((len(items), 2), np.float32))
    command = ["train", "--data", str(place / "data"), "--system", "svd", "--set", "model.dim=8", "--threads", "1"]
    assert main([*command, "--out", str(place / "run")]) == 0
    return place, command


def test_breakdown_of_new_users_and_cold_items_is_printed(newcomers, tmp_path, capsys):
    place, command = newcomers
    assert main([*command, "--out", str(tmp_path / "run")]) == 0
    trained = capsys.readouterr().out
    assert main(["evaluate", str(place / "run")]) == 0
    evaluated = capsys.readouterr().out
    for printed in (trained, evaluated):
        assert all(name in printed for name in ("known users", "new users", "known items", "cold items"))
    assert main(["evaluate", str(place / "run"), "--json"]) == 0
    found = json.loads(capsys.readouterr().out)["breakdown"]
    assert found["new users"]["users"] == 3 and found["new users"]["pairs"] == 12 and found["cold items"]["pairs"] == 5
    kept = json.loads((place / "run" / "result.json").read_text())["breakdown"]
    assert all(found[name] == pytest.approx(kept[name]) for name in kept) and found.keys() == kept.keys()


def test_lists_of_new_users_are_the_most_popular_items_and_said_to_be(newcomers, capsys):
    place, _ = newcomers
    assert main(["recommend", str(place / "run"), "--users", "new0,new1,u3", "--k", "3"]) == 0
    captured = capsys.readouterr()
    assert captured.err == (
        "note: 2 users have no training interactions, so the most popular items are recommended, with score 0\n"
    )
    assert main(["recommend", str(place / "run"), "--users", "u3"]) == 0
    assert capsys.readouterr().err == ""


HELP = [["--help"], ["train", "--help"], ["data", "check", "--help"], ["--version"], ["tran"]]


@pytest.mark.parametrize("arguments", HELP)
def test_help_and_misspelt_commands_answer_without_importing_torch(arguments):
    code = "import sys; from mmssl_trainer.cli.main import main; main(sys.argv[1:]); assert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-P", "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "tran" in done.stdout + done.stderr or "mmssl-fast" in done.stdout
