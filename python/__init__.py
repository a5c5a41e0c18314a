"""The Python interface of the trainer behind the command ``mmssl-fast``, which uses nothing else of this package.

>>> from mmssl_trainer import configure, evaluate, fit, load_data, recommend
>>> data = load_data()  # the built-in synthetic data set; load_data("path/to/folder") reads your own
>>> model = fit(data, configure({"model.system": "lightgcn", "train.epochs": 2}))
>>> 0 < evaluate(model)["recall@20"] < 1
True
>>> recommend(model, users=[0], k=3).item.shape
(3,)

`save(model, path)` writes a model to a file. `load(path)` reads such a file, or a run folder. `train` does all of this
and writes a run folder, which `resume` continues.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import beyond_accuracy as beyond_accuracy
    from .api import breakdown as breakdown
    from .api import evaluate as evaluate
    from .api import fit as fit
    from .api import intervals as intervals
    from .api import recommend as recommend
    from .config.load import configure as configure
    from .config.sections import Config as Config
    from .data import Dataset as Dataset
    from .data.convert import convert_data as convert_data
    from .data.prepare.run import prepare_data as prepare_data
    from .errors import InputError as InputError
    from .exports import export as export
    from .features.make import MadeFeatures as MadeFeatures
    from .features.make import make_features as make_features
    from .inference.files import item_texts as item_texts
    from .inference.histories import fold_in as fold_in
    from .inference.new_items import embed_items as embed_items
    from .inference.similar import Similar as Similar
    from .inference.similar import similar as similar
    from .runs.cold import evaluate_cold as evaluate_cold
    from .runs.complete import load_data as load_data
    from .runs.describe import describe as describe
    from .runs.folder import unfinished as unfinished
    from .runs.recommend import Recommendations as Recommendations
    from .runs.saved_model import Model as Model
    from .runs.saved_model import load as load
    from .runs.saved_model import save as save
    from .runs.train import TrainedRun as TrainedRun
    from .runs.train import configuration_file as configuration_file
    from .runs.train import resume as resume
    from .runs.train import train as train
    from .study.compare import Comparison as Comparison
    from .study.compare import compare as compare
    from .study.report.page import write_report as write_report
    from .study.reproduce.request import Reproduction as Reproduction
    from .study.tune.request import tune as tune
    from .training.progress import Observer as Observer

# The module and the name there of everything that is public. A module is imported when one of its names is first used,
# so that `mmssl-fast --help` does not wait for torch.
_PUBLIC = {
    "Comparison": ("study.compare", "Comparison"),
    "Config": ("config.sections", "Config"),
    "Dataset": ("data", "Dataset"),
    "InputError": ("errors", "InputError"),
    "MadeFeatures": ("features.make", "MadeFeatures"),
    "Model": ("runs.saved_model", "Model"),
    "Observer": ("training.progress", "Observer"),
    "Recommendations": ("runs.recommend", "Recommendations"),
    "TrainedRun": ("runs.train", "TrainedRun"),
    "Reproduction": ("study.reproduce.request", "Reproduction"),
    "Similar": ("inference.similar", "Similar"),
    "beyond_accuracy": ("api", "beyond_accuracy"),
    "breakdown": ("api", "breakdown"),
    "compare": ("study.compare", "compare"),
    "configuration_file": ("runs.train", "configuration_file"),
    "configure": ("config.load", "configure"),
    "convert_data": ("data.convert", "convert_data"),
    "describe": ("runs.describe", "describe"),
    "embed_items": ("inference.new_items", "embed_items"),
    "evaluate": ("api", "evaluate"),
    "evaluate_cold": ("runs.cold", "evaluate_cold"),
    "export": ("exports", "export"),
    "fit": ("api", "fit"),
    "fold_in": ("inference.histories", "fold_in"),
    "intervals": ("api", "intervals"),
    "item_texts": ("inference.files", "item_texts"),
    "load": ("runs.saved_model", "load"),
    "load_data": ("runs.complete", "load_data"),
    "make_features": ("features.make", "make_features"),
    "prepare_data": ("data.prepare.run", "prepare_data"),
    "recommend": ("api", "recommend"),
    "resume": ("runs.train", "resume"),
    "save": ("runs.saved_model", "save"),
    "similar": ("inference.similar", "similar"),
    "train": ("runs.train", "train"),
    "tune": ("study.tune.request", "tune"),
    "unfinished": ("runs.folder", "unfinished"),
    "write_report": ("study.report.page", "write_report"),
}
__all__ = sorted(_PUBLIC)


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, there = _PUBLIC[name]
    return getattr(import_module(f"{__name__}.{module}"), there)
