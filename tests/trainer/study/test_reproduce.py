"""`mmssl-fast reproduce`: runs that are kept and resumed, tables of one split, tests, sweeps, gradients."""

import itertools
import json
import re
import signal

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from mmssl_trainer.cli.main import main
from mmssl_trainer.config import presets
from mmssl_trainer.config.baselines import SVDSection
from mmssl_trainer.config.load import load
from mmssl_trainer.config.sections import Config, ModelSection
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.ranking import user_metrics
from mmssl_trainer.runs import complete as running
from mmssl_trainer.study.reproduce import gradients, paper, pictures, plan, statistics, tables

from mmssl_fast import InteractionGraph

TINY = ["--threads", "1", "--set", "model.dim=8", "--set", "train.batch=64"]


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5, "text": 4})


@pytest.fixture(autouse=True)
def embedded(data, monkeypatch):
    """The built-in data set, smaller."""
    monkeypatch.setattr("mmssl_trainer.data.synthetic", lambda seed: data)


def reproduce(target, out, *more):
    return main(["reproduce", target, "--out", str(out), *TINY, *more])


def cells(text):
    """The cells of every table row."""
    return [line.strip("| ").split(" | ") for line in text.splitlines() if line.startswith("| ")]


def rows(text):
    """The cells of every table row, by its first one; of several the last."""
    return {row[0]: row[1:] for row in cells(text)}


# --- runs ------------------------------------------------------------------------------------------------------------
def test_table2_is_written_and_not_run_again(tmp_path, data, capsys):
    asked = ["--systems", "popularity,mf,lightgcn", "--seeds", "2", "--epochs", "2"]
    assert reproduce("table2", tmp_path, *asked) == 0
    text = (tmp_path / "table2.md").read_text()
    folders = {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}
    assert len(folders) == 6 and data.fingerprint[:16] in text
    results = [json.loads(path.read_text())["test"]["recall@20"] for path in folders if "/mf-" in str(path)]
    mean, deviation = np.mean(results), np.std(results, ddof=1)
    assert rows(text)["MF-BPR"][0] == f"{mean:.4f} ± {deviation:.4f}"
    capsys.readouterr()
    assert reproduce("table2", tmp_path, *asked) == 0
    assert capsys.readouterr().err.count("already done") == 6
    assert (tmp_path / "table2.md").read_text() == text
    assert folders == {path: path.stat().st_mtime_ns for path in tmp_path.glob("runs/*/result.json")}


def test_another_configuration_gets_other_folders(tmp_path):
    for more in ([], ["--set", "optimiser.lr=0.01"], ["--set", "train.checkpoint_every=1"]):
        assert reproduce("table2", tmp_path, "--systems", "mf", "--seeds", "1", "--epochs", "1", *more) == 0
    assert len(list((tmp_path / "runs").iterdir())) == 2


def test_a_runs_name_is_of_what_changes_its_result():
    base = {"model.dim": (16, "test"), "train.threads": (2, "test"), "train.seed": (3, "test")}
    name = plan.identity(load(None, base), "split")
    same = {
        "train.threads": (1, "test"),
        "train.seed": (0, "test"),
        "train.balance": (True, "test"),
        "model.layers": (2, "test"),
    }
    assert plan.identity(load(None, base | same), "split") == name
    for key, value in {"model.dim": 8, "model.eta": 0.0, "loss.gumbel": False, "svd.power": 2}.items():
        assert plan.identity(load(None, base | {key: (value, "test")}), "split") != name, key
    assert plan.identity(load(None, base), "another split") != name

    class LaterModel(ModelSection):
        added: int = 5

    class Later(Config):
        model: LaterModel = LaterModel()
        section: SVDSection = SVDSection()

    assert plan.identity(Later(model=LaterModel(dim=16)), "split") == name
    assert plan.identity(Later(model=LaterModel(dim=16, added=6)), "split") != name


