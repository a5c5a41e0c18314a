"""cosine_topk against a stable sort of the whole matrix."""

import math

import pytest
import torch
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.graph import SeenRows
from mmssl_fast.ops.cosine_topk import cosine_topk

pytestmark = pytest.mark.usefixtures("poison")

# rows, items, d, share of items seen
SHAPES = [
    (41, 401, 64, 0.05),
    (1, 1271, 41, 0.3),
    (65, 1025, 8, 0.0),
    (7, 1, 3, 0.5),
    (1, 1, 1, 0.0),
    (130, 2113, 17, 0.9),
]


def factors(rows, items, d, dtype=torch.float64, whole=True, seed=0):
    """whole: small integers, so that every product is exact and many tie."""
    random = torch.Generator().manual_seed(seed)
    if whole:
        u, v = (torch.randint(-3, 4, (n, d), generator=random) for n in (rows, items))
    else:
        u, v = (torch.randn(n, d, generator=random, dtype=torch.float64) for n in (rows, items))
    return u.to(dtype), v.to(dtype)


def seen_rows(rows, items, share, index=torch.int64, seed=1):
    present = torch.rand(rows, items, generator=torch.Generator().manual_seed(seed)) < share
    if rows > 2:
        present[1] = False
        present[2] = True
    crow = torch.zeros(rows + 1, dtype=torch.int64)
    crow[1:] = present.sum(1).cumsum(0)
    return SeenRows(crow, present.nonzero()[:, 1].to(index))


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("k", [1, 2, 20, 63, 64, 65, 128, 129, 1500])
@pytest.mark.parametrize("shape", SHAPES)
def test_cosine_topk_orders_ties_by_item(shape, k, dtype):
    rows, items, d, share = shape
    u, v = factors(rows, items, d, dtype)
    seen = seen_rows(rows, items, share)
    values, found = cosine_topk(u, v, k, seen, "dot")
    truth, expected = reference.cosine_topk(u.double(), v.double(), k, seen, "dot")
    assert values.dtype == dtype and found.dtype == torch.int64
    assert torch.equal(values, truth.to(dtype))
    assert torch.equal(found, expected)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
@pytest.mark.parametrize("index", [torch.int32, torch.int64])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_cosine_topk_values(kind, index, dtype):
    u, v = factors(41, 1271, 64, dtype, whole=False)
    v[5] = 0
    u[3] = 0
    seen = seen_rows(41, 1271, 0.1, index)
    values, found = cosine_topk(u, v, 20, seen, kind)
    plain, _ = reference.cosine_topk(u, v, 20, seen, kind)
    truth, expected = reference.cosine_topk(u.double(), v.double(), 20, seen, kind)
    full = truth > -math.inf
    assert torch.equal(values > -math.inf, full)
    assert_as_accurate(values[full], plain[full], truth[full])
    scores = reference.cosine_block(u.double(), v.double(), kind=kind)
    assert torch.equal(found == -1, expected == -1)
    # Whatever rounding did to their order, the items are among the best and none is seen.
    gap = truth[:, :1] - scores.gather(1, found.clamp(min=0)) - (truth[:, :1] - truth)
    assert gap[full].abs().max() < 1e-5 * truth[full].abs().max()
    assert not reference.seen_mask(seen.crow, seen.col, 1271).gather(1, found.clamp(min=0))[full].any()
    assert all(row[row >= 0].unique().numel() == (row >= 0).sum() for row in found)


def test_cosine_topk_where_every_value_ties():
    u, v = torch.ones(3, 4), torch.ones(3000, 4)
    for k in (1, 20, 100, 300, 3000):
        values, found = cosine_topk(u, v, k, kind="dot")
        assert (values == 4).all()
        assert torch.equal(found, torch.arange(k).expand(3, k))
    values, found = cosine_topk(torch.zeros(2, 4), torch.randn(3000, 4), 50)
    assert (values == 0).all() and torch.equal(found, torch.arange(50).expand(2, 50))


@pytest.mark.parametrize("order", ["ascending", "descending"])
def test_cosine_topk_of_sorted_values(order):
    v = torch.arange(5000, dtype=torch.float32)[:, None]
    v = v if order == "ascending" else v.flip(0)
    for k in (1, 20, 64, 400, 5000):
        values, found = cosine_topk(torch.tensor([[1.0], [-1.0]]), v, k, kind="dot")
        top = torch.arange(4999, 4999 - k, -1)
        assert torch.equal(values, torch.stack((top.float(), torch.arange(k) * -1.0)))
        best = top if order == "ascending" else torch.arange(k)
        assert torch.equal(found, torch.stack((best, 4999 - best)))


def test_cosine_topk_of_few_rows_and_many_items():
    """Few rows: the catalogue is cut in parts, which are merged."""
    u, v = factors(3, 40_001, 5, torch.float32)
    seen = seen_rows(3, 40_001, 0.5)
    for k in (1, 20, 200, 10_000, 40_001):
        values, found = cosine_topk(u, v, k, seen, "dot")
        truth, expected = reference.cosine_topk(u, v, k, seen, "dot")
        assert torch.equal(values, truth) and torch.equal(found, expected)


