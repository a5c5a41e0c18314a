"""A catalogue, a configuration and an observer for short training runs."""

from configurations import short
from mmssl_trainer.data import synthetic
from mmssl_trainer.training.progress import NullObserver


def small_catalogue():
    """120 users, 80 items and two modalities."""
    return synthetic(seed=1, n_users=120, n_items=80, modalities={"image": 8, "text": 6})


def configured(system="lightgcn", **values):
    return short(system, {"model.dim": 16, "train.epochs": 3, "train.batch": 128, "evaluate.ks": [5, 20]}, **values)


class Recorder(NullObserver):
    def __init__(self):
        self.steps, self.records, self.bests = [], [], []

    def stepped(self, epoch, step, losses):
        self.steps.append((epoch, step, losses))

    def epoch_ended(self, record):
        self.records.append(record)

    def improved(self, fitted):
        self.bests.append((fitted.best_epoch, fitted.best))
