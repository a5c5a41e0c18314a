"""A trained model, and reading and writing it as model.safetensors. evaluate and recommend need no other file."""

from __future__ import annotations

import json
from dataclasses import dataclass, field, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import scipy.sparse as sp
import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor

from mmssl_fast import InteractionGraph, __version__, distributed

from ..config.names import SYSTEMS, system_class
from ..config.sections import Config
from ..data import SPLITS, Dataset
from ..embeddings import Table, packed
from ..errors import InputError
from ..files import read_header, write_tensors
from ..systems import create, rows_over_ranks
from ..systems.base import System
from ..systems.inference import Inference, ItemTower, Scaling, Tensors, content_of, inference_of
from ..training.checkpoints import resume_command
from ..training.progress import Fit
from ..training.ranks import whole_table
from ..training.sharded_state import COLUMNS

FORMAT = "mmssl_fast model 2"
# Files of this format lack the settings of the system and the content of the items: they can be evaluated and give
# recommendations, but not embed new users and items.
FORMAT_WITHOUT_INFERENCE = "mmssl_fast model 1"
FILE = "model.safetensors"


@dataclass
class Model:
    """A trained model.

    users [U, d], items [I, d]: float32 embeddings on the CPU; their dot products are the scores. They are tensors, or
    sparse SciPy matrices: both for ItemKNN and UserKNN, and users for most forms of EASE (docs/serving.md). parameters:
    the parameters that the embeddings were computed from. interactions: the splits and original ids; a model from a
    file has no features. metadata: strings such as system, settings, data, best_epoch and versions. epochs: the lines
    of metrics.jsonl; empty for a model from a file.

    scaling, content: how raw features become inputs, and what the system computes from the features of each item
    (Inference.content, [I, w]); None for a system without them. popularity: int64 [I], if it is not the number of
    training interactions. spread: None, or the spread of new items (`inference.new_items`), whose embeddings the items
    without interactions then have as well. base: the model that this one was extended from, if it has other users or
    items than training had.

    >>> from mmssl_trainer import configure, fit, load_data
    >>> model = fit(load_data(), configure({"model.system": "svd", "model.dim": 16}))
    >>> model.users.shape, model.items.shape, model.metadata["system"]
    (torch.Size([1500, 16]), torch.Size([1000, 16]), 'svd')
    """

    users: Table
    items: Table
    parameters: dict[str, Tensor]
    interactions: Dataset
    metadata: dict[str, str]
    epochs: list[dict[str, Any]] = field(default_factory=list)
    scaling: Scaling | None = None
    content: Tensor | None = None
    popularity: np.ndarray | None = None
    spread: float | None = None
    base: Model | None = None
    towers: dict[str, Any] = field(default_factory=dict, repr=False)  # those built so far

    @classmethod
    def of(cls, fit: Fit, dataset: Dataset, config: Config) -> Model:
        """The best model of a training run."""
        metadata = {
            "format": FORMAT,
            "system": config.model.system,
            "settings": json.dumps(_settings(config), sort_keys=True),
            "best_epoch": str(fit.best_epoch),
            "mmssl_fast": __version__,
            "data": dataset.name,
            "layout": dataset.layout,
            "fingerprint": dataset.fingerprint,
        }
        return cls(fit.users, fit.items, fit.parameters, dataset, metadata, fit.epochs)


def save(model: Model, path: str | Path) -> None:
    """Write a model to the file `path`, in the format of model.safetensors. The file appears, or replaces an earlier
    one, only when it is complete. Raises InputError if it cannot be written.

    >>> import tempfile
    >>> from mmssl_trainer import configure, fit, load, load_data, save
    >>> model = fit(load_data(), configure({"model.system": "popularity"}))
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     save(model, f"{folder}/model.safetensors")
    ...     load(folder).users.shape == model.users.shape
    True
    """
    dataset = model.interactions
    if distributed.current().size > 1:
        whole = _whole(model, Path(path))
        if whole is None:
            return
        model = whole
    tensors = packed("embedding.users", model.users) | packed("embedding.items", model.items)
    tensors |= {f"parameter.{name}": tensor.contiguous() for name, tensor in model.parameters.items()}
    metadata = dict(model.metadata)
    if add_content(model) and model.scaling is not None and model.content is not None:
        metadata["modalities"] = json.dumps(list(model.scaling.mean))
        tensors["content"] = model.content.contiguous()
        for m, (mean, scale) in enumerate(zip(model.scaling.mean.values(), model.scaling.scale.values(), strict=True)):
            tensors |= {f"scaling.{m}.mean": mean, f"scaling.{m}.scale": scale}
    for split in SPLITS:
        matrix = getattr(dataset, split)
        tensors[f"{split}.indptr"] = torch.from_numpy(matrix.indptr.astype(np.int64))
        tensors[f"{split}.indices"] = torch.from_numpy(matrix.indices.astype(np.int32, copy=False))
    for side, ids in (("users", dataset.user_ids), ("items", dataset.item_ids)):
        if ids is not None:
            tensors |= pack_ids(side, ids)
    write_tensors(Path(path), tensors, metadata)


