"""The Triton kernels of cosine_topk: on a GPU where there is one, else in Triton's interpreter."""

import math

import pytest
import torch
from csr_blocks import normal, padded_seen
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.graph import SeenRows

pytest.importorskip("triton", reason="triton is not installed")
from mmssl_fast.kernels import cosine_topk as kernels
from mmssl_fast.kernels import shapes
from mmssl_fast.kernels.cosine_topk import cosine_topk

pytestmark = pytest.mark.usefixtures("poison")

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
# rows, items, d, k, share of items seen: several tiles of both, k beyond the items, one row, one item, none, d beyond
# a block, a full list
SHAPES = [
    (70, 131, 8, 5, 0.02),
    (3, 41, 3, 60, 0.3),
    (1, 401, 5, 20, 0.05),
    (7, 1, 3, 2, 0.5),
    (2, 90, 150, 3, 0.0),
    (0, 5, 3, 2, 0.0),
    (2, 0, 3, 2, 0.0),
    (2, 5, 0, 2, 0.4),
    (2, 5, 3, 0, 0.4),
    (2, 131, 2, 128, 0.05),
    (70, 401, 8, 129, 0.02),
    (7, 150, 41, 150, 0.9),
    (1, 301, 3, 400, 0.3),
]


def integers(n, d, seed, dtype=torch.float32):
    """Small integers: every product is exact and many tie."""
    return torch.randint(-3, 4, (n, d), generator=torch.Generator().manual_seed(seed)).to(DEVICE, dtype)


def seen_rows(*shape):
    return SeenRows(*(x.to(DEVICE) for x in padded_seen(*shape)))


def expected(u, v, k, seen):
    """reference.cosine_topk in float64, of the part of `col` that counts."""
    seen = seen and SeenRows(seen.crow, seen.col[: int(seen.crow[-1])])
    return reference.cosine_topk(u.double(), v.double(), k, seen, "dot")


@pytest.mark.parametrize("shape", SHAPES)
def test_values_and_items(shape):
    rows, items, d, k, share = shape
    u, v = integers(rows, d, 1), integers(items, d, 2)
    seen = seen_rows(rows, items, share, torch.int32 if rows % 2 else torch.int64) if share else None
    values, found = cosine_topk(u, v, k, *(seen or (None, None)))
    truth, best = expected(u, v, k, seen)
    assert values.dtype == torch.float32 and found.dtype == torch.int64
    assert torch.equal(values.double(), truth)
    assert torch.equal(found, best)


def test_similarities_are_as_accurate_as_torch():
    u, v = (reference.unit_rows(normal(n, 41, seed=n)).to(DEVICE) for n in (33, 80))
    values, found = cosine_topk(u.float(), v.float(), 5, None, None)
    truth = (u @ v.mT).gather(1, found)
    plain = (u.float() @ v.float().mT).gather(1, found)
    assert_as_accurate(values, plain, truth)
    assert (values[:, :-1] >= values[:, 1:]).all()


@pytest.mark.parametrize("k", [4, 160])
def test_float64(k):
    u, v = integers(5, 4, 1, torch.float64), integers(200, 4, 2, torch.float64)
    values, found = cosine_topk(u, v, k, None, None)
    truth, best = expected(u, v, k, None)
    assert values.dtype == torch.float64 and torch.equal(values, truth) and torch.equal(found, best)


@pytest.mark.parametrize("most", [1, 3, 10])
def test_one_part_or_many_merged_at_once_or_in_rounds(most, monkeypatch):
    u, v, seen = integers(2, 5, 1), integers(401, 5, 2), seen_rows(2, 401, 0.05)
    monkeypatch.setattr(shapes, "parts_of", lambda tiles, others: most)
    monkeypatch.setattr(kernels, "MIN_TILES", 1)
    monkeypatch.setattr(kernels, "MERGE_ELEMENTS", 32)
    for a, b in zip(cosine_topk(u, v, 5, *seen), expected(u, v, 5, seen), strict=True):
        assert torch.equal(a.double(), b.double())


