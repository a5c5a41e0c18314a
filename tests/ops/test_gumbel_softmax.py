"""gumbel_softmax, gumbel_lse and gumbel_tile against reference.py."""

import itertools
import os
import subprocess
import sys

import pytest
import torch
from csr_blocks import normal, random_graph
from tolerances import assert_as_accurate, assert_close

from mmssl_fast import reference
from mmssl_fast.graph import InteractionGraph
from mmssl_fast.library import build_info
from mmssl_fast.ops.gumbel_rows import gumbel_lse, gumbel_tile
from mmssl_fast.ops.gumbel_softmax import gumbel_softmax

pytestmark = pytest.mark.usefixtures("poison")

# users, items, share of all pairs: odd sizes, one user, one item, nobody has anything, everybody everything
GRAPHS = [(41, 401, 0.05), (7, 1271, 0.01), (1, 50, 0.5), (33, 1, 0.5), (9, 11, 0.0), (9, 300, 1.0), (5, 256, 0.1)]
TAUS = [1e-3, 0.085, 0.2, 0.325, 1.0, 10.0]  # from 0.325 on no row maximum is looked for
TINY = 2e-6  # two units in the last place of a logarithm, over a temperature: what differently rounded noise may do


def some_users(graph):
    """Every user, in an order of no meaning, the first twice."""
    order = torch.randperm(graph.n_users, generator=torch.Generator().manual_seed(3))
    return torch.cat((order, order[:1]))


def truth(graph, users, tau, **options):
    return reference.gumbel_softmax(graph, users, tau, 5, 2, dtype=torch.float64, **options)


def test_gumbel_noise_within_two_ulp():
    """A row of one unseen item has lse = g / 1: the noise itself, for 100 000 counters."""
    graph = InteractionGraph.from_pairs([], [], 100_000, 1)
    users = torch.arange(100_000)
    g = gumbel_lse(graph, users, 1.0, 5)
    v = (reference.philox_bits(5, 0, users, 1, reference.STREAM_DENSE).float() * 2.0**-32 + 2.0**-33).double()
    # E has two units of freedom, and −log E near E = 1 turns them into an absolute error.
    e = -torch.log1p(-v.clamp(max=1 - 2.0**-24)).flatten()
    exact = -torch.log(e)
    ulp = torch.finfo(torch.float32).eps * exact.abs()
    assert ((g - exact).abs() <= 2 * ulp + 2 * torch.finfo(torch.float32).eps).all()
    assert torch.equal(g, g.float().double())


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", GRAPHS)
def test_gumbel_softmax_dense_values(shape, tau):
    graph = random_graph(*shape)
    users = some_users(graph)
    rows = gumbel_softmax(graph, users, tau, 5, 2, method="dense")
    assert_as_accurate(rows, reference.gumbel_softmax(graph, users, tau, 5, 2), truth(graph, users, tau), TINY / tau)
    assert rows.dtype == torch.float32 and torch.equal(rows[0], rows[-1])
    assert_close(rows.double().sum(1), torch.ones(len(users)), torch.float32)


@pytest.mark.parametrize("noise_scale", [0.0, 0.01, 1.0, 3.0])
def test_gumbel_softmax_noise_scale(noise_scale):
    graph = random_graph(41, 401, 0.05)
    users = some_users(graph)
    rows = gumbel_softmax(graph, users, 0.5, 5, 2, noise_scale=noise_scale, method="dense")
    plain = reference.gumbel_softmax(graph, users, 0.5, 5, 2, noise_scale=noise_scale)
    assert_as_accurate(rows, plain, truth(graph, users, 0.5, noise_scale=noise_scale))


