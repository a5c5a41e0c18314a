"""The trainer from Python: what mmssl_trainer exports, its examples, and systems that other packages register."""

import doctest
import importlib
import inspect
import json
import os
import re
import shutil
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import mmssl_trainer
import numpy as np
import pytest
import torch
from mmssl_trainer import (
    InputError,
    breakdown,
    configuration_file,
    configure,
    evaluate,
    fit,
    load,
    load_data,
    recommend,
    resume,
    save,
    train,
)
from mmssl_trainer.config import names
from mmssl_trainer.data import LAYOUTS

ROOT = Path(__file__).resolve().parent.parent
SMALL = {"model.system": "mf", "model.dim": 8, "train.epochs": 2, "train.threads": 1, "train.batch": 4096}


EXAMPLE = re.compile(r"^ *>>> ", re.MULTILINE)
FILES = [path for path in (ROOT / "python").rglob("*.py") if EXAMPLE.search(path.read_text(encoding="utf-8"))]
MODULES = [".".join(("mmssl_trainer", *path.relative_to(ROOT / "python").with_suffix("").parts)) for path in FILES]


@pytest.mark.parametrize("module", sorted(name.removesuffix(".__init__") for name in MODULES))
def test_examples_of_docstrings(module):
    found = importlib.import_module(module)
    results, source = doctest.testmod(found), inspect.getsource(found)
    assert not results.failed and results.attempted + source.count("+SKIP") == len(EXAMPLE.findall(source))


def test_every_export_is_there_and_documented():
    for name in mmssl_trainer.__all__:
        assert getattr(mmssl_trainer, name).__doc__, name
    with pytest.raises(AttributeError, match="'fitt'"):
        mmssl_trainer.fitt  # noqa: B018


def test_importing_it_imports_no_torch():
    code = "import sys, mmssl_trainer; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "False\n"


def test_data_check_imports_no_torch(tmp_path):
    (tmp_path / "interactions.csv").write_text("user,item\n" + "".join(f"u{n % 7},i{n % 11}\n" for n in range(77)))
    code = f"import sys; from mmssl_trainer.cli.main import main; print(main({['data', 'check', str(tmp_path)]}))"
    code += "; print('torch' in sys.modules)"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert found[-2:] == ["0", "False"] and "popularity" in "".join(found)


def test_names_of_systems_that_read_features_are_those_of_their_classes():
    classes = {name: names.system_class(name) for name in names.SYSTEMS}
    assert names.READ_FEATURES == {name for name, found in classes.items() if getattr(found, "reads_features", False)}


def test_training_imports_nothing_slow_that_it_does_not_use():
    code = "import sys, mmssl_trainer.cli.main, mmssl_trainer.runs.train; print(*sys.modules, sep=chr(10))"
    found = subprocess.run([sys.executable, "-P", "-c", code], capture_output=True, text=True).stdout.splitlines()
    assert "torch" in found and not {"matplotlib", "pandas", "scipy.stats"} & set(found)


def test_from_data_to_recommendations_and_back_from_a_file(tmp_path):
    model = fit(load_data(), configure(SMALL))
    assert [record["epoch"] for record in model.epochs] == [1, 2]
    save(model, tmp_path / "model.safetensors")
    again = load(tmp_path / "model.safetensors")
    assert torch.equal(again.users, model.users) and again.metadata == model.metadata
    assert evaluate(again, "val", [5]) == evaluate(model, "val", [5])
    found = recommend(again, [3, 1], k=4)
    assert found.user.tolist() == [3] * 4 + [1] * 4 and found.rank.tolist() == [1, 2, 3, 4] * 2
    seen = {user: set(model.interactions.train[[user]].indices) for user in (1, 3)}
    assert not any(item in seen[user] for user, item in zip(found.user, found.item, strict=True))
    assert np.all(np.diff(found.score[:4]) <= 0)