def test_interrupted_reproduction_goes_on(tmp_path, monkeypatch, capsys):
    """A signal in the second run: one line, 130; then the same command ends as one that was never interrupted."""
    from mmssl_trainer.runs.folder import RunFolder

    asked = ["--systems", "mf,lightgcn", "--seeds", "1", "--epochs", "4"]
    written = RunFolder.epoch_ended

    def interrupting(self, record):
        written(self, record)
        if self.config.model.system == "lightgcn" and record["epoch"] == 2:
            signal.raise_signal(signal.SIGINT)

    monkeypatch.setattr(RunFolder, "epoch_ended", interrupting)
    assert reproduce("table2", tmp_path / "a", *asked) == 130
    assert "run 2 of 2" in capsys.readouterr().err and not (tmp_path / "a" / "table2.md").exists()
    monkeypatch.setattr(RunFolder, "epoch_ended", written)
    assert reproduce("table2", tmp_path / "a", "--dry-run", *asked) == 0
    assert "after epoch 2" in capsys.readouterr().out
    for name in "ab":
        assert reproduce("table2", tmp_path / name, *asked) == 0
    tests = [
        [json.loads(path.read_text())["test"] for path in sorted((tmp_path / name).glob("runs/*/result.json"))]
        for name in "ab"
    ]
    assert tests[0] == tests[1] and len(tests[0]) == 2


@pytest.fixture
def sweeps(monkeypatch):
    """Two short sweeps in Figure 4's place."""
    short = {"model.layers": (1, 2), "loss.zeta": (0.0, 100.0)}
    for module in ("paper", "plan", "pictures"):
        monkeypatch.setattr(f"mmssl_trainer.study.reproduce.{module}.SWEEPS", short)


def test_dry_run_runs_nothing(tmp_path, capsys, sweeps):
    assert reproduce("figure4", tmp_path / "x", "--dry-run", "--seeds", "1", "--epochs", "3") == 0
    printed = capsys.readouterr().out
    assert printed.count("to do") == 4 and "at most" in printed
    assert not (tmp_path / "x").exists()


# --- one split to a table --------------------------------------------------------------------------------------------
def test_runs_of_other_data_are_refused(tmp_path, data, capsys):
    asked = ["--systems", "popularity,mf", "--seeds", "1", "--epochs", "1"]
    assert reproduce("table2", tmp_path, *asked) == 0
    (path,) = tmp_path.glob("runs/mf-*/result.json")
    found = json.loads(path.read_text())
    found["data"]["fingerprint"] = "0" * 64
    path.write_text(json.dumps(found))
    capsys.readouterr()
    assert reproduce("table2", tmp_path, *asked) == 2
    (line,) = [one for one in capsys.readouterr().err.splitlines() if one.startswith("mmssl-fast")]
    assert data.fingerprint[:16] in line and "0" * 16 in line


def test_results_of_two_splits_are_refused():
    results = {name: {"data": {"fingerprint": mark * 64}} for name, mark in (("one", "a"), ("two", "b"))}
    with pytest.raises(InputError, match=r"two: its data has the fingerprint bbbb.* of one is aaaa"):
        running.refuse_other_data(results)
    running.refuse_other_data({name: results["one"] for name in ("one", "again")})


def test_the_papers_figures_have_tables_of_their_own(data):
    text = "\n".join(tables._papers("Table 2", "tiktok", ["R", "P", "N"], paper.TABLE2))
    assert "on a different split" in text and "9319 users" in text
    assert rows(text)["MMSSL"] == ["0.0921", "0.0046", "0.0392"]
    assert tables._papers("Table 4", "tiktok", [], paper.TABLE4) == ["The paper has no Table 4 for this catalogue."]
    assert paper.catalogue("my-TikTok-split") == "tiktok" and paper.catalogue("synthetic") is None


# --- the other targets -----------------------------------------------------------------------------------------------
def test_table3_ablations(tmp_path, data):
    assert reproduce("table3", tmp_path, "--quick", "--epochs", "1") == 0
    found = rows((tmp_path / "table3.md").read_text())
    assert set(plan.ABLATIONS) <= set(found)
    configs = [load(path) for path in tmp_path.glob("runs/*/config.toml")]
    switches = {(c.loss.adversarial, c.loss.contrastive, c.loss.gumbel, c.loss.autoencoder) for c in configs}
    yes, no = True, False
    assert switches == {
        (yes, yes, yes, no),
        (no, yes, yes, no),
        (yes, no, yes, no),
        (yes, yes, no, no),
        (no, yes, yes, yes),
        (no, no, yes, no),
    }


def test_table3_of_some_variants(tmp_path, capsys):
    asked = ["--quick", "--epochs", "1", "--variants", "w/o-SSL,MMSSL"]
    assert reproduce("table3", tmp_path, *asked, "--dry-run") == 0
    assert "2 runs" in capsys.readouterr().out
    assert reproduce("table3", tmp_path, "--variants", "w/o") == 2
    assert "--variants 'w/o': must be one of MMSSL, w/o-ASL" in capsys.readouterr().err


