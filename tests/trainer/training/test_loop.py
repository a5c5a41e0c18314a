"""The training loop: steps, seeds, validation, patience, losses that are not finite, devices."""

import numpy as np
import pytest
import scipy.sparse as sp
import torch
from mmssl_trainer.data import Dataset
from mmssl_trainer.errors import InputError, NonFiniteLoss
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.training.loop import fit, pick_device
from mmssl_trainer.training.progress import LossTable
from training_cases import Recorder, configured, small_catalogue


@pytest.fixture(scope="module")
def data():
    return small_catalogue()


class Scripted:
    """A system whose validation Recall@20 follows a script: it puts the held-out item first for a share of users."""

    trains, least_batch = True, 1

    def __init__(self, shares, bad_step=None):
        self.shares, self.bad_step, self.optimisers, self.epoch = shares, bad_step, {}, 0

    def build(self, dataset, graph, config):
        self.wanted = torch.from_numpy(dataset.val.toarray())
        self.device = graph.device

    def start_epoch(self, epoch):
        self.epoch = epoch

    def step(self, batch):
        bad = self.bad_step == batch.step
        return {"fine": torch.tensor(1.0), "broken": torch.tensor(float("nan") if bad else 2.0)}

    def embeddings(self):
        share = self.shares[self.epoch - 1] if self.epoch else 0.0
        rows = self.wanted.shape[0]
        right = (torch.arange(rows) < share * rows)[:, None]
        return torch.where(right, self.wanted, -self.wanted), torch.eye(self.wanted.shape[1])

    def parameters(self):
        return {"epoch": torch.tensor(float(self.epoch))}

    def state(self):
        return {}


def test_steps_of_an_epoch(data):
    recorder = Recorder()
    fit(data, configured(train__epochs=2), recorder)
    steps = data.train.nnz // 128 + 1
    assert [(epoch, step) for epoch, step, _ in recorder.steps] == [(e, s) for e in (1, 2) for s in range(1, steps + 1)]
    assert recorder.steps[-1][2] is not None


def test_same_seed_same_bits(data):
    asked = [(5, "interactions"), (5, "interactions"), (6, "interactions"), (5, "users")]
    runs = [fit(data, configured(train__seed=seed, train__sample_over=over)) for seed, over in asked]
    assert torch.equal(runs[0].users, runs[1].users) and torch.equal(runs[0].items, runs[1].items)
    assert not torch.equal(runs[0].users, runs[2].users) and not torch.equal(runs[0].users, runs[3].users)


def test_best_model_is_kept_and_patience_ends(data):
    recorder = Recorder()
    shares = [0.2, 0.6, 0.5, 0.6, 0.4, 0.9, 0.9]
    fitted = fit(data, configured(train__epochs=7, train__patience=3), recorder, Scripted(shares))
    assert [record["epoch"] for record in recorder.records] == [1, 2, 3, 4, 5]  # an equal 0.6 is no improvement
    assert [epoch for epoch, _ in recorder.bests] == [1, 2]
    assert fitted.best_epoch == 2 and fitted.parameters["epoch"] == 2.0 and fitted.stale == 3
    assert fitted.val["recall@20"] == fitted.best == recorder.records[1]["val"]["recall@20"]
    assert split_metrics(fitted.users, fitted.items, data, "val", [20])["recall@20"] == fitted.best


def test_patience_zero_never_stops(data):
    fitted = fit(data, configured(train__epochs=5, train__patience=0), None, Scripted([0.5, 0.4, 0.3, 0.2, 0.1]))
    assert len(fitted.epochs) == 5 and fitted.best_epoch == 1


def test_validation_period(data):
    fitted = fit(data, configured(train__epochs=5, train__validate_every=2), None, Scripted([0.1, 0.2, 0.9, 0.3, 0.4]))
    assert [record["epoch"] for record in fitted.epochs if "val" in record] == [2, 4, 5]
    assert fitted.best_epoch == 5


def test_without_validation_the_last_epoch_is_kept(data):
    bare = Dataset(**{**vars(data), "val": sp.csr_array(data.val.shape, dtype=np.float32)})
    fitted = fit(bare, configured(train__epochs=3, train__patience=1), None, Scripted([0.3, 0.2, 0.1]))
    assert fitted.best_epoch == 3 and len(fitted.epochs) == 3


def test_non_finite_loss_names_term_epoch_step(data):
    """The step is named exactly, although losses are looked at only now and then."""
    steps = data.train.nnz // 128 + 1
    with pytest.raises(NonFiniteLoss, match=rf"'broken' became nan in epoch 2, step 3 of {steps}"):
        fit(data, configured(train__epochs=4), None, Scripted([0.5] * 4, bad_step=steps + 2))


def test_exploding_system_stops(data):
    with pytest.raises(NonFiniteLoss, match="bpr"):
        fit(data, configured(train__epochs=5, optimiser__lr=1e30))


def test_loss_table_means():
    table = LossTable(3, torch.device("cpu"))
    for value in (1.0, 2.0):
        table.add({"a": torch.tensor(value), "b": torch.tensor(10 * value)})
    assert table.means() == {"a": 1.5, "b": 15.0} and table.check(1) == {"a": 2.0, "b": 20.0}
    table.add({"a": torch.tensor(0.0), "b": torch.tensor(float("inf"))})
    with pytest.raises(NonFiniteLoss, match="'b' became inf in epoch 7, step 3 of 3"):
        table.check(7)
    with pytest.raises(ValueError, match="terms"):
        table.add({"a": torch.tensor(1.0)})


def test_users_who_have_everything(data):
    full = sp.csr_array(np.ones((2, 3), np.float32))
    empty = sp.csr_array((2, 3), dtype=np.float32)
    everything = Dataset("full", "made", 2, 3, full, empty, empty, {})
    with pytest.raises(InputError, match="no negatives"):
        fit(everything, configured())


def test_device_that_is_not_there():
    with pytest.raises(InputError, match="'gpu7': must be cpu, cuda, or a device such as cuda:1"):
        pick_device("gpu7")


def test_device_without_kernels():
    with pytest.raises(InputError, match=r"'meta': this build has no kernel for .*propagate"):
        pick_device("meta")