@pytest.mark.processes
def test_a_run_folder_from_python_is_that_of_the_command(tmp_path):
    config = configure(SMALL | {"train.compare": "no"})
    notes = []
    run = train(config, tmp_path / "run", note=notes.append)
    assert "synthetic, seed 0" in notes and run.path == tmp_path / "run"
    assert run.test == evaluate(load(run.path), "test") == json.loads((run.path / "result.json").read_text())["test"]
    assert run.breakdown == breakdown(run.model) and set(run.breakdown) == {"known items", "cold items"}
    command = [sys.executable, "-P", "-m", "mmssl_trainer", "train", "--out", str(tmp_path / "command")]
    command += [text for key, value in run.config.changes().items() for text in ("--set", f"{key}={json.dumps(value)}")]
    subprocess.run([*command, "--set", "train.epochs=2"], check=True, capture_output=True)
    for name in ("config.toml", "model.safetensors"):
        assert (run.path / name).read_bytes() == (tmp_path / "command" / name).read_bytes()
    with pytest.raises(InputError, match="is not empty"):
        train(config, run.path)
    with pytest.raises(InputError, match="the run is finished"):
        resume(run.path)


def test_a_run_is_continued_from_another_thread(tmp_path):
    """Outside the main thread, Python refuses signal handlers."""
    config = configure(SMALL | {"train.compare": "no"})
    train(config, tmp_path / "short")
    longer = config.changed("train", epochs=3)
    with ThreadPoolExecutor(1) as pool:
        continued = pool.submit(resume, tmp_path / "short", load_config(tmp_path / "short", longer)).result()
        whole = pool.submit(train, longer, tmp_path / "long").result()
    assert [record["epoch"] for record in continued.model.epochs] == [1, 2, 3]
    assert torch.equal(continued.model.users, whole.model.users)


@pytest.mark.parametrize("ranks, threads, expected", [(3, None, 2), (1, None, 1), (3, 1, 1)])
def test_threads_of_another_number_of_ranks_are_chosen_anew(tmp_path, monkeypatch, ranks, threads, expected):
    """Unless a number is given. The process that resumes the run has two threads."""
    config = configure(SMALL | {"train.compare": "no"})
    train(config, tmp_path / "run")
    monkeypatch.setattr("mmssl_trainer.runs.train.ranks_of_checkpoint", lambda run: ranks)
    monkeypatch.setattr(torch, "get_num_threads", lambda: 2)
    longer = load_config(tmp_path / "run", config.changed("train", epochs=3))
    continued = resume(tmp_path / "run", longer, threads=threads)
    assert continued.config.train.threads == expected
    with pytest.raises(InputError, match="threads = -1: must be an integer of 1 or more"):
        resume(tmp_path / "run", longer.changed("train", epochs=4), threads=-1)


def load_config(run, like):
    """The configuration that the run was saved with, and the number of epochs of another."""
    return configure({"train.epochs": like.train.epochs}, file=configuration_file(run))


def test_mistakes_name_the_key():
    with pytest.raises(InputError, match=r"settings: unknown key 'model.dims'; did you mean 'model.dim'"):
        configure({"model.dims": 8})
    with pytest.raises(InputError, match=r"settings: train.batch = 'many'"):
        configure({"train.batch": "many"})
    with pytest.raises(InputError, match="split = 'tests': must be test or val"):
        evaluate(None, "tests")


def test_layouts_are_named_once():
    assert names.LAYOUTS == ("auto", *LAYOUTS)


# --- systems of other packages ---------------------------------------------------------------------------------------
SYSTEM = """
import torch
from mmssl_trainer.config.section import Section
from mmssl_trainer.systems import ease, lightgcn, mmssl, svd  # a system may build on ours
from mmssl_trainer.systems.base import ModuleSystem, Recommender, table
from pydantic import Field


class BiasSection(Section):
    scale: float = Field(1.0, ge=0, description="Scale of the item biases.")


class Biased(Recommender):
    def __init__(self, dataset, graph, config):
        super().__init__(graph)
        self.scale = config.biased.scale
        self.users, self.items = table(graph.n_users, config.model.dim), table(graph.n_items, config.model.dim)
        self.bias = torch.nn.Parameter(torch.zeros(graph.n_items, 1))

    def forward(self):
        ones = torch.ones_like(self.users[:, :1])
        return torch.cat([self.users, ones], 1), torch.cat([self.items, self.scale * self.bias], 1)


class BiasedSystem(ModuleSystem):
    model_type, title, section = Biased, "MF with biases", BiasSection
"""


PROJECT = """
[build-system]
requires = ["setuptools"]
build-backend = "setuptools.build_meta"

[project]
name = "elsewhere"
version = "1.0"

[project.entry-points."mmssl_fast.systems"]
biased = "elsewhere_systems:BiasedSystem"

[tool.setuptools]
py-modules = ["elsewhere_systems"]
"""