def test_table3_leaves_out_the_structural_contrast_where_there_is_one(tmp_path, capsys):
    asked = ["--quick", "--epochs", "1", "--variants", "w/o-SC,w/o-SSL-SC"]
    assert reproduce("table3", tmp_path, *asked) == 2
    assert "--variants 'w/o-SC'" in (said := capsys.readouterr().err) and "set loss.structural = true" in said
    assert reproduce("table3", tmp_path, *asked, "--set", "loss.structural=true") == 0
    assert {"w/o-SC", "w/o-SSL-SC"} <= set(rows((tmp_path / "table3.md").read_text()))
    configs = [load(path).loss for path in tmp_path.glob("runs/*/config.toml")]
    assert {(c.adversarial, c.contrastive, c.structural) for c in configs} == {(True, True, False), (False,) * 3}


def test_table4_groups(tmp_path, data):
    assert reproduce("table4", tmp_path, "--systems", "popularity", "--seeds", "1") == 0
    found = rows((tmp_path / "table4.md").read_text())
    degree = np.diff(data.train.indptr)[np.diff(data.test.indptr) > 0]
    bins = list(itertools.pairwise([*paper.BINS[tables.most_even(degree)], 10**9]))
    counts = [((degree >= low) & (degree < high)).sum() for low, high in bins]
    assert found["test users"] == [str(count) for count in counts] and sum(counts) == len(degree)
    model = torch.ones(60, 1), torch.from_numpy(data.train.sum(axis=0))[:, None]
    _, each = user_metrics(*model, data.test, 20, InteractionGraph.from_scipy(data.train))
    group = (degree >= bins[1][0]) & (degree < bins[1][1])
    assert group.any() and found["popularity"][1] == f"{each['ndcg'][group].mean():.4f}"


def test_groups_are_those_that_part_the_users():
    assert tables.most_even(np.array([1, 2, 2, 3, 3, 1])) == "allrecipes"
    assert tables.most_even(np.array([3, 5, 8, 11, 40])) == "baby"


def test_figures_are_drawn(tmp_path, sweeps):
    for target, more in (("figure3", ["--systems", "popularity,mf"]), ("figure4", []), ("figure5", [])):
        assert reproduce(target, tmp_path, "--quick", "--epochs", "1", *more) == 0
        assert (tmp_path / f"{target}.png").read_bytes().startswith(b"\x89PNG")
        assert f"]({target}.png)" in (tmp_path / f"{target}.md").read_text()
    sweep = rows((tmp_path / "figure4.md").read_text())
    assert {"1", "2", "0", "100"} <= set(sweep)
    assert reproduce("figure4", tmp_path, "--quick", "--epochs", "1", "--sweeps", "model.layers") == 0
    assert "loss.zeta" not in (tmp_path / "figure4.md").read_text()


def test_sweeps_are_chosen_by_key(tmp_path, capsys, sweeps):
    asked = ["--dry-run", "--seeds", "1", "--epochs", "3", "--sweeps"]
    assert reproduce("figure4", tmp_path / "x", *asked, "loss.zeta") == 0
    printed = capsys.readouterr().out
    assert printed.count("to do") == 2 and "layers" not in printed
    assert reproduce("figure4", tmp_path / "x", *asked, "loss.zeta,nosuch") == 2
    assert "--sweeps 'nosuch': must be one of model.layers, loss.zeta" in capsys.readouterr().err


def test_near_best():
    epochs = [{"epoch": at + 1, "seconds": 2.0, "val": {"recall@20": value}} for at, value in enumerate((0.5, 0.97, 1))]
    assert tables.near_best(epochs) == (2, 4.0) and tables.near_best([]) == (0, 0.0)


