"""The methods of the released code that mmssl_fast.dropin.hkuds replaces, one by one: values, gradients and draws."""

import copy
import datetime
import random

import numpy as np
import pytest
import scipy.sparse as sp
import torch
import torch.nn.functional as F
from dropin_clients import released
from released_inputs import USERS, embeddings, seed, weighted
from tolerances import assert_close

from mmssl_fast import RelationRows
from mmssl_fast.dropin import hkuds
from mmssl_fast.dropin.sparse import Adjacency


def test_gradient_penalty_of_rows_and_of_matrices(accelerated):
    trainer, random = released.Trainer(), torch.Generator().manual_seed(5)
    xr, xf = (F.normalize(torch.rand(48, 150, generator=random), dim=1) for _ in range(2))

    def found(*rows):
        torch.manual_seed(2)
        loss = trainer.gradient_penalty(trainer.D, *rows)
        return loss, *torch.autograd.grad(loss, [p for p in trainer.D.parameters() if p.ndim == 2]), torch.rand(1)

    truth = found(xr, xf)
    accelerated("gradient_penalty", "Discriminator.forward")
    for rows in (
        (xr, xf),
        (RelationRows.from_dense(xr), RelationRows.from_dense(xf)),
        (xr, RelationRows.from_dense(xf)),
    ):
        for actual, own in zip(found(*rows), truth, strict=True):
            assert (actual - own).abs().max() < 1e-4 * own.abs().max()
    assert trainer.gradient_penalty(trainer.D, xr[:7], xf[:7]).isfinite()


def test_discriminator_in_both_modes_and_its_layout(accelerated):
    trainer, x = released.Trainer(), torch.randn(24, 150)
    own = copy.deepcopy(trainer.D)
    plain = [own(x), own.eval()(x)]
    accelerated("Discriminator.forward")
    parameters = list(trainer.D.parameters())
    for rows in (x, RelationRows.from_dense(x), x.double()):
        d = copy.deepcopy(trainer.D)
        for actual, truth in zip((d(rows), d.eval()(rows)), plain, strict=True):
            torch.testing.assert_close(actual, truth, rtol=1e-4, atol=1e-4)
    trainer.D(x)
    assert all(a is b for a, b in zip(parameters, trainer.D.parameters(), strict=True))
    assert trainer.D.net[0].weight.mT.is_contiguous()


@pytest.mark.parametrize("n", [1, 24, 65])
def test_contrastive_loss_and_its_gradients(n, accelerated):
    trainer, (z1, z2) = released.Trainer(), embeddings(n, n)
    truth = trainer.batched_contrastive_loss(z1, z2)
    grads = torch.autograd.grad(truth, (z1, z2))
    accelerated("batched_contrastive_loss")
    found = trainer.batched_contrastive_loss(z1, z2, batch_size=16)
    assert_close(found, truth)
    for actual, own in zip(torch.autograd.grad(found, (z1, z2)), grads, strict=True):
        assert (actual - own).abs().max() <= 1e-5 * own.abs().max() + 1e-6


def test_contrastive_loss_of_empty_graphs_is_the_constant_it_was(accelerated):
    trainer, (z1, z2) = released.Trainer(), [torch.zeros(24, 8), embeddings(24)[0]]
    truth = trainer.batched_contrastive_loss(z1, z2)
    accelerated("batched_contrastive_loss")
    found = trainer.batched_contrastive_loss(z1, z2)
    assert_close(found, truth)
    assert not torch.autograd.grad(found, z2)[0].any()


def test_bpr_loss_and_its_gradients(accelerated):
    trainer, leaves = released.Trainer(), embeddings(24, 24, 24)
    truth = trainer.bpr_loss(*leaves)
    accelerated("bpr_loss")
    found = trainer.bpr_loss(*leaves)
    assert found[2] == truth[2] == 0.0
    for which in (0, 1):
        assert_close(found[which], truth[which])
        for a, t in zip(*(torch.autograd.grad(x[which], leaves) for x in (found, truth)), strict=True):
            assert_close(a, t)


@pytest.mark.parametrize("name", ["matrix_to_tensor", "sparse_mx_to_torch_sparse_tensor"])
@pytest.mark.parametrize("product", [torch.mm, torch.sparse.mm], ids=["mm", "sparse.mm"])
def test_graphs_of_any_values_are_taken_by_products(name, product, accelerated, monkeypatch):
    trainer, (x,) = released.Trainer(), embeddings(150)
    matrix = weighted(released.data_generator.matrix(np.float64)) * -1.5
    truth = product(getattr(trainer, name)(matrix), x)
    accelerated(name)
    monkeypatch.setattr(torch.Tensor, "cuda", lambda self, *_, **__: self)
    graph = getattr(trainer, name)(matrix.tocsc()).cuda()
    assert isinstance(graph, Adjacency) and graph.dtype == torch.float32
    assert_close(product(graph, x), truth)
    assert_close(trainer.model.mm(graph, x), truth)
    grad = torch.randn_like(truth)
    assert_close(*(torch.autograd.grad(y, x, grad, retain_graph=True)[0] for y in (product(graph, x), truth)))
    empty = getattr(trainer, name)(sp.csr_matrix((70, 150)))
    assert not product(empty, x).any()


