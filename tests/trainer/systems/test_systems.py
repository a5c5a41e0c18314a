"""The systems that MMSSL is compared with: what they learn, need and repeat."""

from copy import deepcopy

import pytest
import torch
import torch.nn.functional as F
from mmssl_trainer import systems
from mmssl_trainer.data import Dataset
from mmssl_trainer.errors import InputError
from mmssl_trainer.ranking import split_metrics
from mmssl_trainer.systems.base import Batch
from mmssl_trainer.systems.ncl import cluster_rows
from mmssl_trainer.training.loop import fit
from plain_systems import (
    TRAINED,
    TRIPLES,
    built,
    configured,
)

from mmssl_fast import InteractionGraph

BASELINES = sorted({*TRAINED} - {"mmssl"})
WITH_FEATURES = {"vbpr", "lightgcn_m", "mmgcn", "grcn", "lattice", "clcrec", "mmgcl", "slmrec"}


@pytest.mark.parametrize("name", BASELINES)
def test_learns_more_than_popularity(data, name):
    slower = {"optimiser__lr": 0.02, "train__epochs": 16} if name == "hccf" else {}  # 0.05 is too much for it
    fitted, popular = fit(data, configured(name, **slower)), fit(data, configured("popularity"))
    test = [split_metrics(one.users, one.items, data, "test", [20])["recall@20"] for one in (fitted, popular)]
    assert fitted.best > 1.5 * popular.best and test[0] > 1.5 * test[1], (fitted.best, popular.best, test)


@pytest.mark.parametrize("name", BASELINES)
def test_same_seed_same_bits_and_a_state_is_all_there_is(data, name):
    """Two equal runs agree to the bit; so does a new system that takes over another's state and optimiser."""
    batch = Batch(torch.arange(60), torch.arange(60), torch.arange(60) + 9, 0)
    first, second = (built(data, name) for _ in range(2))
    for one in (first, second):
        torch.manual_seed(6)  # of dropout; a checkpoint holds the generator's state
        one.step(batch)
    assert all(torch.equal(a, b) for a, b in zip(first.embeddings(), second.embeddings(), strict=True))
    torch.manual_seed(99)
    other = systems.create(name)
    other.build(data, first.model.graph, configured(name))
    other.load_state({key: value.clone() for key, value in first.state().items()})
    other.optimisers["adamw"].load_state_dict(deepcopy(first.optimisers["adamw"].state_dict()))
    losses = []
    for one in (first, other):
        torch.manual_seed(7)
        losses.append(one.step(batch._replace(step=1)))
    assert {key: value.item() for key, value in losses[0].items()} == {k: v.item() for k, v in losses[1].items()}
    assert all(torch.equal(a, b) for a, b in zip(first.embeddings(), other.embeddings(), strict=True))


@pytest.mark.parametrize("name", sorted(WITH_FEATURES))
def test_features_are_needed(data, name):
    with pytest.raises(InputError, match=f"{name} needs features"):
        fit(Dataset(**{**vars(data), "features": {}}), configured(name))


def test_clcrec_knows_unknown_items_by_their_features(data):
    train = data.train.tolil()
    train[:, 3] = 0
    system = built(Dataset(**{**vars(data), "train": train.tocsr()}), "clcrec")
    items, seen, rest = system.embeddings()[1], system.cold_items(), torch.arange(data.n_items) != 3
    assert torch.equal(items[3], seen[3]) and torch.equal(items[rest], system.model.items.detach()[rest])


def test_ncl_has_no_clusters_before_its_warm_up_is_over(data):
    system = built(data, "ncl", ncl__clusters=6, ncl__warm_up=1)
    assert system.model.terms(Batch(*TRIPLES, 0))["prototypes"] == 0
    centres = []
    for epoch in (2, 3):
        system.start_epoch(epoch)
        assert system.model.terms(Batch(*TRIPLES, 0))["prototypes"] > 0
        centres.append(system.model.user_centres.clone())
    assert not torch.equal(*centres)


@pytest.mark.parametrize("k", [1, 3, 40])
def test_ncl_clusters_are_those_of_points_that_lie_apart(k):
    """Also for as many clusters as rows, and rows of zeros, which belong to some cluster."""
    torch.manual_seed(0)
    x = torch.eye(3, 8).repeat(14, 1)[:40] + 0.01 * torch.randn(40, 8)
    x[39] = 0
    centres = torch.zeros(k, 8)
    cluster = cluster_rows(x, centres, 40)
    assert cluster.shape == (40,) and 0 <= cluster.min() and cluster.max() < k
    assert torch.equal((F.normalize(x[:39], dim=1) @ centres.T).argmax(1), cluster[:39])
    lengths = centres.norm(dim=1)
    assert torch.all((lengths - 1).abs().lt(1e-5) | (lengths == 0))


@pytest.mark.parametrize("name, count", [("sgl", 2), ("mmgcl", 3)])
def test_views_are_drawn_anew_each_epoch(data, name, count):
    """From torch's generator, a number for each edge in the order of the users; before the first epoch they have all
    edges."""
    system = systems.create(name)
    system.build(data, InteractionGraph.from_scipy(data.train), configured(name))
    whole = system.model.graph
    assert system.model.views() == [whole] * count
    edges = []
    for epoch in (1, 2):
        torch.manual_seed(epoch)
        system.start_epoch(epoch)
        after = torch.get_rng_state()
        torch.manual_seed(epoch)
        for view, kept in zip(system.model.views(), torch.rand(count, whole.nnz) >= 0.1, strict=True):
            assert torch.equal(view.col, whole.col[kept]) and view.n_items == whole.n_items
        assert torch.equal(torch.get_rng_state(), after)
        edges.append(system.model.views()[0].col)
    assert edges[0].shape != edges[1].shape or not torch.equal(*edges)


@pytest.mark.parametrize("name", ["sgl", "mmgcl"])
def test_a_model_contains_nothing_of_the_views(data, name):
    """That of a development version, which contains masks, can be loaded."""
    first, second = built(data, name), built(data, name)
    torch.nn.init.normal_(first.model.users)
    parameters = first.parameters()
    assert parameters.keys() == dict(first.trained_parameters()).keys()
    second.load_parameters(parameters | {"kept": torch.ones(2, data.train.nnz, dtype=torch.bool)})
    assert torch.equal(first.model.users, second.model.users)
    with pytest.raises(RuntimeError, match="drawn_from"):
        second.load_state(parameters)


def test_lattice_reads_its_neighbours_again_each_epoch(data):
    system = built(data, "lattice")
    before = system.model.neighbours.clone()
    torch.nn.init.normal_(system.model.project[0].weight)
    system.start_epoch(2)
    assert not torch.equal(before[0], system.model.neighbours[0]) and torch.equal(before[1], system.model.neighbours[1])