def _whole(model: Model, path: Path) -> Model | None:
    """The model of all ranks on the first of them, None on the others; their own rows go there."""
    dataset, by_rows = model.interactions, rows_over_ranks(model.metadata["system"]) or {}
    counts = {"users": dataset.n_users, "items": dataset.n_items}
    users, items = (whole_table(getattr(model, side), counts[side], path.parent) for side in ("users", "items"))
    parameters, content = dict(model.parameters), None
    add_content(model)
    if model.content is not None:
        content = whole_table(model.content, dataset.n_items, path.parent)
    for name, side in by_rows.items():
        if name in parameters:
            dim = int(side.startswith(COLUMNS))
            whole = whole_table(parameters[name], counts[side.removeprefix(COLUMNS)], path.parent, dim)
            parameters[name] = parameters[name] if whole is None else whole
    if users is None or items is None:
        return None
    return replace(model, users=users, items=items, parameters=parameters, content=content)


def load(path: str | Path) -> Model:
    """Read the model of a run folder, or a model file. Raises InputError if it is missing or malformed.

    >>> import tempfile
    >>> from mmssl_trainer import configure, load, train
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(configure({"model.system": "popularity", "train.compare": "no"}), f"{folder}/run")
    ...     load(run.path).metadata["system"]
    'popularity'
    """
    path = Path(path)
    if path.is_dir():
        path = path / FILE
    if not path.is_file():
        if (path.parent / "config.toml").is_file():
            raise InputError(
                f"{path.parent}: has no model yet, because the first one is written after the first validation; if "
                f"the run was interrupted, resume it: {resume_command(path.parent)}"
            )
        raise InputError(f"{path}: no such file; give a run folder of mmssl-fast train")
    try:
        with safe_open(path, "pt") as file:
            metadata = read_header(file.metadata())
            tensors, shape = _read(file, path)
    except (SafetensorError, OSError) as error:
        raise InputError(f"{path}: cannot be read ({error}); train again or restore the file") from None
    if metadata.get("format") not in (FORMAT, FORMAT_WITHOUT_INFERENCE):
        raise InputError(f"{path}: its format is {metadata.get('format')!r}, but this version reads {FORMAT!r}")
    try:
        return _assemble(tensors, metadata, shape)
    except KeyError as error:
        raise InputError(f"{path}: tensor {error} is missing; train again") from None
    except ValueError as error:
        raise InputError(f"{path}: {error}; train again") from None


def _aligned(tensor: Tensor) -> Tensor:
    """The tensor, copied if it does not begin at a multiple of 64 bytes, as torch's own tensors do. Where a tensor lies
    in a file depends on the length of the header, and matrix products of other alignment differ in the last bits: a
    model would then compute something else after it has been saved."""
    return tensor.clone() if tensor.data_ptr() % 64 else tensor


def rebuild(model: Model, dataset: Dataset, config: Config) -> System:
    """The system of a model, on the CPU, with the parameters of the model. dataset: the one that it was trained on."""
    config = config.changed("train", device="cpu", cuda_graph=False)
    system = create(config.model.system)
    system.build(dataset, InteractionGraph.from_scipy(dataset.train), config)
    system.load_parameters(model.parameters)
    return system


def _read(file: Any, path: Path) -> tuple[dict[str, Tensor], tuple[int, int]]:
    """The tensors of a file and (users, items). Over several processes this rank's rows of the embeddings, and no
    parameters, which ranking does not need."""
    ranks = distributed.current()
    names = set(file.keys())
    embeddings = [f"embedding.{side}" for side in ("users", "items")]
    if ranks.size > 1 and any(f"{name}.indptr" in names for name in embeddings):
        raise InputError(
            f"{path}: has sparse embeddings, which one process only can rank; leave out --ranks or torchrun"
        )
    parts = (
        {name for name in names if name.startswith(("parameter.", "embedding.", "content"))}
        if ranks.size > 1
        else set()
    )
    tensors = {name: _aligned(file.get_tensor(name)) for name in names - parts}
    slices = [file.get_slice(name) if name in names else None for name in embeddings]
    shape = [one.get_shape()[0] if one is not None and one.get_shape() else 0 for one in slices]
    if ranks.size > 1:
        for name, one, rows in zip(embeddings, slices, shape, strict=True):
            if one is not None and one.get_shape():
                first, last = ranks.span(rows)
                tensors[name] = one[first:last]
    else:
        pointers = [f"{name}.indptr" for name in embeddings]
        shape = [len(tensors[n]) - 1 if n in names else rows for n, rows in zip(pointers, shape, strict=True)]
    return tensors, (shape[0], shape[1])


