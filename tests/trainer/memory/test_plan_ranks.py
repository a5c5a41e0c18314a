"""The plan of a rank: what it holds and receives."""

from dataclasses import replace

import pytest
from mmssl_trainer import configure, load_data
from mmssl_trainer.errors import InputError
from mmssl_trainer.memory import budget, cost, wire
from mmssl_trainer.memory.plan import live, peak, persistent_bytes, stages
from mmssl_trainer.memory.sizes import Sizes, of_system
from mmssl_trainer.memory.wire import distinct
from mmssl_trainer.systems import ncl

from mmssl_fast import distributed

SIZES = Sizes(90_000, 60_000, 10**6, (128, 64), hidden=(512, 256), batch=1024)


def test_a_rank_needs_less_and_the_graph_does_not_shrink():
    plans = [stages(replace(SIZES, ranks=ranks)) for ranks in (1, 2, 4, 8)]
    assert live(plans[0]) > live(plans[1]) > live(plans[2]) > live(plans[3])
    held = [persistent_bytes(plan) for plan in plans]
    # What is divided falls with 1/P: the differences halve.
    assert (held[0] - held[1]) / (held[1] - held[2]) == pytest.approx(2, rel=0.01)
    assert {plan[2].name: plan[2].persistent for plan in plans} == {plans[0][2].name: plans[0][2].persistent}


@pytest.mark.parametrize("ranks", [2, 4, 64])
def test_received_bytes_are_those_of_the_tutorial(ranks):
    s = replace(SIZES, ranks=ranks)
    n, d, m, b, h, share = s.nodes, s.dim, s.modalities, s.batch, s.hidden[0], (ranks - 1) / ranks
    users = distinct(s.users, b)
    exchanged = 8 * (s.items * m + n * (2 * m + 3)) * d * share / ranks
    expected = exchanged + 24 * n * share + 8 * (1 + 3 * m) * b * h * share
    expected += 8 * (4 + 3 * m) * b * d * share  # rows of the batch
    expected += m * (16 * d + 24) * users * share + 8 * (users + distinct(s.items, 2 * b)) * d * share
    assert sum(stage.received for stage in stages(s)) == pytest.approx(expected, rel=0.01)
    half = sum(stage.received for stage in stages(replace(s, wire=2)))
    assert half == pytest.approx(expected - exchanged / 2, rel=0.01)


@pytest.mark.parametrize("groups", [2, 4, 8])
def test_groups_hold_parts_of_the_graph_and_receive_more(groups):
    """For each propagation 4·d·[(I + U)(C − 1)/(P·C) + (senders/C)(G − 1)/G] bytes in each direction."""
    lightgcn = Sizes(90_000, 60_000, 10**7, (), ranks=8, groups=groups, layers=3)
    (graph,) = (stage for stage in stages(lightgcn) if stage.name == "graph and its transpose")
    assert graph.persistent == 8 * 10**7 // groups + 16 * lightgcn.nodes
    (layers,) = (stage for stage in stages(lightgcn) if stage.name.startswith("graph layers"))
    n, d, p, c = lightgcn.nodes, lightgcn.dim, 8, 8 // groups
    expected = 4 * 4 * n * d * (c - 1) / (p * c) + 2 * 3 * 4 * n * (d / c) * (groups - 1) / groups
    assert layers.received == pytest.approx(expected, rel=1e-6)
    whole = stages(replace(lightgcn, groups=1))
    assert live(stages(lightgcn)) < live(whole)
    assert sum(one.received for one in stages(lightgcn)) > sum(one.received for one in whole)


def test_the_smallest_number_of_groups_that_fits_a_device():
    sizes = Sizes(90_000, 60_000, 10**9, (), ranks=8, mapped=True)
    needed = {groups: peak(stages(replace(sizes, groups=groups))) for groups in (1, 2, 4, 8)}
    assert needed[1] > needed[2] > needed[4] > needed[8]
    for groups, least in needed.items():
        assert cost.fitting_groups(sizes, "h100", least) == groups
    assert cost.fitting_groups(sizes, "h100") == 1
    with pytest.raises(
        InputError, match=r"^--groups auto: with any number of groups, a rank needs at least .*; use more "
    ):
        cost.fitting_groups(sizes, "h100", needed[8] - 1)