@pytest.fixture(scope="module")
def short():
    """Two factors, seen rows, and their lists of 100, which the kernel finds without sorting whole rows."""
    given = integers(9, 41, 1), integers(300, 41, 2), seen_rows(9, 300, 0.05)
    return *given, cosine_topk(*given[:2], 100, *given[2])


@pytest.mark.parametrize("at_once", [1, 700, 10**6])
def test_long_lists_are_those_of_short_ones_by_blocks_of_rows(at_once, short, monkeypatch):
    u, v, seen, (first_values, first) = short
    monkeypatch.setattr(kernels, "SORT_ELEMENTS", at_once)
    values, found = cosine_topk(u, v, 300, *seen)
    assert torch.equal(values[:, :100], first_values) and torch.equal(found[:, :100], first)
    assert torch.equal((found < 0).sum(1), seen.crow.diff())
    assert torch.equal(found < 0, values == -math.inf)


def test_long_lists_where_every_value_ties():
    values, found = cosine_topk(torch.zeros(3, 4, device=DEVICE), integers(200, 4, 2), 150, None, None)
    assert (values == 0).all() and found.tolist() == [list(range(150))] * 3


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_long_lists_never_hold_nan():
    v = torch.arange(200.0, device=DEVICE)[:, None]
    v[7], v[8] = math.nan, -math.inf
    values, found = cosine_topk(torch.ones(1, 1, device=DEVICE), v, 200, None, None)
    assert found[0].tolist() == [i for i in range(199, -1, -1) if i not in (7, 8)] + [-1, -1]
    assert values[0, -2:].tolist() == [-math.inf] * 2


@pytest.mark.filterwarnings("ignore:invalid value encountered in matmul")
def test_nan_and_minus_infinity_are_never_returned():
    v = torch.tensor([[1.0], [math.nan], [-math.inf], [2.0], [math.inf]], device=DEVICE)
    values, found = cosine_topk(torch.ones(1, 1, device=DEVICE), v, 4, None, None)
    assert values.tolist() == [[math.inf, 2.0, 1.0, -math.inf]]
    assert found.tolist() == [[4, 3, 0, -1]]


@pytest.mark.skipif(DEVICE == "cpu", reason="Triton's interpreter has no bfloat16 arithmetic")
def test_bfloat16_is_ordered_in_float32():
    u, v = normal(9, 64, seed=1).to(DEVICE, torch.bfloat16), normal(700, 64, seed=2).to(DEVICE, torch.bfloat16)
    values, found = cosine_topk(u, v, 20, None, None)
    truth = (u.double() @ v.double().mT).gather(1, found)
    torch.testing.assert_close(values.double(), truth, rtol=2**-8, atol=0)


@pytest.mark.parametrize(
    "change, message",
    [
        ({"k": -1}, "k must not be negative, got -1"),
        ({"u": torch.zeros(2, 4)}, "u and v must have the same width, got 4 and 3"),
        ({"v": torch.zeros(5, 3, dtype=torch.float64)}, "u and v must have the same dtype, got float32 and float64"),
        ({"u": torch.zeros(3)}, r"u must be \[B, d\], got \(3,\)"),
        ({"u": torch.zeros(2, 3).half(), "v": torch.zeros(5, 3).half()}, "values must be float32, float64 or bfloat16"),
        ({"crow": torch.tensor([0, 1, 1])}, "pass both or neither of crow and col, got only crow"),
        ({"crow": torch.tensor([0, 1]), "col": torch.tensor([1])}, "crow must have 3 offsets for 2 rows, got 2"),
        ({"crow": torch.tensor([0, 1, 1]), "col": torch.tensor([1.0])}, "col must be contiguous int32 or int64"),
    ],
)
def test_refuses(change, message):
    arguments = {"u": torch.zeros(2, 3), "v": torch.zeros(5, 3), "k": 2, "crow": None, "col": None}
    with pytest.raises(ValueError, match="^cosine_topk: .*" + message):
        cosine_topk(**(arguments | change))