def _assemble(tensors: dict[str, Tensor], metadata: dict[str, str], shape: tuple[int, int]) -> Model:
    users, items = _table(tensors, "embedding.users", shape[0]), _table(tensors, "embedding.items", shape[1])
    if isinstance(users, Tensor) and not isinstance(items, Tensor):
        raise ValueError("embedding.items is sparse, but embedding.users is not")
    if users.shape[1] != items.shape[1]:
        raise ValueError(f"user embeddings have {users.shape[1]} columns, item embeddings {items.shape[1]}")
    interactions = Dataset(
        name=metadata.get("data", "model"),
        layout=metadata.get("layout", ""),
        n_users=shape[0],
        n_items=shape[1],
        **{split: _csr(tensors, split, shape) for split in SPLITS},
        features={},
        user_ids=_unpack_ids(tensors, "users", shape[0]),
        item_ids=_unpack_ids(tensors, "items", shape[1]),
        fingerprint=metadata.get("fingerprint", ""),
    )
    prefix = "parameter."
    parameters = {name.removeprefix(prefix): t for name, t in tensors.items() if name.startswith(prefix)}
    return Model(users, items, parameters, interactions, metadata, **_content(tensors, metadata, shape[1]))


def _content(tensors: Tensors, metadata: dict[str, str], n_items: int) -> dict[str, Any]:
    """The fields scaling and content of a Model, as far as the file has them."""
    if "content" not in tensors:
        return {}
    names = _json(metadata["modalities"])
    if not isinstance(names, list) or not all(isinstance(name, str) for name in names):
        raise ValueError(f"modalities is {metadata['modalities']!r}, not a list of names")
    mean, scale = ({name: tensors[f"scaling.{m}.{kind}"] for m, name in enumerate(names)} for kind in ("mean", "scale"))
    content = tensors["content"]
    if content.ndim != 2 or len(content) != n_items or content.dtype != torch.float32:
        raise ValueError(f"content is {tuple(content.shape)} of {content.dtype}, not float32 with {n_items} rows")
    for name in names:
        if mean[name].ndim != 1 or mean[name].shape != scale[name].shape or mean[name].dtype != torch.float64:
            raise ValueError(f"the scaling of {name} is {tuple(mean[name].shape)}, not one-dimensional float64")
    return {"scaling": Scaling(mean, scale), "content": content}


def _json(text: str) -> Any:
    try:
        return json.loads(text)
    except RecursionError:
        raise ValueError("is nested too deeply") from None


def _settings(config: Config) -> dict[str, Any]:
    """The sections of the configuration that the embeddings depend on."""
    values = config.model_dump(mode="json")
    return {name: values[name] for name in ("model", config.model.system) if name in values}


def inference(model: Model, item_item: bool = True) -> Inference:
    """The Inference of the model's system, without item_item as if model.item_item were 0. Raises InputError if the
    file does not have its settings, or if the package of the system is not installed."""
    name, data = model.metadata.get("system", ""), model.interactions.name
    if "settings" not in model.metadata:
        raise InputError(
            f"the model of {data} was written by mmssl_fast {model.metadata.get('mmssl_fast', '0.1')}, and lacks the "
            "settings of the system and the content of the items, from which new users and items are embedded; train "
            "again"
        )
    if name not in SYSTEMS:
        raise InputError(f"the model of {data} is one of the system {name!r}, whose package is not installed")
    try:
        config = Config.model_validate(_json(model.metadata["settings"]))
    except ValueError as error:
        reason = str(error).splitlines()[0]
        raise InputError(f"the settings of the model of {data} cannot be read ({reason}); train again") from None
    return inference_of(system_class(name), config if item_item else config.changed("model", item_item=0.0))