@pytest.fixture(scope="session")
def installed(tmp_path_factory):
    """The folder into which pip has installed a package that registers the system `biased`."""
    folder = tmp_path_factory.mktemp("elsewhere")
    (folder / "pyproject.toml").write_text(PROJECT)
    (folder / "elsewhere_systems.py").write_text(SYSTEM)
    alone = ("--quiet", "--no-index", "--no-deps", "--no-build-isolation", "--target", folder / "site")
    subprocess.run([sys.executable, "-P", "-m", "pip", "install", *alone, folder], check=True)
    return folder / "site"


@pytest.fixture
def elsewhere(installed, tmp_path):
    """A copy of it, for PYTHONPATH."""
    return Path(shutil.copytree(installed, tmp_path / "site"))


PROGRAM = """
import json, sys
from mmssl_trainer.cli.main import main
for arguments in json.loads(sys.argv[1]):
    code = main(arguments)
    print("\\nexit code", code)
"""


def commands(place, *asked):
    """[(exit code, what was printed)] of commands, one after another in one process that finds the distribution."""
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-c", PROGRAM, json.dumps([[str(word) for word in arguments] for arguments in asked])],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        cwd=place.parent,
        env=os.environ | {"PYTHONPATH": path, "PYTHONSAFEPATH": "1", "PYTHONUNBUFFERED": "1"},
    )
    assert done.returncode == 0, done.stdout
    *printed, _ = re.split(r"\nexit code (\d+)\n", done.stdout)
    found = [(int(code), text) for text, code in zip(printed[::2], printed[1::2], strict=True)]
    assert len(found) == len(asked), done.stdout
    return found


def refused(place, *arguments):
    """What the command prints, exit code 2."""
    path = os.pathsep.join([str(place), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [sys.executable, "-m", "mmssl_trainer", *arguments],
        capture_output=True,
        text=True,
        cwd=place.parent,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 2 and done.stdout == "", done.stdout + done.stderr
    return done.stderr


@pytest.mark.processes
def test_registered_system_is_trained_tuned_and_reproduced_like_our_own(elsewhere, tmp_path):
    short = ("--threads", 1, "--set", "model.dim=8", "--set", "train.batch=4096", "--epochs", 1)
    run, space = tmp_path / "run", tmp_path / "space.toml"
    space.write_text("[biased]\nscale = [0.5, 2.0]\n")
    chosen = ("--system", "biased", "--set", "biased.scale=2.0", "--no-compare")
    found = commands(
        elsewhere,
        ("train", *chosen, "--out", run, *short),
        ("evaluate", run),
        ("train", "--set", "biased.scale=-1"),
        ("tune", "--system", "biased", "--space", space, "--trials", 1, *short),
        ("reproduce", "table2", "--systems", "biased,popularity", "--seeds", 1, *short),
    )
    codes, (trained, evaluated, refusal, _, page) = zip(*found, strict=True)
    assert codes == (0, 0, 2, 0, 0), found
    assert "MF with biases on synthetic" in trained and "MF with biases on synthetic" in evaluated
    written = (run / "config.toml").read_text()
    assert "[biased]\n# Scale of the item biases.\nscale = 2.0\n" in written
    assert json.loads((run / "result.json").read_text())["test"]["recall@20"] > 0
    assert "biased.scale = -1" in refusal
    assert "biased.scale" in (tmp_path / "tuned" / "trials.md").read_text()
    assert "| MF with biases |" in page


@pytest.mark.processes
def test_system_that_cannot_be_imported_is_one_line(elsewhere):
    (elsewhere / "elsewhere_systems.py").write_text("import nothing_of_that_name\n")
    said = refused(elsewhere, "train", "--system", "biased")
    assert said.count("\n") == 1 and "system biased: elsewhere_systems:BiasedSystem cannot be imported" in said


@pytest.mark.processes
@pytest.mark.parametrize(
    "name, says",
    [
        ("mf", "is registered under the name of a built-in system"),
        ("train", "defines the section [train], which mmssl_fast already has"),
    ],
)
def test_system_that_takes_a_name_of_ours_is_refused(elsewhere, name, says):
    points = elsewhere / "elsewhere-1.0.dist-info" / "entry_points.txt"
    points.write_text(points.read_text().replace("biased", name, 1))
    said = refused(elsewhere, "train")
    assert said.count("\n") == 1 and f"system {name}: elsewhere_systems:BiasedSystem" in said and says in said
