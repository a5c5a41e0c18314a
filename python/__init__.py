"""The Python interface of the trainer behind the command ``mmssl-fast``.

>>> from mmssl_trainer import configure, evaluate, fit, load_data, recommend
>>> data = load_data()  # the built-in synthetic data set; load_data("path/to/folder") reads your own
>>> model = fit(data, configure({"model.system": "lightgcn", "train.epochs": 2}))
>>> 0 < evaluate(model)["recall@20"] < 1
True
>>> recommend(model, users=[0], k=3).item.shape
(3,)

`save(model, path)` writes a model to a file. `load(path)` reads such a file, or a run folder of `mmssl-fast train`.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from .api import (
        Comparison,
        Config,
        Dataset,
        InputError,
        Model,
        Observer,
        Recommendations,
        Similar,
        compare,
        configure,
        embed_items,
        evaluate,
        export,
        fit,
        fold_in,
        load,
        load_data,
        recommend,
        save,
        similar,
    )

__all__ = [
    "Comparison",
    "Config",
    "Dataset",
    "InputError",
    "Model",
    "Observer",
    "Recommendations",
    "Similar",
    "compare",
    "configure",
    "embed_items",
    "evaluate",
    "export",
    "fit",
    "fold_in",
    "load",
    "load_data",
    "recommend",
    "save",
    "similar",
]


def __getattr__(name: str) -> Any:
    if name in __all__:  # imported on first use, so that `mmssl-fast --help` does not wait for torch
        from . import api

        return getattr(api, name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