def add_content(model: Model) -> bool:
    """Compute scaling and content if the features are in memory, as after training. Returns whether the model has
    them. With several ranks, which must all call this, each has the content of its items."""
    dataset, ranks = model.interactions, distributed.current()
    features = dataset.features
    if model.content is None and features and "settings" in model.metadata:
        system = inference(model, item_item=False)  # a run on other data starts from the system's own part
        if not system.no_items:
            model.scaling = Scaling.of(features, system.config.model.standardise, ranks)
            own = {name: values[slice(*ranks.span(dataset.n_items))] for name, values in features.items()}
            model.content = content_of(ItemTower(system, model.parameters, model.scaling), own)
            dataset.release_features()
    return model.content is not None


def _table(tensors: dict[str, Tensor], name: str, rows: int) -> Table:
    """The inverse of `packed`, with the checks that a file needs."""
    if f"{name}.indptr" in tensors:
        columns, values = _integers(tensors, f"{name}.columns"), tensors[f"{name}.values"]
        if len(columns) != 1 or values.ndim != 1 or values.dtype != torch.float32:
            raise ValueError(f"{name} is not a sparse matrix of float32")
        indptr, indices = _compressed(tensors, name, (rows, int(columns)))
        if len(values) != len(indices):
            raise ValueError(f"{name}.values has {len(values)} entries, {name}.indices {len(indices)}")
        return sp.csr_array((values.numpy(), indices, indptr), shape=(rows, int(columns)))
    table = tensors[name]
    if table.ndim != 2 or table.dtype != torch.float32:
        raise ValueError(f"{name} is {tuple(table.shape)} of {table.dtype}, not two-dimensional float32")
    return table


def _csr(tensors: dict[str, Tensor], split: str, shape: tuple[int, int]) -> sp.csr_array:
    indptr, indices = _compressed(tensors, split, shape)
    matrix = sp.csr_array((np.ones(len(indices), np.float32), indices, indptr), shape=shape)
    matrix.sum_duplicates()
    return matrix


def _compressed(tensors: dict[str, Tensor], name: str, shape: tuple[int, int]) -> tuple[np.ndarray, np.ndarray]:
    """The checked row pointers and column indices of a sparse matrix."""
    indptr, indices = (_integers(tensors, f"{name}.{part}").numpy() for part in ("indptr", "indices"))
    if indptr.shape != (shape[0] + 1,) or indptr[0] != 0 or indptr[-1] != len(indices):
        raise ValueError(f"{name}.indptr does not describe {shape[0]} rows")
    decreasing = (indptr[1:] < indptr[:-1]).any()  # compared directly: differences could overflow
    if decreasing or (len(indices) and not 0 <= indices.min() <= indices.max() < shape[1]):
        raise ValueError(f"{name} contains an index outside 0..{shape[1] - 1}")
    return indptr, indices


def _integers(
    tensors: dict[str, Tensor], name: str, dtypes: tuple[torch.dtype, ...] = (torch.int32, torch.int64)
) -> Tensor:
    """A one-dimensional tensor of one of these dtypes."""
    tensor = tensors[name]
    if tensor.ndim != 1 or tensor.dtype not in dtypes:
        raise ValueError(f"{name} is {tuple(tensor.shape)} of {tensor.dtype}, not one-dimensional {dtypes[-1]}")
    return tensor


def pack_ids(side: str, ids: np.ndarray) -> dict[str, Tensor]:
    """Integer ids as int64; text ids as UTF-8 bytes with offsets."""
    if ids.dtype.kind in "iu":
        return {f"ids.{side}": torch.from_numpy(ids.astype(np.int64))}
    encoded = [text.encode() for text in ids.tolist()]
    offsets = np.cumsum([0, *map(len, encoded)], dtype=np.int64)
    return {
        f"ids.{side}.bytes": torch.frombuffer(bytearray(b"".join(encoded)) or bytearray(1), dtype=torch.uint8),
        f"ids.{side}.offsets": torch.from_numpy(offsets),
    }


def _unpack_ids(tensors: dict[str, Tensor], side: str, count: int) -> np.ndarray | None:
    if f"ids.{side}.bytes" in tensors:
        text = _integers(tensors, f"ids.{side}.bytes", (torch.uint8,)).numpy().tobytes()
        offsets = _integers(tensors, f"ids.{side}.offsets").tolist()
        if len(offsets) != count + 1 or offsets != sorted(offsets) or not 0 <= offsets[0] <= offsets[-1] <= len(text):
            raise ValueError(f"ids.{side} does not describe {count} {side}")
        return np.array([text[a:b].decode() for a, b in pairwise(offsets)], dtype=object)
    ids = tensors.get(f"ids.{side}")
    if ids is None:
        return None
    if ids.shape != (count,) or ids.dtype != torch.int64:
        raise ValueError(f"ids.{side} has the shape {tuple(ids.shape)}, not ({count},)")
    return ids.numpy()