@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("zeta", [0.0, 0.3, 100.0])
@pytest.mark.parametrize("shape", GRAPHS)
def test_gumbel_softmax_augmented_values_and_gradients(shape, zeta, row_l2):
    graph = random_graph(*shape)
    users = some_users(graph)
    h_u, h_i = normal(len(users), 19, seed=1), normal(graph.n_items, 19, seed=2)
    h_u[0] = 0
    options = {"zeta": zeta, "row_l2": row_l2}
    results = []
    for op, dtype, more in [
        (gumbel_softmax, torch.float32, {"method": "dense"}),
        (reference.gumbel_softmax, torch.float32, {}),
        (reference.gumbel_softmax, torch.float64, {"dtype": torch.float64}),
    ]:
        augment = [h.to(dtype).requires_grad_() for h in (h_u, h_i)]
        rows = op(graph, users, 0.2, 5, 2, augment=augment, **options, **more)
        weight = torch.linspace(-1, 2, rows.numel(), dtype=torch.float64).view(rows.shape).cos().to(dtype)
        results.append((rows, *torch.autograd.grad(rows, augment, weight)))
    for parts in zip(*results, strict=True):
        # What is along the row cancels in a gradient through row_l2: all of it where a row has one entry.
        assert_as_accurate(*parts, tiny=1e-6 * max(1, parts[-1].abs().max().item() if parts[-1].numel() else 0))


@pytest.mark.parametrize("method", ["dense", "order_statistics"])
@pytest.mark.parametrize("row_l2", [False, True])
def test_gumbel_softmax_float64_augment(method, row_l2):
    """The noise of float64 rows is float32's; everything after it is float64's."""
    graph = random_graph(41, 401, 0.05)
    users = some_users(graph)
    augment = normal(len(users), 19, seed=1).requires_grad_(), normal(401, 19, seed=2).requires_grad_()
    softmax = gumbel_softmax(graph, users, 0.2, 5, augment=augment, method=method)
    assert softmax.dtype == torch.float64
    assert_close(softmax, gumbel_softmax(graph, users, 0.2, 5, method=method), torch.float32)
    rows = gumbel_softmax(graph, users, 0.2, 5, augment=augment, zeta=0.3, row_l2=row_l2, method=method)
    expected = softmax.detach() + 0.3 * reference.cosine_block(*augment)
    expected = reference.unit_rows(expected) if row_l2 else expected
    assert_close(rows, expected)
    weight = normal(*rows.shape, seed=4)
    gradients = [torch.autograd.grad(y, augment, weight) for y in (rows, expected)]
    for parts in zip(*gradients, strict=True):
        assert_close(*parts)


def test_gumbel_softmax_bfloat16_augment_is_computed_in_float32():
    graph = random_graph(9, 41, 0.1)
    augment = normal(9, 19, dtype=torch.bfloat16, seed=1), normal(41, 19, dtype=torch.bfloat16, seed=2)
    rows = gumbel_softmax(graph, torch.arange(9), 0.2, 5, augment=augment, zeta=0.3)
    same = gumbel_softmax(graph, torch.arange(9), 0.2, 5, augment=[h.float() for h in augment], zeta=0.3)
    assert rows.dtype == torch.float32 and torch.equal(rows, same)


@pytest.mark.parametrize("method", ["dense", "order_statistics"])
@pytest.mark.parametrize("row_l2", [False, True])
def test_gumbel_softmax_gradcheck(row_l2, method):
    graph = random_graph(5, 7, 0.3)
    users = torch.tensor([4, 1, 1])
    h_u, h_i = normal(3, 3, seed=1).requires_grad_(), normal(3, 7, seed=2).T.requires_grad_()

    def op(h_u, h_i):
        augment = h_u[:1].expand(3, 3), h_i
        return gumbel_softmax(graph, users, 0.3, 5, augment=augment, zeta=0.7, row_l2=row_l2, method=method)

    assert torch.autograd.gradcheck(op, (h_u, h_i))
    assert torch.autograd.gradgradcheck(op, (h_u, h_i))


def test_gumbel_softmax_zero_vectors_have_gradient_zero():
    graph = random_graph(5, 7, 0.3)
    augment = torch.zeros(5, 3).requires_grad_(), torch.zeros(7, 3).requires_grad_()
    rows = gumbel_softmax(graph, torch.arange(5), 0.3, 5, augment=augment, zeta=100.0, row_l2=True)
    for gradient in torch.autograd.grad(rows.square().sum(), augment):
        assert torch.equal(gradient, torch.zeros_like(gradient))


