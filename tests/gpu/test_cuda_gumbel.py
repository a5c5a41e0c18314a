"""csrc/cuda's Gumbel rows on the emulator: the CPU's draws to the bit, its values to rounding."""

import itertools

import pytest
import torch
from csr_blocks import normal, random_graph
from test_gumbel_order_statistics import CASES
from test_gumbel_softmax import GRAPHS, TAUS, TINY, some_users, truth
from tolerances import assert_as_accurate, assert_close

from mmssl_fast import reference, static_shapes
from mmssl_fast.ops.gumbel_linear import GraphRows
from mmssl_fast.ops.gumbel_method import draw_capacity, entry_capacity, expected_draws

pytestmark = pytest.mark.usefixtures("poison")

AT = torch.tensor([5, 2])
LONG = 24_700  # items whose rows do not fit shared memory: two passes and two stretches of gumbel_lse


def graph_of(shape, index=torch.int32):
    graph = random_graph(*shape)
    graph.col = graph.col.to(index)
    return graph


def lse_truth(graph, users, tau, noise_scale=1.0):
    seen = graph.rows(users)
    return reference.gumbel_logits(
        seen.crow, seen.col, users, graph.n_items, tau, 5, 2, noise_scale, torch.float64
    ).logsumexp(1)


@pytest.mark.parametrize("tau", [1e-3, 0.05, 0.2, 1.0, 5.0])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("shape", [*GRAPHS, (3, LONG, 0.001)])
def test_lse_and_tiles(emulated, shape, index, tau):
    graph = graph_of(shape, index)
    users, n_items = some_users(graph), graph.n_items
    where = graph.crow, graph.col, users
    lse = emulated.gumbel_lse(*where, n_items, tau, AT, 1.0)
    expected = lse_truth(graph, users, tau)
    assert lse.dtype == torch.float64
    assert ((lse - expected).abs() <= TINY / tau + 1e-7 * expected.abs() + 2e-6).all()
    rows = truth(graph, users, tau)
    for first, last in ((0, n_items), (n_items // 3, n_items - n_items // 5), (n_items // 2, n_items // 2)):
        tile = emulated.gumbel_tile(*where, expected, n_items, first, last, tau, AT, 1.0)
        plain = reference.gumbel_softmax(graph, users, tau, 5, 2)[:, first:last]
        assert_as_accurate(tile, plain, rows[:, first:last], TINY / tau)
        assert torch.equal(tile[0], tile[-1])


def test_tiles_do_not_depend_on_the_tiling(emulated):
    graph = graph_of((5, 9000, 0.01))
    where = graph.crow, graph.col, torch.arange(5)
    lse = emulated.gumbel_lse(*where, 9000, 0.2, AT, 1.0)
    whole = emulated.gumbel_tile(*where, lse, 9000, 0, 9000, 0.2, AT, 1.0)
    cuts = [0, 1, 67, 4096, 4099, 8197, 9000]
    tiles = [emulated.gumbel_tile(*where, lse, 9000, a, b, 0.2, AT, 1.0) for a, b in itertools.pairwise(cuts)]
    assert torch.equal(torch.cat(tiles, 1), whole)


@pytest.mark.parametrize("noise_scale", [0.0, 0.01, 3.0])
def test_lse_with_scaled_noise(emulated, noise_scale):
    graph = graph_of((41, 401, 0.05))
    users = some_users(graph)
    lse = emulated.gumbel_lse(graph.crow, graph.col, users, 401, 0.5, AT, noise_scale)
    assert_close(lse, lse_truth(graph, users, 0.5, noise_scale), torch.float32)


def test_tile_at_the_end_of_two_billion_items(emulated):
    n_items = 2**31 - 1
    crow, col = torch.tensor([0, 0, 3, 4]), torch.tensor([5, n_items - 40, n_items - 1, 7])
    users, lse = torch.tensor([2, 1]), torch.full((2,), 30.0, dtype=torch.float64)
    arguments = crow, col, users, lse, n_items, n_items - 50, n_items, 0.2, AT, 1.0
    expected = torch.ops.mmssl_fast.gumbel_tile(*arguments)
    torch.testing.assert_close(emulated.gumbel_tile(*arguments), expected, rtol=2e-5, atol=0)


def softmax(
    emulated, graph, users, tau, augment=(None, None), *, noise_scale=1.0, zeta=0.0, row_l2=False, sparse=False
):
    capacity = users.numel() * graph.n_items if sparse else 0
    rows, inverse = emulated.gumbel_softmax(
        graph.crow, graph.col, users, *augment, graph.n_items, tau, AT, noise_scale, zeta, row_l2, sparse, capacity
    )
    assert inverse.shape == users.shape and inverse.dtype == rows.dtype and (row_l2 or (inverse == 1).all())
    return rows, inverse


@pytest.mark.parametrize("tau", TAUS)
@pytest.mark.parametrize("shape", [*GRAPHS, (3, LONG, 0.001)])
def test_softmax_values(emulated, shape, tau):
    graph = graph_of(shape)
    users = some_users(graph)
    rows, _ = softmax(emulated, graph, users, tau)
    assert_as_accurate(rows, reference.gumbel_softmax(graph, users, tau, 5, 2), truth(graph, users, tau), TINY / tau)
    assert torch.equal(rows[0], rows[-1])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("sparse", [False, True])
@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("zeta", [0.0, 0.3, 100.0])
@pytest.mark.parametrize("shape", [*GRAPHS, (3, LONG, 0.001)])
def test_softmax_has_the_cpus_rows(emulated, shape, zeta, row_l2, sparse, dtype):
    graph = graph_of(shape, torch.int64)
    users = some_users(graph)
    augment = [reference.unit_rows(normal(n, 19, seed=n)).to(dtype) for n in (len(users), graph.n_items)]
    if zeta == 0:
        augment = [None, None]
    actual = softmax(emulated, graph, users, 0.2, augment, zeta=zeta, row_l2=row_l2, sparse=sparse)
    expected = torch.ops.mmssl_fast.gumbel_softmax(
        graph.crow, graph.col, users, *augment, graph.n_items, 0.2, AT, 1.0, zeta, row_l2, sparse, 0
    )
    for a, b in zip(actual, expected, strict=True):
        # float64: the noise is float32's, in units in the last place of which the two differ
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-6 * max(1.0, zeta))


@pytest.mark.parametrize("noise_scale", [0.0, 0.01, 1.0, 3.0])
@pytest.mark.parametrize("n_items", [401, LONG])
def test_softmax_noise_scale(emulated, noise_scale, n_items):
    graph = graph_of((3, n_items, 0.01))
    users = some_users(graph)
    rows, _ = softmax(emulated, graph, users, 0.5, noise_scale=noise_scale)
    plain = reference.gumbel_softmax(graph, users, 0.5, 5, 2, noise_scale=noise_scale)
    assert_as_accurate(rows, plain, truth(graph, users, 0.5, noise_scale=noise_scale), TINY)


def test_softmax_of_a_zero_row_divided_by_its_length_is_zero(emulated):
    """One item: softmax 1, and -1 times a cosine of 1."""
    graph, ones = graph_of((3, 1, 0.5)), [torch.ones(3, 1), torch.ones(1, 1)]
    for sparse in (False, True):
        rows, inverse = softmax(emulated, graph, torch.arange(3), 0.2, ones, zeta=-1.0, row_l2=True, sparse=sparse)
        assert not rows.any() and not inverse.any()


def order_statistics(emulated, graph, users, tau, at, noise_scale=1.0, capacity=None):
    """The emulated block without its padding, which is checked, and the CPU's."""
    where = graph.crow, graph.col, users, graph.n_items, tau, at, noise_scale
    expected = torch.ops.mmssl_fast.gumbel_order_statistics(*where, 0)
    capacity = expected[1].numel() + 3 if capacity is None else capacity
    crow, col, value = emulated.gumbel_order_statistics(*where, capacity)
    n = int(crow[-1])
    assert col.numel() == value.numel() == capacity and not col[n:].any() and not value[n:].any()
    return (crow, col[:n], value[:n]), expected


def assert_same_draws(actual, expected):
    assert torch.equal(actual[0], expected[0]) and torch.equal(actual[1], expected[1])
    assert actual[1].dtype == expected[1].dtype and actual[2].dtype == torch.float32
    torch.testing.assert_close(actual[2], expected[2], rtol=3e-7, atol=1e-40)


@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("users, items, share, tau, noise_scale", [*CASES, (3, 1271, 0.01, 0.9, 1.0)])
def test_order_statistics_draw_what_the_cpu_draws(emulated, users, items, share, tau, noise_scale, index):
    """Rows of a handful of entries, of more than shared memory holds, and of every item."""
    graph = graph_of((users, items, share), index)
    ids = torch.cat((torch.arange(users).flip(0), torch.tensor([0, 0])))
    at = torch.tensor([2**40 + 1, 3])
    assert_same_draws(*order_statistics(emulated, graph, ids, tau, at, noise_scale))
    assert_same_draws(*order_statistics(emulated, graph, ids[:0], tau, at, noise_scale, capacity=0))


def test_order_statistics_many_rows(emulated):
    """1200 rows: collisions of the shuffle, and lengths from 1 to hundreds."""
    graph = graph_of((1200, 300, 0.02))
    actual, expected = order_statistics(emulated, graph, torch.arange(1200), 0.25, AT)
    assert_same_draws(actual, expected)
    assert actual[0].diff().max() > 256 and actual[0].diff().min() < 32


def test_order_statistics_of_two_billion_items(emulated):
    n_items = 2**31 - 1
    graph = GraphRows(torch.tensor([0, 2, 2, 3]), torch.tensor([3, n_items - 1, n_items - 2]), n_items)
    actual, expected = order_statistics(emulated, graph, torch.arange(3), 0.2, AT)
    assert_same_draws(actual, expected)
    assert actual[1].max() == n_items - 1


@pytest.mark.parametrize("lacking", [1, 10**4])
def test_order_statistics_stop_when_there_is_no_room(emulated, lacking):
    graph = graph_of((9, 401, 0.05))
    where = graph.crow, graph.col, torch.arange(9), 401, 0.2, AT, 1.0
    entries = torch.ops.mmssl_fast.gumbel_order_statistics(*where, 0)[1].numel()
    with pytest.raises(RuntimeError, match="capacity"):
        emulated.gumbel_order_statistics(*where, max(0, entries - lacking))


@pytest.mark.parametrize("tau", [0.05, 0.085, 0.2, 0.25, 0.3])
def test_draw_capacity_holds_and_is_not_wasteful(tau):
    """Distinct users: over 30 batches the most that is drawn is below it, and within a few times the mean. Equal users,
    whose rows are long together: below it too."""
    nothing = torch.zeros(4001, dtype=torch.int64), torch.zeros(0, dtype=torch.int32)
    crow = torch.ops.mmssl_fast.gumbel_order_statistics(*nothing, torch.arange(4000), 10**6, tau, AT, 1.0, 0)[0]
    draws = crow.diff().double()
    batches = draws[torch.randint(0, 4000, (30, 256), generator=torch.Generator().manual_seed(0))].sum(1)
    room = draw_capacity(256, tau, 1.0, 1)
    assert batches.max() < room < 12 * batches.mean() + 1000
    assert 256 * draws.max() < draw_capacity(256, tau, 1.0, 256)
    assert draw_capacity(256, tau, 1.0, 1) <= draw_capacity(256, tau, 1.0, 8) <= draw_capacity(256, tau, 1.0, 256)


def test_capacity_ends_at_every_entry_and_where_order_statistics_do():
    graph, users = graph_of((41, 401, 0.05)), torch.arange(41)
    assert entry_capacity(graph, users, 0.2) == 0
    with static_shapes.forced():
        assert 41 * expected_draws(0.085) < entry_capacity(graph, users, 0.085, max_repeats=1) < 41 * 401
        assert entry_capacity(graph, users, 0.99) == entry_capacity(graph, users, 1.5) == 41 * 401
        assert entry_capacity(graph, users[:0], 0.2) == 0
        full = graph_of((9, 60, 1.0))
        assert entry_capacity(full, torch.arange(9), 0.2) == 9 * 60


@pytest.mark.parametrize("op", ["gumbel_lse", "gumbel_order_statistics", "gumbel_softmax"])
@pytest.mark.parametrize("user", [-1, 41])
def test_a_user_outside_the_graph_stops_the_kernel(emulated, op, user):
    graph, users = graph_of((41, 401, 0.05)), torch.tensor([3, user])
    arguments = {
        "gumbel_lse": (401, 0.2, AT, 1.0),
        "gumbel_order_statistics": (401, 0.2, AT, 1.0, 1000),
        "gumbel_softmax": (None, None, 401, 0.2, AT, 1.0, 0.0, False, False, 0),
    }[op]
    with pytest.raises(RuntimeError, match="n_users"):
        getattr(emulated, op)(graph.crow, graph.col, users, *arguments)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"tau": 0.0}, "tau must be positive, got 0"),
        ({"noise_scale": -1.0}, "noise_scale must not be negative, got -1"),
        ({"seed_offset": torch.tensor([5])}, r"seed_offset must be contiguous int64 \[2\]"),
        ({"users": torch.arange(3).int()}, r"users must be contiguous int64 \[B\]"),
        ({"crow": torch.zeros(0, dtype=torch.int64)}, r"crow must be contiguous int64 \[U \+ 1\]"),
        ({"col": torch.zeros(2, 3).int()}, r"col must be contiguous \[nnz\]"),
        ({"col": torch.zeros(3)}, "indices must be int32 or int64, got Float"),
        ({"n_items": 2**31}, r"n_items must be in \[0, 2\^31\), got 2147483648"),
    ],
)
@pytest.mark.parametrize("op", ["gumbel_lse", "gumbel_order_statistics"])
def test_refuses(emulated, op, change, message):
    graph = graph_of((3, 7, 0.3))
    arguments = {"crow": graph.crow, "col": graph.col, "users": torch.arange(3), "n_items": 7, "tau": 0.2}
    arguments |= {"seed_offset": AT, "noise_scale": 1.0} | ({} if op == "gumbel_lse" else {"capacity": 21}) | change
    with pytest.raises(ValueError, match=f"^{op}: {message}"):
        getattr(emulated, op)(**arguments)


