"""Configurations of runs that take a second."""

from mmssl_trainer.config.load import load

SHORT = {
    "model.dim": 8,
    "train.epochs": 2,
    "train.batch": 64,
    "train.threads": 1,
    "train.sample_over": "interactions",
    "evaluate.ks": [20],
}


def short(system="mmssl", defaults=None, **values):
    """SHORT with other defaults {key: value}, and the values of a test: model__dim=16 is the key model.dim."""
    chosen = SHORT | {"model.system": system} | (defaults or {})
    chosen |= {name.replace("__", "."): value for name, value in values.items()}
    return load(None, {name: (value, "test") for name, value in chosen.items()})