@pytest.mark.parametrize("method", ["dense", "order_statistics"])
def test_gumbel_softmax_row_l2_without_augment(method):
    graph = random_graph(41, 401, 0.05)
    rows = gumbel_softmax(graph, torch.arange(41), 0.2, 5, row_l2=True, method=method)
    assert_close(rows, reference.unit_rows(gumbel_softmax(graph, torch.arange(41), 0.2, 5, method=method)))


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", GRAPHS)
def test_gumbel_lse_and_tiles(shape, tau):
    graph = random_graph(*shape)
    users = some_users(graph)
    seen = graph.rows(users)
    logits = reference.gumbel_logits(seen.crow, seen.col, users, graph.n_items, tau, 5, 2, dtype=torch.float64)
    lse = gumbel_lse(graph, users, tau, 5, 2)
    torch.testing.assert_close(lse, logits.logsumexp(1), atol=TINY / tau + 1e-6, rtol=0)
    whole = gumbel_tile(graph, users, lse, 0, graph.n_items, tau, 5, 2)
    assert_as_accurate(whole, logits.float().softmax(1), logits.softmax(1), TINY / tau)
    assert_close(whole.double().sum(1), torch.ones(len(users)), torch.float32)
    for width in (1, 41, 64, 300):
        if graph.n_items / width > 50:
            continue
        cuts = [*range(0, graph.n_items, width), graph.n_items]
        tiles = [gumbel_tile(graph, users, lse, a, b, tau, 5, 2) for a, b in itertools.pairwise(cuts)]
        assert torch.equal(torch.cat(tiles, 1), whole)


def test_gumbel_tiles_sum_to_one_at_a_low_temperature():
    """τ·lse is near 1 here: as one float32 it would be off by 6e-8, over τ that is 6e-5 of every weight."""
    graph, users = random_graph(41, 401, 0.05), torch.arange(41)
    lse = gumbel_lse(graph, users, 1e-3, 5, noise_scale=3e-3)
    tile = gumbel_tile(graph, users, lse, 0, 401, 1e-3, 5, noise_scale=3e-3)
    torch.testing.assert_close(tile.double().sum(1), torch.ones(41).double(), atol=2e-6, rtol=0)


def test_gumbel_softmax_does_not_depend_on_the_batch_or_the_threads(threads):
    graph = random_graph(401, 1271, 0.02)
    users, augment = torch.arange(401), (normal(401, 8, dtype=torch.float32), normal(1271, 8, dtype=torch.float32))
    for method in ("dense", "order_statistics"):
        results, parts = [], []
        for count in (1, 2, 3):
            threads(count)
            plain = gumbel_softmax(graph, users, 0.2, 5, method=method)
            results.append((plain, gumbel_softmax(graph, users, 0.2, 5, augment=augment, zeta=0.5, method=method)))
        for other in results[1:]:
            assert torch.equal(results[0][0], other[0])
            assert_close(results[0][1], other[1])  # the product's own sums may depend on the threads
        parts = [gumbel_softmax(graph, users[a : a + 100], 0.2, 5, method=method) for a in range(0, 401, 100)]
        assert torch.equal(torch.cat(parts), results[0][0])


def test_gumbel_softmax_seed_and_offset_change_the_noise():
    graph, users = random_graph(9, 41, 0.1), torch.arange(9)
    rows = [
        gumbel_softmax(graph, users, 0.5, seed, offset) for seed, offset in [(1, 0), (1, 1), (2, 0), (1 + 2**32, 0)]
    ]
    for i, one in enumerate(rows):
        assert all((one != other).any() for other in rows[:i])
    assert torch.equal(rows[1], gumbel_softmax(graph, users, 0.5, torch.tensor(1), torch.tensor(1)))