def test_refuses_order_statistics_at_high_temperature(emulated):
    graph = graph_of((3, 7, 0.3))
    with pytest.raises(ValueError, match=r"^gumbel_order_statistics: order statistics need tau / noise_scale < 1"):
        emulated.gumbel_order_statistics(graph.crow, graph.col, torch.arange(3), 7, 1.0, AT, 1.0, 21)
    with pytest.raises(ValueError, match=r"^gumbel_softmax: order statistics need tau / noise_scale < 1"):
        softmax(emulated, graph, torch.arange(3), 1.0, sparse=True)
    with pytest.raises(ValueError, match=r"^gumbel_softmax: augment needs both h_u and h_i"):
        softmax(emulated, graph, torch.arange(3), 0.2, (torch.ones(3, 2), None))
    with pytest.raises(ValueError, match=r"^gumbel_softmax: h_i must be \[7, 2\], got \[6, 2\]"):
        softmax(emulated, graph, torch.arange(3), 0.2, (torch.ones(3, 2), torch.ones(6, 2)))
    with pytest.raises(ValueError, match=r"^gumbel_tile: the columns \[3, 8\) must be within \[0, 7\)"):
        emulated.gumbel_tile(graph.crow, graph.col, torch.arange(3), torch.zeros(3).double(), 7, 3, 8, 0.2, AT, 1.0)