def test_cosine_topk_unsorted_seen_rows():
    u, v = factors(2, 3000, 5)
    seen = SeenRows(torch.tensor([0, 3, 5]), torch.tensor([2500, 7, 1200, 1, 0]))
    expected = reference.cosine_topk(u, v, 3000, seen, "dot")
    for actual, truth in zip(cosine_topk(u, v, 3000, seen, "dot"), expected, strict=True):
        assert torch.equal(actual, truth)
    assert seen.col.tolist() == [2500, 7, 1200, 1, 0]


def test_cosine_topk_never_returns_nan():
    u, v = torch.ones(2, 1), torch.arange(6.0)[:, None]
    v[4] = torch.nan
    v[1] = -torch.inf
    v[2] = torch.inf
    values, found = cosine_topk(u, v, 6, kind="dot")
    assert found[0].tolist() == [2, 5, 3, 0, -1, -1]
    assert values[0].tolist() == [math.inf, 5, 3, 0, -math.inf, -math.inf]


@pytest.mark.parametrize("rows, items, k", [(0, 5, 2), (3, 0, 2), (3, 5, 0), (0, 0, 0), (2, 3, 7)])
def test_cosine_topk_empty(rows, items, k):
    u, v = factors(rows, items, 4, torch.float32)
    values, found = cosine_topk(u, v, k)
    assert values.shape == found.shape == (rows, k)
    left = min(k, items)
    assert (found[:, left:] == -1).all() and (values[:, left:] == -math.inf).all()
    assert (found[:, :left] >= 0).all()


def test_cosine_topk_of_no_columns_and_of_strided_rows():
    values, found = cosine_topk(torch.empty(2, 0), torch.empty(3, 0), 2)
    assert (values == 0).all() and found.tolist() == [[0, 1], [0, 1]]
    u, v = factors(4, 300, 6)
    expected = cosine_topk(u[:1].expand(4, 6), v, 5, kind="dot")
    actual = cosine_topk(u[:1].expand(4, 6), v.T.contiguous().T, 5, kind="dot")
    assert all(torch.equal(a, b) for a, b in zip(actual, expected, strict=True))


@pytest.mark.parametrize("k", [20, 300, 20_001])
def test_cosine_topk_same_bits_for_any_thread_count(threads, k):
    for rows in (200, 3):
        u, v = factors(rows, 20_001, 64, torch.float32, whole=False)
        results = []
        for count in (1, 2, 3):
            threads(count)
            results.append(cosine_topk(u, v, k))
        for other in results[1:]:
            assert all(torch.equal(a, b) for a, b in zip(results[0], other, strict=True))


def test_cosine_topk_peak_memory_is_not_rows_by_items():
    u, v = factors(2000, 4000, 8, torch.float32)

    def largest(op):
        with torch.profiler.profile(profile_memory=True) as profile:
            op(u, v, 10)
        return max(event.self_cpu_memory_usage for event in profile.key_averages())

    matrix = 2000 * 4000 * 4
    assert largest(reference.cosine_topk) >= matrix
    assert largest(cosine_topk) < matrix / 4


def test_cosine_topk_is_detached_opchecked_and_compiles():
    u, v = factors(5, 401, 3)
    seen = seen_rows(5, 401, 0.1)
    values, _ = cosine_topk(u.requires_grad_(), v, 4, seen)
    assert not values.requires_grad
    u = u.detach()
    for crow, col in ((None, None), seen):
        torch.library.opcheck(torch.ops.mmssl_fast.cosine_topk, (u, v, 4, crow, col))
    compiled = torch.compile(lambda u, v: cosine_topk(u, v, 4, seen), fullgraph=True, backend="aot_eager")
    assert all(torch.equal(a, b) for a, b in zip(compiled(u, v), cosine_topk(u, v, 4, seen), strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": -1}, "k must not be negative, got -1"),
        ({"kind": "angle"}, "kind must be one of"),
        ({"u": torch.zeros(2, 4)}, "u and v must have the same width, got 4 and 3"),
        ({"v": torch.zeros(5, 3, dtype=torch.float64)}, "u and v must have the same dtype, got Float and Double"),
        ({"u": torch.zeros(3)}, r"u must be \[B, d\]"),
        ({"seen": SeenRows(torch.tensor([0, 1]), torch.tensor([1]))}, "crow must have 3 offsets for 2 rows, got 2"),
        ({"seen": SeenRows(torch.tensor([0, 1, 2]), torch.tensor([1, 5]))}, r"col\[1\] = 5 is outside \[0, 5\)"),
        ({"u": torch.zeros(2, 3).half(), "v": torch.zeros(5, 3).half()}, "values must be float32, float64 or bfloat16"),
    ],
)
def test_cosine_topk_refuses(change, message):
    arguments = {"u": torch.zeros(2, 3), "v": torch.zeros(5, 3), "k": 2}
    with pytest.raises(ValueError, match="^cosine_topk: .*" + message):
        cosine_topk(**(arguments | change))