# --- rows and searches -----------------------------------------------------------------------------------------------
def test_a_system_can_have_several_rows(tmp_path, data):
    for name, lr in (("slow", 0.001), ("fast", 0.05)):
        (tmp_path / f"{name}.toml").write_text(f"[optimiser]\nlr = {lr}\n")
    asked = f"mf,mf:{tmp_path}/slow.toml,mf:{tmp_path}/fast.toml"
    out = tmp_path / "out"
    assert reproduce("table2", out, "--systems", asked, "--seeds", "1", "--epochs", "2", "--reference", "mf") == 0
    text = (out / "table2.md").read_text()
    found = rows(text)
    assert {"MF-BPR", "MF-BPR, slow", "MF-BPR, fast"} <= set(found) and "| MF-BPR minus" in text
    assert sorted(load(path).optimiser.lr for path in out.glob("runs/*/config.toml")) == [0.001, 0.003, 0.05]
    recall = {
        row[0]: float(row[1])
        for row in cells(text)
        if row[0].startswith("MF-BPR") and "minus" not in row[0] and row[1] not in ("Recall@20", "NDCG@20")
    }
    changes = {row[0]: float(row[2]) for row in cells(text) if row[1] == "Recall@20" and row[0] in recall}
    for name in ("MF-BPR, slow", "MF-BPR, fast"):
        assert changes[name] == pytest.approx(recall["MF-BPR"] - recall[name], abs=1.1e-4)
    assert any(changes.values())
    assert "](table2.png)" in text and (out / "table2.png").read_bytes().startswith(b"\x89PNG")


def test_the_figure_of_the_differences(tmp_path, monkeypatch):
    """Every row has its difference and interval in the panel of its metric."""
    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda self, path, **options: drawn.append(self))
    found = [
        (label, metric, statistics.Difference(mean, mean - 0.1, mean + 0.2, 0.5, 0.5, 3))
        for metric, shift in (("recall", 0.0), ("ndcg", 1.0))
        for label, mean in (("first", 0.25 + shift), ("second", -0.5 + shift))
    ]
    pictures.differences(found, "MMSSL", tmp_path / "x.png")
    for axes, shift in zip(drawn[0].axes, (0.0, 1.0), strict=True):
        assert [label.get_text() for label in axes.get_yticklabels()] == ["first", "second"]
        points, _, (bars,) = axes.containers[0]
        assert list(zip(*points.get_data(), strict=True)) == [(0.25 + shift, 1), (-0.5 + shift, 0)]
        ends = [(segment[0, 0], segment[1, 0]) for segment in bars.get_segments()]
        np.testing.assert_allclose(ends, [(0.15 + shift, 0.45 + shift), (-0.6 + shift, -0.3 + shift)])


def test_a_budget_searches_every_system_first(tmp_path, monkeypatch, data):
    """The rows have the best trial's settings; no test metric is computed before the last search has ended."""
    from mmssl_trainer.study.tune import search

    (tmp_path / "space.toml").write_text("[optimiser]\nlr = [0.003, 0.05]\n[model]\nitem_item = [0.0, 30.0]\n")
    asked = ["--systems", "popularity,ease,mf", "--seeds", "2", "--epochs", "2", "--budget", "3"]
    asked += ["--space", f"mf={tmp_path}/space.toml", "--search-seeds", "1", "--reference", "ease"]
    out, order = tmp_path / "out", []
    trial, finish = search.Search.run_trial, running.complete
    monkeypatch.setattr(search.Search, "run_trial", lambda self: (order.append("trial"), trial(self))[1])

    def completed(*arguments):
        order.append("run")
        return finish(*arguments)

    monkeypatch.setattr("mmssl_trainer.study.reproduce.runs.complete", completed)
    assert reproduce("table2", out, *asked) == 0
    assert order == ["trial"] * 6 + ["run"] * 6
    text = (out / "table2.md").read_text()
    best = load(out / "searches" / "mf" / "best.toml")
    runs = [load(path) for path in out.glob("runs/mf-*/config.toml")]
    assert {(config.optimiser.lr, config.model.item_item) for config in runs} == {
        (best.optimiser.lr, best.model.item_item)
    }
    assert sorted(config.train.seed for config in runs) == [0, 1]
    assert "3 trials" in (record := (out / "searches" / "mf" / "trials.md").read_text()) and "from 1000" in record
    first = {row[0]: row for row in reversed(cells(text))}  # of two tables the first
    assert [first[name][-3] for name in ("popularity", "EASE", "MF-BPR")] == ["none", "3", "3"]
    assert "the best of 3 trials" in text
    order.clear()
    assert reproduce("table2", out, *asked) == 0
    assert "trial" not in order and (out / "table2.md").read_text() == text


