"""Data without features: which systems train, through every command, and what the others say."""

import json

import numpy as np
import pytest
from data_folders import small_dataset
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load as configuration
from mmssl_trainer.data import load, write_plain
from mmssl_trainer.embeddings import is_finite
from mmssl_trainer.errors import InputError
from mmssl_trainer.systems import SYSTEMS, create, without_features

from mmssl_fast import InteractionGraph


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    place = write_plain(small_dataset(), tmp_path_factory.mktemp("data") / "bare")
    for path in place.glob("*_feat.npy"):
        path.unlink()
    return place


@pytest.mark.parametrize("name", SYSTEMS)
def test_system_is_built_without_features_unless_it_says_that_it_reads_them(name, folder):
    data, system = load(folder), create(name)
    config = configuration(None, {"model.system": (name, "test"), "model.dim": (8, "test")})
    graph = InteractionGraph.from_scipy(data.train)
    if system.reads_features:
        with pytest.raises(InputError, match="needs features"):
            system.build(data, graph, config)
    else:
        system.build(data, graph, config)
        assert all(is_finite(one) for one in system.embeddings())
    assert (name in without_features()) is not system.reads_features


def test_commands_go_through_without_features(folder, tmp_path, capsys):
    run, small = str(tmp_path / "run"), ["--set", "model.dim=8", "--set", "model.heads=1"]
    train = ["train", "--data", str(folder), "--system", "lightgcn", "--epochs", "1", "--out", run, *small]
    assert main(train) == 0
    assert main(["evaluate", run]) == 0 and main(["recommend", run, "--users", "3", "--k", "2"]) == 0
    reproduce = ["reproduce", "table2", "--data", str(folder), "--quick", "--out", str(tmp_path / "table"), *small]
    assert main([*reproduce, "--systems", "mf,popularity"]) == 0
    tune = ["tune", "--data", str(folder), "--trials", "1", "--epochs", "1", "--out", str(tmp_path / "tuned"), *small]
    assert main([*tune, "--system", "mf"]) == 0
    capsys.readouterr()
    assert main(["data", "check", str(folder)]) == 0
    printed = " ".join(capsys.readouterr().out.split())
    needless = "popularity, itemknn, userknn, svd, ease, mf, ngcf, lightgcn, sgl, ncl, hccf"
    assert f"the data has no features; systems that need none: {needless}" in printed
    assert main(["data", "check", str(folder), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["systems"] == without_features()


@pytest.mark.parametrize("command", ["train", "tune", "reproduce"])
def test_systems_that_need_features_are_refused_before_anything_is_written(command, folder, tmp_path, capsys):
    rest = {"train": ["--system", "vbpr"], "tune": ["--system", "vbpr"], "reproduce": ["--systems", "mf,vbpr"]}[command]
    target = ["table2"] if command == "reproduce" else []
    out = tmp_path / "out"
    assert main([command, *target, "--data", str(folder), "--out", str(out), *rest]) == 2
    error = capsys.readouterr().err
    assert "has no features, which VBPR needs" in error and "lightgcn" in error and not out.exists()


def test_options_of_the_data_are_kept_for_later_commands(tmp_path, capsys):
    rng = np.random.default_rng(0)
    lines = [f"{u},{i},{rng.integers(1, 6)},{rng.integers(10**6)}" for u in range(30) for i in rng.permutation(40)[:15]]
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mine.csv").write_text("user,item,rating,timestamp\n" + "\n".join(lines))
    asked = ["--data", str(tmp_path / "data"), "--interactions", "mine.csv", "--min-rating", "3", "--split", "last"]
    run = tmp_path / "run"
    small = ["--set", "model.dim=8", "--set", "model.heads=1", "--epochs", "1"]
    assert main(["train", *asked, "--system", "mf", "--out", str(run), *small]) == 0
    said = configuration(run / "config.toml").data
    assert (said.interactions, said.min_rating, said.split) == ("mine.csv", 3.0, "last")
    expected = load(tmp_path / "data", interactions="mine.csv", min_rating=3, split="last")
    assert json.loads((run / "result.json").read_text())["data"]["fingerprint"] == expected.fingerprint
    capsys.readouterr()
    assert main(["data", "check", asked[1], *asked[2:], "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["fingerprint"] == expected.fingerprint
    assert main(["train", "--min-rating", "3"]) == 2
    assert "the built-in data set has no interaction table" in capsys.readouterr().err


def test_modality_none_leaves_the_features_out(tmp_path, capsys):
    place = write_plain(small_dataset(), tmp_path / "data")
    assert main(["data", "check", str(place), "--modality", "none", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["modalities"] == []
