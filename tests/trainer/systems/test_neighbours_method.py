"""model.neighbours_method: the choice by size, the record of the search, and what is refused."""

import re

import pytest
from command_line import SMALL, fails
from mmssl_trainer import configure, resume, train
from mmssl_trainer.config.load import load
from mmssl_trainer.runs.folder import read_epochs

from mmssl_fast.nn import clustered

MMSSL = {"model.dim": 8, "model.heads": 2, "train.epochs": 2, "train.threads": 1, "train.compare": "no"}


@pytest.mark.parametrize(
    ("chosen", "n_users", "n_items", "ranks", "method"),
    [
        ("auto", 100_000, 99_999, 1, "exact"),
        ("auto", 100_000, 100_000, 1, "ivf"),
        ("auto", 100_000, 100_000, 2, "exact"),
        ("ivf", 10, 10, 1, "ivf"),
        ("exact", 10**6, 10**6, 1, "exact"),
    ],
)
def test_method_by_size(chosen, n_users, n_items, ranks, method):
    assert clustered.search_method(chosen, n_users, n_items, ranks) == method


def test_a_small_run_searches_exactly_and_says_so_in_its_configuration(tmp_path):
    train(configure(MMSSL), tmp_path / "run")
    assert load(tmp_path / "run/config.toml").model.neighbours_method == "exact"
    assert all("neighbours" not in epoch for epoch in read_epochs(tmp_path / "run"))


def test_a_large_run_is_searched_by_clusters_and_records_the_recall(tmp_path, monkeypatch):
    monkeypatch.setattr(clustered, "CLUSTERED_FROM", 1)
    notes = []
    run = train(configure(MMSSL | {"train.refresh_every": 1}), tmp_path / "run", note=notes.append)
    assert load(run.path / "config.toml").model.neighbours_method == "ivf"
    (note,) = [note for note in notes if "semantic neighbours" in note]
    assert 'are searched by clusters, at least 95% of them are found (model.neighbours_method = "exact"' in note
    for epoch in read_epochs(run.path):
        searches = epoch["neighbours"]
        assert searches and all(0.95 <= search["recall"] <= 1 for search in searches.values())
        assert all(1 <= search["probes"] <= search["clusters"] for search in searches.values())


def test_a_run_that_is_older_than_the_key_continues_with_the_exact_search(tmp_path, monkeypatch):
    train(configure(MMSSL | {"train.epochs": 1}), tmp_path / "run")
    file = tmp_path / "run/config.toml"
    file.write_text(re.sub(r"(?m)^neighbours_method = .*\n", "", file.read_text()))
    monkeypatch.setattr(clustered, "CLUSTERED_FROM", 1)
    assert load(file).model.neighbours_method == "auto"
    longer = resume(tmp_path / "run", load(file).changed("train", epochs=2))
    assert len(longer.model.epochs) == 2 and load(file).model.neighbours_method == "exact"


def test_unknown_method_is_refused(capsys, tmp_path):
    arguments = ["train", *SMALL, "--out", str(tmp_path / "run"), "--set", "model.neighbours_method=lsh"]
    fails(capsys, arguments, "model.neighbours_method", "lsh", "ivf")
    assert not (tmp_path / "run").exists()