def test_a_search_with_more_trials_than_the_budget_is_refused(tmp_path, capsys):
    """Otherwise the table would say that all rows have had the trials of the budget."""
    asked = ["--seeds", "1", "--reference", "ease", "--systems"]
    assert reproduce("table2", tmp_path, *asked, "ease", "--budget", "2") == 0
    before = (tmp_path / "table2.md").read_text()
    assert reproduce("table2", tmp_path, *asked, "ease,itemknn", "--budget", "1") == 2
    assert "searches/ease: contains a search with 2 trials, more than the budget of 1" in capsys.readouterr().err
    assert (tmp_path / "table2.md").read_text() == before and not (tmp_path / "searches" / "itemknn").exists()


def test_a_dry_run_lists_the_searches(tmp_path, capsys):
    asked = ["--systems", "popularity,mf", "--seeds", "1", "--epochs", "2", "--budget", "2", "--dry-run"]
    assert reproduce("table2", tmp_path / "x", *asked) == 0
    printed = capsys.readouterr().out
    assert "search for MF-BPR" in printed and "0 of 2 trials" in printed and "search for popularity" not in printed
    assert not (tmp_path / "x").exists()


def test_gradient_weights_are_measured_by_the_ops_backward():
    """Eq. 17 follows from the loss: one anchor's weights equal phi of their cosines, wherever the rows lie."""
    generator = torch.Generator().manual_seed(3)
    h, e = (torch.randn(30, 5, generator=generator, dtype=torch.float64) for _ in range(2))
    h[7] = 0
    found = gradients.measure(h, e, torch.tensor([2, 11]), 0.3)
    assert len(found.x) == 2 * (60 - 1 - 2)
    torch.testing.assert_close(found.weight, gradients.phi(found.x, 0.3), rtol=1e-8, atol=1e-10)
    assert 0 < found.hardest[0] < found.hardest[1] < 1
    sharper = gradients.measure(h, e, torch.tensor([2, 11]), 0.1)
    assert sharper.hardest[1] > found.hardest[1]


# --- settings --------------------------------------------------------------------------------------------------------
def test_presets_are_sound(tmp_path, capsys):
    assert presets.names()
    for name in presets.names():
        assert load(presets.find(name)).model.system == name.partition("-")[0]
    own = tmp_path / "mine.toml"
    own.write_text("[optimiser]\nlr = 0.02\n")
    assert (
        reproduce(
            "table2", tmp_path / "out", "--systems", "mf", "--seeds", "1", "--epochs", "1", "--preset", f"mf={own}"
        )
        == 0
    )
    (path,) = (tmp_path / "out").glob("runs/*/config.toml")
    assert load(path).optimiser.lr == 0.02


@pytest.mark.parametrize(
    "arguments, fragments",
    [
        (["table9"], ["'table9'", "table2", "figure5"]),
        (["table2", "--systems", "mf,nobody"], ["'nobody'", "lightgcn"]),
        (["table2", "--systems", "mf", "--preset", "sgl=x"], ["--preset 'sgl'", "the systems, mf"]),
        (["table2", "--systems", "mf", "--preset", "mf=nothing"], ["'nothing'", "lightgcn-tiktok"]),
        (["table2", "--data", "/no/such"], ["/no/such"]),
        (["table2", "--seeds", "0"], ["--seeds"]),
        (["table2", "--systems", "mf,mf:a/x.toml,mf:b/x.toml"], ["--systems", "would have the same name"]),
        (["table2", "--systems", "mf:nothing"], ["'nothing'", "lightgcn-tiktok"]),
        (["table2", "--systems", "mf", "--space", "mf=x"], ["--space: is used by searches only"]),
        (["table2", "--systems", "mf", "--space", "sgl=x", "--budget", "2"], ["--space 'sgl'", "the systems, mf"]),
        (["table2", "--systems", "mf", "--space", "mf=x", "--budget", "2"], ["space 'x'", "bundled spaces"]),
        (["table2", "--systems", "mf:x", "--preset", "mf:x=y"], ["--preset 'mf:x'", "names its preset already"]),
        (["table2", "--systems", "mf", "--reference", "ease"], ["--reference 'ease'", "the systems of table2, mf"]),
        (["table3", "--budget", "2"], ["--budget: table3 compares forms", "table2, table4, figure3"]),
        (["table2", "--device", "gpu7"], ["gpu7"]),
    ],
)
def test_mistakes_are_one_line(tmp_path, monkeypatch, capsys, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    assert main(["reproduce", *arguments]) == 2
    captured = capsys.readouterr()
    assert captured.out == "" and captured.err.count("\n") == 1 and list(tmp_path.iterdir()) == []
    assert all(re.search(re.escape(fragment), captured.err) for fragment in fragments), captured.err