@pytest.mark.parametrize("method", ["dense", "order_statistics"])
def test_gumbel_softmax_empty(method):
    graph = random_graph(9, 41, 0.1)
    assert gumbel_softmax(graph, torch.empty(0, dtype=torch.int64), 0.5, 1, method=method).shape == (0, 41)
    nothing = InteractionGraph.from_pairs([], [], 3, 0)
    assert gumbel_softmax(nothing, torch.arange(3), 0.5, 1, method=method, row_l2=True).shape == (3, 0)


def test_gumbel_softmax_int64_columns():
    graph, users = random_graph(9, 41, 0.1), torch.arange(9)
    rows = gumbel_softmax(graph, users, 0.5, 1)
    graph.col = graph.col.long()
    assert torch.equal(gumbel_softmax(graph, users, 0.5, 1), rows)


@pytest.mark.parametrize("order_statistics", [False, True])
@pytest.mark.parametrize("row_l2", [False, True])
def test_gumbel_softmax_opcheck(row_l2, order_statistics):
    graph = random_graph(5, 7, 0.3)
    augment = normal(5, 3, seed=1).requires_grad_(), normal(7, 3, seed=2).requires_grad_()
    for pair in (augment, (None, None)):
        noise = 0.3, torch.tensor([5, 0]), 1.0
        arguments = (graph.crow, graph.col, torch.arange(5), *pair, 7, *noise, 0.7, row_l2, order_statistics, 0)
        torch.library.opcheck(torch.ops.mmssl_fast.gumbel_softmax, arguments)


def test_gumbel_tiles_opcheck():
    graph, users = random_graph(5, 7, 0.3), torch.arange(5)
    ops, rest = torch.ops.mmssl_fast, (0.3, torch.tensor([5, 0]), 1.0)
    torch.library.opcheck(ops.gumbel_lse, (graph.crow, graph.col, users, 7, *rest))
    lse = gumbel_lse(graph, users, 0.3, 5)
    torch.library.opcheck(ops.gumbel_tile, (graph.crow, graph.col, users, lse, 7, 2, 6, *rest))


def test_gumbel_softmax_compiles_fullgraph_once_for_all_steps():
    graph, users = random_graph(41, 401, 0.05), torch.arange(41)
    augment = normal(41, 8, seed=1).requires_grad_(), normal(401, 8, seed=2).requires_grad_()

    def step(seed, offset, h_u, h_i):
        rows = gumbel_softmax(graph, users, 0.2, seed, offset, augment=(h_u, h_i), zeta=0.5, row_l2=True)
        return rows.square().cos()

    torch._dynamo.reset()
    graphs = torch._dynamo.testing.CompileCounterWithBackend("aot_eager")
    compiled = torch.compile(step, fullgraph=True, backend=graphs)
    for offset in range(12):
        actual, expected = compiled(2**63 - 5, offset, *augment), step(2**63 - 5, offset, *augment)
        assert_close(actual, expected)
        grads = [torch.autograd.grad(y.sum(), augment) for y in (actual, expected)]
        for parts in zip(*grads, strict=True):
            assert_close(*parts)
    assert graphs.frame_count <= 3


LEVELS = build_info()["isa_levels"][: build_info()["isa_levels"].index(build_info()["isa"])]


@pytest.mark.parametrize("level", LEVELS)
def test_gumbel_softmax_on_lower_instruction_sets(level, tmp_path):
    code = f"""
import torch, test_gumbel_softmax as t
t.level_results("{tmp_path}/rows.pt")
"""
    environment = {
        **os.environ,
        "MMSSL_FAST_ISA": level,
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join(sys.path),
    }
    subprocess.run([sys.executable, "-P", "-c", code], env=environment, check=True)
    here = level_results()
    for name, other in torch.load(tmp_path / "rows.pt").items():
        assert other["isa"] == level and torch.equal(other["bits"], here[name]["bits"])
        torch.testing.assert_close(other["rows"], here[name]["rows"], atol=TINY / float(name), rtol=0)
        torch.testing.assert_close(other["augmented"], here[name]["augmented"], atol=TINY / float(name), rtol=0)