@pytest.mark.parametrize("batch", [1, 24, 68, 71, 200])
def test_sample_draws_what_the_loop_draws(batch, accelerated):
    data = released.Data(70, 150, batch)
    if batch == 68:
        data.train_items = {u: items[:1] for u, items in data.train_items.items()}  # a choice of one takes no draw
    many = released.Data(
        70, 1 << 8, min(batch, 60), seed=1
    )  # a power of two: no number is drawn again but for seen items
    many.train_items[3] = list(range(200))
    for own in (data, many):
        seed(11)
        truth = [own.sample() for _ in range(3)] + [random.random(), np.random.rand()]
        undo = accelerated("Data.sample")
        seed(11)
        found = [own.sample() for _ in range(3)] + [random.random(), np.random.rand()]
        undo.restore()
        assert found == truth and all(isinstance(x, list) for x in found[0])


@pytest.mark.parametrize(
    "n, k", [(9298, 1024), (5000, 6), (5000, 5), (4200, 1024), (4117, 1024), (8192, 700), (8191, 1)]
)
def test_users_are_those_of_random_sample(n, k):
    from mmssl_fast.dropin.hkuds.sampling import _sample

    random.seed(n)
    truth = [random.sample(range(n), k) for _ in range(3)], random.random()
    random.seed(n)
    assert ([_sample(n, k).tolist() for _ in range(3)], random.random()) == truth


def test_numpy_triples_refuses_what_is_not_sound():
    from mmssl_fast._C import numpy_triples

    sound = {
        "bit_generator": np.random.get_bit_generator().capsule,
        "users": np.array([0, 1]),
        "crow": np.array([0, 2, 3]),
        "items": np.array([4, 1, 2]),
        "ascending": np.array([1, 4, 2]),
        "n_items": 5,
    }
    assert numpy_triples(**sound)[0].shape == (2,)
    for changed in (
        {"users": np.array([0, 2])},
        {"users": np.array([-1])},
        {"users": np.array([[0]])},
        {"crow": np.array([0, 2, 4])},
        {"crow": np.array([0, 0, 3])},
        {"crow": np.array([-1, 2, 3])},
        {"crow": np.array([], dtype=np.int64)},
        {"ascending": np.array([1])},
        {"n_items": 2},
        {"n_items": 0},
        {"n_items": 2**32 + 1},
        {"bit_generator": datetime.datetime_CAPI},
    ):
        with pytest.raises(ValueError):
            numpy_triples(**sound | changed)
    for changed in ({"users": [0]}, {"items": np.array([4.0, 1, 2])}, {"crow": np.array([0, 2, 3], dtype=np.int32)}):
        with pytest.raises(TypeError):
            numpy_triples(**sound | changed)


def test_sample_refuses_a_user_with_every_item(accelerated):
    accelerated("Data.sample")
    data = released.Data(70, 150, 24)
    data.train_items[4] = list(range(150))
    with pytest.raises(ValueError, match="user 4 has interacted with all 150 items"):
        data.sample()


@pytest.mark.parametrize("is_val", [True, False])
@pytest.mark.parametrize("flag", ["part", "full"])
def test_evaluation_is_the_same_to_the_last_digits(is_val, flag, accelerated, monkeypatch):
    monkeypatch.setattr(released.args, "test_flag", flag)
    u, v = embeddings()
    v.data[40:80] = v.data[40]  # equal scores
    users = list(released.data_generator.val_set if is_val else released.data_generator.test_set)
    truth = released.test_torch(u, v, users, is_val)
    accelerated("test_torch")
    found = released.test_torch(u, v, users, is_val, drop_flag=True, batch_test_flag=True)
    assert set(found) == set(truth) and (truth["auc"] > 0.3) == (flag == "full")
    for name in truth:
        np.testing.assert_allclose(found[name], truth[name], rtol=1e-12, atol=1e-15)
    assert found["recall"].data is not None


def test_evaluation_of_lists_longer_than_what_is_left(accelerated, monkeypatch):
    monkeypatch.setattr(released, "Ks", [10, 200])
    u, v = embeddings()
    users = list(released.data_generator.val_set)
    truth = released.test_torch(u, v, users, True)
    accelerated("test_torch")
    found = released.test_torch(u, v, users, True)
    for name in truth:
        np.testing.assert_allclose(found[name], truth[name], rtol=1e-12)


def test_noisy_rows_are_the_softmax_of_the_same_noise():
    matrix = released.data_generator.matrix()[USERS]
    torch.manual_seed(4)
    noise = torch.empty(matrix.shape).uniform_(0, 1)
    truth = F.softmax(torch.tensor(matrix.todense()) - 0.7 * torch.log(-torch.log(noise + 1e-8) + 1e-8) / 0.3, dim=1)
    torch.manual_seed(4)
    assert_close(hkuds.noisy_rows(matrix, 0.7, 0.3), truth)