def test_unequal_groups_hold_more():
    sizes = Sizes(90_000, 60_000, 10**7, (), ranks=8, groups=4, mapped=True)
    held = [stages(replace(sizes, largest_group=ratio))[2].persistent for ratio in (1.0, 2.0, 9.0)]
    assert [one - 16 * sizes.nodes for one in held] == [8 * 10**7 // 4, 8 * 10**7 // 2, 8 * 10**7]


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("wire", [4, 2])
def test_received_bytes_of_contrastive_systems_are_those_of_the_tutorial(groups, wire):
    mmssl = replace(SIZES, ranks=8, groups=groups, wire=wire)
    n, d, b, c, share, others = mmssl.nodes, 64, mmssl.batch, 8 // groups, 7 / 8, (groups - 1) / groups
    exchanged = 4 * wire * n * d * (c - 1) / (8 * c)
    layer = 2 * wire * n * -(-d // c) * others  # forward and backward
    rows = distinct(mmssl.users, b) + distinct(mmssl.items, 2 * b)
    common = 8 * rows * d * share + 32 * b * others
    anchors = (16 * d + 24) * (distinct(mmssl.users, b) + distinct(mmssl.items, b)) * share
    expected = {
        "mf": common,
        "lightgcn": common + exchanged + 2 * layer,
        "sgl": common + 3 * (exchanged + 2 * layer) + anchors,
        "ncl": common + 2 * (exchanged + 2 * layer) + anchors + 16 * b * d * share,
    }
    for name, count in expected.items():
        found = sum(stage.received for stage in stages(of_system(mmssl, name)))
        assert found == pytest.approx(count, rel=1e-6), name


@pytest.mark.parametrize("groups", [1, 4])
@pytest.mark.parametrize("wire", [4, 2])
def test_received_bytes_at_the_start_of_an_epoch_are_those_of_the_tutorial(groups, wire):
    mmssl = replace(SIZES, ranks=8, groups=groups, wire=wire)
    n, d, c, share, others, k = mmssl.nodes, 64, 8 // groups, 7 / 8, (groups - 1) / groups, 1000
    centres = 8 * 2 * k * d * share + 10 * 4 * 2 * k * d * share
    features = 2 * wire * (mmssl.items + n) * d * (c - 1) / (8 * c) + wire * n * -(-2 * d // c) * others
    expected = {
        "mf": 0,
        "lightgcn": 0,
        "sgl": 2 * others * (mmssl.interactions / groups + 4 * n),
        "ncl": centres + 11 * 8 * n * share + 10 * wire * (n + 2 * k) * d * share / 8,
        "mmssl": features + 2 * (4 * mmssl.items * d + 8 * 10 * mmssl.users) * share,
    }
    for name, count in expected.items():
        found = sum(stage.received_in_epoch for stage in stages(of_system(mmssl, name)))
        assert found == pytest.approx(count, rel=1e-6), name


def test_graphs_of_views_are_divided_among_groups_and_clusters_are_not():
    def stage(name, system, groups):
        planned = stages(of_system(replace(SIZES, ranks=8, groups=groups), system))
        return next(one for one in planned if one.name == name).persistent

    edges, nodes = 900_000, SIZES.nodes
    assert stage("graphs of the views", "sgl", 1) == 2 * (8 * edges + 20 * nodes)
    assert stage("graphs of the views", "sgl", 4) == 2 * (8 * edges // 4 + 16 * nodes)
    assert stage("clusters", "ncl", 1) == stage("clusters", "ncl", 4) == 8 * nodes + 2 * 4 * 1000 * 64


@pytest.mark.parametrize("groups", [1, 4])
def test_lists_of_semantic_neighbours_are_divided_among_the_ranks(groups):
    held = [
        sum(stage.persistent for stage in stages(replace(SIZES, ranks=8, groups=groups, neighbours=k)))
        for k in (10, 18)
    ]
    graphs = 2 * 2 * 4 * 8 * SIZES.users // groups  # both directions of two modalities
    lists = 2 * 2 * 8 * 8 * SIZES.users // 8  # and those of the best model
    assert held[1] - held[0] == graphs + lists


def test_parts_of_a_batch_need_less_and_are_sent_as_often():
    whole = replace(SIZES, ranks=4, batch=2**14)
    parts, fewer = replace(whole, microbatches=16), replace(whole, anchors=512)
    assert live(stages(parts)) < 0.7 * live(stages(whole))
    received = {name: sum(s.received for s in stages(one)) for name, one in (("whole", whole), ("parts", parts))}
    assert received["whole"] < received["parts"] < 1.2 * received["whole"]
    (name,) = (s.name for s in stages(whole) if s.name.startswith("InfoNCE"))
    every, some = (next(s for s in stages(one) if s.name == name) for one in (whole, fewer))
    assert some.received / every.received == pytest.approx(distinct(90_000, 512) / distinct(90_000, 2**14), rel=1e-3)
    assert some.operations < every.operations / 16


def test_nothing_is_received_by_one_rank():
    assert not any(stage.received for stage in stages(SIZES))


def test_a_run_that_does_not_fit_a_rank_is_refused(monkeypatch):
    """The message has the number of ranks, and those of a machine share its free memory."""
    data = load_data()
    monkeypatch.setattr(distributed, "current", lambda: distributed.Ranks(1, 3))
    config = configure({"train.memory": "1MiB"})
    with pytest.raises(InputError, match=r"each of the 3 ranks needs about .* its budget is 1.00 MiB \(train.memory\)"):
        budget.fit_to_budget(data, config)
    monkeypatch.setattr(budget, "free_memory", lambda device: 3 << 20)
    monkeypatch.setattr(distributed, "on_this_machine", lambda: 3)
    with pytest.raises(InputError, match=r"80% of the free memory, shared by 3 ranks\).*or use more ranks on more"):
        budget.fit_to_budget(data, configure({}))


def test_the_plan_and_ncl_have_the_same_rounds_of_k_means():
    assert wire.ROUNDS == ncl.ROUNDS
