"""`mmssl-fast report`: one page that stands alone, with what the run folders hold."""

import base64
import json
import shutil
from html.parser import HTMLParser

import numpy as np
import pytest
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load
from mmssl_trainer.data import synthetic, write_plain
from mmssl_trainer.study.report.page import _not_run

VOID = {"meta", "img", "br"}


class Page(HTMLParser):
    """Checks that every tag is closed; keeps text, images and what would be fetched."""

    def __init__(self, text):
        super().__init__()
        self.open, self.text, self.images, self.fetched, self.tags = [], [], [], [], []
        self.feed(text)
        assert self.open == []

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        if tag not in VOID:
            self.open.append(tag)
        for name, value in attributes:
            if tag == "img" and name == "src":
                self.images.append(value)
            elif name in ("src", "href"):
                self.fetched.append(value)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text.append(data)


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """MF-BPR and popularity on a small catalogue whose users are called things that HTML and Markdown must escape."""
    folder = tmp_path_factory.mktemp("report")
    data = synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5})
    named = type(data)(**{**vars(data), "user_ids": np.array([f"<b>&|{n}" for n in range(60)])})
    path = write_plain(named, folder / "data")
    for system in ("mf", "popularity"):
        arguments = ["--system", system, "--epochs", "2", "--threads", "1", "--batch", "64"]
        assert main(["train", "--data", str(path), "--out", str(folder / system), *arguments]) == 0
    return folder


def test_page_stands_alone_and_holds_the_results(runs, tmp_path, capsys):
    out = tmp_path / "page.html"
    assert main(["report", str(runs / "mf"), str(runs / "popularity"), "--out", str(out)]) == 0
    assert str(out) in capsys.readouterr().out
    page = Page(out.read_text(encoding="utf-8"))
    text = " ".join(page.text)
    assert page.fetched == [] and {"script", "link", "iframe", "b"}.isdisjoint(page.tags)
    (image,) = page.images  # popularity has no epochs to draw
    assert base64.b64decode(image.removeprefix("data:image/png;base64,")).startswith(b"\x89PNG")
    for system in ("mf", "popularity"):
        test = json.loads((runs / system / "result.json").read_text())["test"]
        assert f"{test['recall@20']:.4f}" in text and f"{test['ndcg@20']:.4f}" in text
    for part in (
        "MF-BPR",
        "MMSSL",
        "optimiser.lr",
        "<b>&|0",
        "Only one seed",
        "peak memory",
        "not use a GPU",
        "4 to 5",
    ):
        assert part in text, part


def test_markdown_has_rectangular_tables(runs, tmp_path):
    out = tmp_path / "page.html"
    assert main(["report", str(runs / "mf"), "--out", str(out)]) == 0
    lines = out.with_suffix(".md").read_text(encoding="utf-8").splitlines()
    tables, widths = 0, []
    for line in [*lines, ""]:
        if line.startswith("|"):
            widths.append(line.replace("\\|", "").count("|"))
        elif widths:
            assert len(set(widths)) == 1 and len(widths) >= 2
            tables, widths = tables + 1, []
    assert tables == 7


def test_splits_are_kept_apart(runs, tmp_path):
    other = tmp_path / "other"
    shutil.copytree(runs / "mf", other)
    found = json.loads((other / "result.json").read_text())
    found["data"]["fingerprint"] = "f" * 64
    (other / "result.json").write_text(json.dumps(found))
    out = tmp_path / "page.html"
    assert main(["report", str(runs / "mf"), str(other), "--out", str(out)]) == 0
    text = out.with_suffix(".md").read_text(encoding="utf-8")
    assert text.count("fingerprint `") == 2 and text.count("| MF-BPR (") == 2
    assert text.count("| run | seed |") == 2


@pytest.mark.parametrize(
    "arguments, fragments",
    [
        (["RUN", "/no/run"], ["/no/run", "result.json"]),
        (["RUN", "--out", "page.pdf"], ["page.pdf", ".html"]),
        (["RUN", "--out", "/no/folder/page.html"], ["/no/folder"]),
        ([], ["RUN"]),
    ],
)
def test_mistakes_are_one_line(runs, tmp_path, monkeypatch, capsys, arguments, fragments):
    monkeypatch.chdir(tmp_path)
    assert main(["report", *(str(runs / "mf") if one == "RUN" else one for one in arguments)]) == 2
    captured = capsys.readouterr()
    assert captured.err.count("\n") == 1 and list(tmp_path.iterdir()) == []
    assert all(fragment in captured.err for fragment in fragments)


@pytest.mark.parametrize("structural", [True, False])
def test_a_part_that_is_not_mmssls_is_named(structural):
    chosen = {"loss.structural": structural, "loss.gumbel": False}
    config = load(None, {name: (value, "test") for name, value in chosen.items()})
    notes = _not_run({"test": {"users": 1}, "val": {"users": 1}, "best_epoch": 0}, [], config)
    assert "Disabled parts of MMSSL: gumbel." in notes
    assert any("not part of MMSSL" in note for note in notes) == structural


def test_baselines_fitted_beside_a_run_are_shown(runs, tmp_path, capsys):
    run, out = tmp_path / "run", tmp_path / "page.html"
    arguments = ["--system", "mf", "--epochs", "1", "--threads", "1", "--batch", "64", "--compare"]
    assert main(["train", "--data", str(runs / "data"), "--out", str(run), *arguments]) == 0
    assert main(["report", str(run), "--out", str(out)]) == 0
    found = json.loads((run / "baselines.json").read_text())
    assert set(found) == {"popularity", "lightgcn"}
    text = out.with_suffix(".md").read_text()
    for name, title in (("popularity", "popularity"), ("lightgcn", "LightGCN")):
        test = found[name]["test"]
        assert f"| {title} | {test['recall@20']:.4f} | {test['precision@20']:.4f} | {test['ndcg@20']:.4f} |" in text
    assert "Fitted beside it" in out.read_text()
    (run / "baselines.json").write_text("[1]")
    assert main(["report", str(run), "--out", str(out)]) == 2
    assert "baselines.json" in capsys.readouterr().err
