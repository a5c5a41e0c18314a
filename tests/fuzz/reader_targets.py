"""What tests/fuzz/loaders.py has read: data folders in every layout, and the files of a run."""

import contextlib
import hashlib
import json
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import torch
from data_folders import WRITERS, small_dataset
from data_fuzz import BYTES, JSON_FILES, JSON_VALUES, NPYS, PICKLES, mutations, parquets, tables
from hypothesis import strategies as st
from mmssl_trainer import systems
from mmssl_trainer.config import load as config
from mmssl_trainer.config import toml
from mmssl_trainer.data import load, summarise, synthetic
from mmssl_trainer.runs import saved_model
from mmssl_trainer.study import benchmarks as measured
from mmssl_trainer.training import checkpoints as checkpoint
from mmssl_trainer.training import progress, state_file
from safetensors.torch import load as tensors_of
from safetensors.torch import save

from mmssl_fast import InteractionGraph


@dataclass
class Target:
    """files: name → content of a valid folder; read(folder): what is tried; made: name → strategy of other contents,
    by the end of the file's name where it is not there."""

    files: dict
    read: object
    made: dict = field(default_factory=dict)

    def changes(self):
        """Strategy of {file: content}, one or two of the files changed."""
        contents = {name: self._content(name) for name in sorted(self.files)}
        one = st.one_of([st.tuples(st.just(name), content) for name, content in contents.items()])
        return st.one_of(one.map(lambda pair: [pair]), st.tuples(one, one)).map(dict)

    def _content(self, name):
        made = self.made.get(name, MADE.get(Path(name).suffix, MADE.get(name, BYTES)))
        return mutations(self.files[name]) | made


MADE = {
    ".csv": tables("user", "item", "split"),
    ".inter": tables("userID", "itemID", "x_label", separator="\t"),
    ".parquet": parquets("user", "item", "split"),
    ".json": JSON_FILES
    | st.dictionaries(st.integers(0, 45).map(str), st.lists(st.integers(0, 31), max_size=4)).map(
        lambda value: json.dumps(value).encode()
    ),
    ".npy": NPYS,
    ".pkl": PICKLES,
    "train_mat": PICKLES,
}


# data folders


def check_dataset(data):
    """The promises of Dataset."""
    assert data.train.nnz > 0
    for split in ("train", "val", "test"):
        matrix = getattr(data, split)
        assert matrix.shape == (data.n_users, data.n_items) and (np.diff(matrix.indptr) >= 0).all()
        assert not matrix.nnz or 0 <= matrix.indices.min() <= matrix.indices.max() < data.n_items
    for values in data.features.values():
        assert (
            values.shape[0] == data.n_items
            and values.shape[1] > 0
            and np.isfinite(values[~np.isnan(values).all(1)]).all()
        )
    for ids, size in ((data.user_ids, data.n_users), (data.item_ids, data.n_items)):
        assert ids is None or len(ids) == size
    json.dumps(summarise(data))


def data_targets(folder):
    """A target a layout, of one small catalogue."""
    found = {}
    for layout, write in WRITERS.items():
        place = folder / "valid" / layout
        place.mkdir(parents=True)
        write(small_dataset(), place)
        files = {path.name: path.read_bytes() for path in place.iterdir()}
        found[layout] = Target(files, lambda path: check_dataset(load(path)))
    return found


# a run's folder


def small_run():
    """(dataset, configuration, trained System, Fit, Position) of a LightGCN run of two steps."""
    data = synthetic(seed=1, n_users=6, n_items=20, modalities={"image": 2})
    chosen = {"model.system": "lightgcn", "model.dim": 2, "model.heads": 1, "train.epochs": 2}
    made = config.load(None, {name: (value, "fuzz") for name, value in chosen.items()})
    system = systems.create("lightgcn")
    system.build(data, InteractionGraph.from_scipy(data.train), made)
    fitted = progress.Fit(*(one.clone() for one in system.embeddings()), {"users": torch.ones(2)})
    position = progress.Position(1, progress.LossTable(3, torch.device("cpu")))
    ids = torch.arange(3)
    for step in range(2):
        position.table.add(system.step(systems.base.Batch(ids, ids, ids + 5, step)))
        fitted.step += 1
    return data, made, system, fitted, position


def other_tensors(content):
    """Strategy of safetensors files with some tensors of another shape, type or value."""
    shapes = st.lists(st.sampled_from([0, 1, 2, 6, 20]), max_size=3)
    types = st.sampled_from([torch.float32, torch.float16, torch.int64, torch.int32, torch.uint8, torch.bool])
    values = st.sampled_from([0, 1, -1, 7, 2**31 - 1, -(2**62), 3e38])
    sound = tensors_of(content)
    header = json.loads(content[8 : 8 + int.from_bytes(content[:8], "little")]).get("__metadata__")

    def changed(edits):
        tensors = {name: one.clone() for name, one in sound.items()}
        for name, kind, shape, dtype, value in edits:
            old = tensors.get(name)
            if kind == "gone":
                tensors.pop(name, None)
            elif kind == "other" or old is None or not old.numel():
                tensors[name] = torch.full(shape, value, dtype=torch.float64).to(dtype)
            else:
                tensors[name].flatten()[int(abs(value)) % old.numel()] = torch.tensor(value).to(old.dtype)
        return save(tensors, header)

    kinds = st.sampled_from(["gone", "other", "entry"])
    edit = st.tuples(st.sampled_from(sorted(sound)), kinds, shapes, types, values)
    return st.lists(edit, min_size=1, max_size=3).map(changed)