def level_results(path=None):
    graph, users = random_graph(41, 401, 0.05), torch.arange(41)
    augment = normal(41, 8, dtype=torch.float32, seed=1), normal(401, 8, dtype=torch.float32, seed=2)
    results = {
        str(tau): {
            "isa": build_info()["isa"],
            "bits": torch.ops.mmssl_fast.philox_bits(users, 401, torch.tensor([5, 2]), 0),
            "rows": gumbel_softmax(graph, users, tau, 5, 2, method="dense"),
            "augmented": gumbel_softmax(
                graph, users, tau, 5, 2, augment=augment, zeta=0.5, row_l2=True, method="dense"
            ),
        }
        for tau in (0.2, 1.0)
    }
    if path:
        torch.save(results, path)
    return results


GRAPH = random_graph(9, 41, 0.1)
GOOD = {"graph": GRAPH, "users": torch.arange(9), "tau": 0.5, "seed": 1}


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tau": 0.0}, "tau must be positive, got 0.0"),
        ({"tau": -1.0}, "tau must be positive, got -1.0"),
        ({"tau": float("nan")}, "tau must be positive, got nan"),
        ({"tau": float("inf")}, "tau must be positive, got inf"),
        ({"tau": 1e-40}, "tau must be at least 1e-30"),
        ({"noise_scale": -0.5}, "noise_scale must not be negative, got -0.5"),
        ({"noise_scale": float("nan")}, "noise_scale must not be negative, got nan"),
        ({"method": "sparse"}, "method must be one of auto, dense, order_statistics, got 'sparse'"),
        ({"method": "order_statistics", "tau": 1.0}, r"order statistics need tau / noise_scale < 1, got 1.0 / 1.0"),
        ({"seed": 2**64}, "seed must fit in 64 bits"),
        ({"offset": -1}, "offset must be in"),
        ({"users": torch.tensor([0, 9])}, r"users\[1\] = 9 is outside \[0, 9\)"),
        ({"users": torch.tensor([-1])}, r"users\[0\] = -1 is outside \[0, 9\)"),
        ({"users": torch.tensor([0.0])}, r"users must be int64 or int32 \[B\], got float32"),
        ({"augment": (torch.zeros(8, 3), torch.zeros(41, 3))}, r"h_u must be \[9, d\], got \[8, 3\]"),
        ({"augment": (torch.zeros(9, 3), torch.zeros(41, 4))}, r"h_i must be \[41, 3\], got \[41, 4\]"),
        ({"augment": (torch.zeros(9, 3), torch.zeros(41, 3).double())}, "h_u and h_i must both be float32 or both"),
    ],
)
def test_gumbel_softmax_refuses(change, message):
    with pytest.raises(ValueError, match=r"^gumbel_softmax: .*" + message):
        gumbel_softmax(**(GOOD | change))


def test_gumbel_softmax_refuses_arrays_that_are_no_graph():
    crow, col, users = torch.tensor([0, 2, 3]), torch.tensor([1, 1, 0]), torch.arange(2)
    for change, message in [
        ({}, "the items of user 0 must be ascending, but 1 comes after 1"),
        ({"col": torch.tensor([0, 5, 0])}, "user 0 has item 5, but there are 3 items"),
        ({"crow": torch.tensor([0, 1, 4])}, r"the items of user 1 have the offsets \[1, 4\), but there are 3 entries"),
    ]:
        arguments = {"crow": crow, "col": col} | change
        with pytest.raises(ValueError, match=r"^gumbel_lse: " + message):
            torch.ops.mmssl_fast.gumbel_lse(*arguments.values(), users, 3, 0.5, torch.tensor([1, 0]), 1.0)
    lse = torch.zeros(9, dtype=torch.float64)
    with pytest.raises(ValueError, match=r"^gumbel_tile: the columns \[30, 42\) must be within \[0, 41\)"):
        gumbel_tile(GRAPH, torch.arange(9), lse, 30, 42, 0.5, 1)
    with pytest.raises(ValueError, match=r"^gumbel_tile: lse must be float64 \[9\], got Float"):
        gumbel_tile(GRAPH, torch.arange(9), lse.float(), 0, 41, 0.5, 1)
