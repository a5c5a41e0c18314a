"""gumbel_softmax against equation 5 in PyTorch: the plain expression, torch's gumbel_softmax, and reference.py."""

import pytest
import torch
import torch.nn.functional as F
from registry import compare, compiled, normal, shapes
from roofline import Work

from mmssl_fast import reference
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax

BATCH = 1024


def eager(graph, users, tau, augment=None, zeta=0.0, row_l2=False):
    """Equation 5 with torch's random generator, where the rows of A are filled in place."""
    seen = graph.rows(users)
    logits = torch.rand(len(users), graph.n_items).log_().neg_().log_().neg_()
    logits[reference.row_ids(seen.crow), seen.col.long()] += 1
    rows = (logits / tau).softmax(1)
    if augment is not None:
        rows = rows + zeta * reference.cosine_block(*augment)
    return reference.unit_rows(rows) if row_l2 else rows


def torch_own(graph, users, tau):
    """torch.nn.functional.gumbel_softmax on the rows of A."""
    seen = graph.rows(users)
    logits = torch.zeros(len(users), graph.n_items)
    logits[reference.row_ids(seen.crow), seen.col.long()] = 1
    return F.gumbel_softmax(logits, tau)


def rows_work(shape):
    """The rows are written once. The noise of an entry takes about 50 operations: ten Philox rounds for four entries,
    two logarithms and an exponential."""
    return Work(bytes=4 * BATCH * shape.items, other_flops=50 * BATCH * shape.items)


PEERS = {"torch.rand, log, log, softmax": eager, "torch.nn.functional.gumbel_softmax": torch_own}
COMPILED = "torch.compile of torch.rand, log, log, softmax"


def check(graph, users, tau, **options):
    """Compares the first rows with reference.py, because the peer has other noise."""
    few = users[:16]
    if "augment" in options:
        options["augment"] = options["augment"][0][:16], options["augment"][1]
    expected = reference.gumbel_softmax(graph, few, tau, 7, dtype=torch.float64, **options)

    def same(actual, peer):
        assert actual.shape == peer.shape
        torch.testing.assert_close(actual[:16].double(), expected, rtol=1e-4, atol=1e-5)

    return same


@pytest.mark.parametrize("peer", [*PEERS, pytest.param(COMPILED, marks=pytest.mark.slow)])
@pytest.mark.parametrize("shape", shapes("200k", quick="tiktok"), ids=str)
def test_gumbel_softmax_dense(benchmark, shape, peer):
    graph = shape.graph()
    users, tau = torch.arange(BATCH), 0.5
    rows = PEERS[peer] if peer in PEERS else compiled(eager)
    compare(
        benchmark,
        lambda: gumbel_softmax(graph, users, tau, 7, method="dense"),
        lambda: rows(graph, users, tau),
        check(graph, users, tau),
        shape=shape,
        batch=BATCH,
        work=rows_work(shape),
        tau=tau,
        rounds=10,
        peer_name=peer,
    )


def test_gumbel_softmax_dense_same_noise(benchmark, tiktok):
    graph = tiktok.graph()
    users = torch.arange(BATCH)
    compare(
        benchmark,
        lambda: gumbel_softmax(graph, users, 0.5, 7, method="dense"),
        lambda: reference.gumbel_softmax(graph, users, 0.5, 7),
        lambda actual, expected: torch.testing.assert_close(actual, expected, rtol=1e-4, atol=1e-5),
        shape=tiktok,
        batch=BATCH,
        work=rows_work(tiktok),
        tau=0.5,
        rounds=3,
        peer_name="reference.py, Philox in int64 tensors",
    )


def test_gumbel_softmax_augmented(benchmark, tiktok):
    graph = tiktok.graph()
    users = torch.arange(BATCH)
    options = {"augment": (normal(BATCH, 64), normal(tiktok.items, 64, seed=1)), "zeta": 100.0, "row_l2": True}
    compare(
        benchmark,
        lambda: gumbel_softmax(graph, users, 0.5, 7, method="dense", **options),
        lambda: eager(graph, users, 0.5, **options),
        check(graph, users, 0.5, **options),
        shape=tiktok,
        batch=BATCH,
        work=rows_work(tiktok),
        tau=0.5,
        rounds=10,
        peer_name="torch.rand, log, log, softmax, cosine, row L2",
    )


@pytest.mark.parametrize("tau", [0.085, 0.2])
@pytest.mark.parametrize("shape", shapes("200k", quick="tiktok"), ids=str)
def test_gumbel_softmax_order_statistics(benchmark, shape, tau):
    graph = shape.graph()
    users = torch.arange(BATCH)

    def sums_to_one(actual, peer):
        torch.testing.assert_close(actual.sum(1), peer.sum(1), rtol=1e-5, atol=1e-5)

    compare(
        benchmark,
        lambda: gumbel_softmax(graph, users, tau, 7, method="order_statistics"),
        lambda: eager(graph, users, tau),
        sums_to_one,
        shape=shape,
        batch=BATCH,
        work=rows_work(shape),
        tau=tau,
        rounds=10,
        peer_name="torch.rand, log, log, softmax",
    )