def other_values(body):
    """Strategy of JSON trees like `body` with some branches replaced or taken out."""

    def places(tree, path=()):
        yield path
        branches = tree.items() if isinstance(tree, dict) else enumerate(tree) if isinstance(tree, list) else ()
        for key, branch in branches:
            yield from places(branch, (*path, key))

    def changed(edits):
        tree = json.loads(json.dumps(body))
        for path, value in edits:
            *above, last = path
            branch = tree
            with contextlib.suppress(KeyError, TypeError, IndexError):
                for key in above:
                    branch = branch[key]
                if value is Ellipsis:
                    del branch[last]
                else:
                    branch[last] = value
        return tree

    values = st.just(...) | JSON_VALUES | st.sampled_from([2**70, -1, 1e308, "x" * 300, [], {}])
    somewhere = st.sampled_from([path for path in places(body) if path])
    return st.lists(st.tuples(somewhere, values), min_size=1, max_size=3).map(changed)


def sealed(body, tensors=None):
    """A state's .json with the right checksum, of these tensors where they are given."""
    if tensors is not None and isinstance(body, dict):
        body = body | {"tensors": {"bytes": len(tensors), "sha256": hashlib.sha256(tensors).hexdigest()}}
    return state_file._with_checksum(body).encode()


class StateTarget(Target):
    """A state whose checksums are right whatever it holds, half of the time."""

    def changes(self):
        body = json.loads(self.files[STATE + ".json"])["state"]
        tensors = self.files[STATE + ".safetensors"]
        other = other_tensors(tensors) | mutations(tensors)
        return (
            other_values(body).map(lambda one: {STATE + ".json": sealed(one)})
            | other.map(lambda one: {STATE + ".json": sealed(body, one), STATE + ".safetensors": one})
            | super().changes()
        )


STATE = "state/0000000002"


def run_targets(folder):
    """The model, the state, the configuration and the figures that commands read back."""
    data, made, system, fitted, position = small_run()
    run = folder / "valid" / "run"
    run.mkdir()
    named = type(data)(**{**vars(data), "user_ids": np.array([f"ü{n}" for n in range(6)], dtype=object)})
    saved_model.save(saved_model.Model.of(fitted, named, made), run / saved_model.FILE)
    checkpoint.Checkpoints(run, data, made)._write(system, fitted, position)
    model = (run / saved_model.FILE).read_bytes()
    state = {str(path.relative_to(run)): path.read_bytes() for path in (run / "state").iterdir()}
    keys = st.dictionaries(st.sampled_from(config.known_keys()), JSON_VALUES, max_size=3)
    figures = {
        "benchmarks": [
            {
                "name": "b",
                "stats": {"median": 1.0},
                "extra_info": {
                    "ratio": 2.0,
                    "peak_bytes": 5,
                    "peer_peak_bytes": 7,
                    "peer_name": "peer",
                    "device": "cpu",
                },
            }
        ]
    }
    (run / "config.toml").write_text(toml.to_toml(made))
    (run / "figures.json").write_text(json.dumps(figures))

    def read_model(place):
        found = saved_model.load(place)
        assert found.users.shape[1] == found.items.shape[1] and len(found.users) == found.interactions.n_users
        json.dumps(found.metadata)

    def read_state(place):
        checkpoints = checkpoint.Checkpoints(place, data, made)
        if checkpoints.open():
            checkpoints.notes()
            fresh = progress.Fit(torch.empty_like(fitted.users), torch.empty_like(fitted.items), {})
            checkpoints.restore(system, fresh, progress.Position(1, progress.LossTable(3, torch.device("cpu"))))

    def as_toml(values):
        lines = [
            f"{name} = {toml.toml_value(value)}"
            for name, value in values.items()
            if not isinstance(value, dict) and value is not None
        ]
        return "\n".join(lines).encode("utf-8", "replace")

    return {
        "model": Target({saved_model.FILE: model}, read_model, {saved_model.FILE: other_tensors(model)}),
        "state": StateTarget(state, read_state),
        "configuration": Target(
            {"config.toml": (run / "config.toml").read_bytes()},
            lambda place: config.load(place / "config.toml"),
            {"config.toml": keys.map(as_toml)},
        ),
        "figures": Target(
            {"figures.json": (run / "figures.json").read_bytes()},
            lambda place: measured.table(measured.read(place / "figures.json")),
            {"figures.json": other_values(figures).map(lambda one: json.dumps(one).encode())},
        ),
    }
