"""A catalogue, a configuration and an observer for short training runs."""

from mmssl_trainer.config.load import load
from mmssl_trainer.data import synthetic
from mmssl_trainer.training.progress import NullObserver


def small_catalogue():
    """120 users, 80 items and two modalities."""
    return synthetic(seed=1, n_users=120, n_items=80, modalities={"image": 8, "text": 6})


def configured(system="lightgcn", **values):
    chosen = {
        "model.system": system,
        "model.dim": 16,
        "train.epochs": 3,
        "train.batch": 128,
        "train.threads": 1,
        "train.sample_over": "interactions",
        "evaluate.ks": [5, 20],
    }
    chosen |= {name.replace("__", "."): value for name, value in values.items()}
    return load(None, {name: (value, "test") for name, value in chosen.items()})


class Recorder(NullObserver):
    def __init__(self):
        self.steps, self.records, self.bests = [], [], []

    def stepped(self, epoch, step, losses):
        self.steps.append((epoch, step, losses))

    def epoch_ended(self, record):
        self.records.append(record)

    def improved(self, fitted):
        self.bests.append((fitted.best_epoch, fitted.best))
