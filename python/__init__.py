"""The trainer behind the command ``mmssl-fast``, from Python.

>>> from mmssl_trainer import configure, evaluate, fit, load_data, recommend
>>> data = load_data()  # the embedded catalogue; load_data("path/to/folder") reads yours
>>> model = fit(data, configure({"model.system": "lightgcn", "train.epochs": 2}))
>>> 0 < evaluate(model)["recall@20"] < 1
True
>>> recommend(model, users=[0], k=3).item.shape
(3,)

`save(model, path)` keeps a model, `load(path)` reads one, or that of a folder which `mmssl-fast train` wrote.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Config,
        Dataset,
        InputError,
        Model,
        Observer,
        Recommendations,
        configure,
        evaluate,
        fit,
        load,
        load_data,
        recommend,
        save,
    )

__all__ = [
    "Config",
    "Dataset",
    "InputError",
    "Model",
    "Observer",
    "Recommendations",
    "configure",
    "evaluate",
    "fit",
    "load",
    "load_data",
    "recommend",
    "save",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # late, so that `mmssl-fast --help` does not wait for torch
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
