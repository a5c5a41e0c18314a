"""cosine_topk and RelationRows.topk against the whole matrix: matmul, mask, topk."""

import pytest
import torch
import torch.nn.functional as F
from registry import SHAPES, Shape, compare, normal
from roofline import Work

from mmssl_fast import RelationRows
from mmssl_fast.ops.cosine_topk import cosine_topk

# 50 thousand items, and as many users as keep the peer's matrix under a gigabyte.
WIDE = Shape("50k_items", 4096, 50_000, 200_000, (64,))


@pytest.mark.parametrize("k", [20, 100])
@pytest.mark.parametrize("shape", [SHAPES["tiktok"], WIDE], ids=str)
def test_cosine_topk(benchmark, shape, k):
    u, v = (normal(n, 64, seed=n) for n in (shape.users, shape.items))
    seen = shape.graph().rows(torch.arange(shape.users))
    row, col = torch.repeat_interleave(torch.arange(shape.users), seen.crow.diff()), seen.col.long()

    def peer():
        scores = F.normalize(u) @ F.normalize(v).T
        scores[row, col] = -torch.inf
        return scores.topk(k)

    def check(actual, expected):
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-6)
        assert (actual[1] == expected[1]).float().mean() > 0.99  # near ties may swap

    work = Work(
        bytes=4 * 64 * (shape.users + shape.items) + 12 * k * shape.users,
        matrix_flops=2 * 64 * shape.users * shape.items,
    )
    compare(
        benchmark,
        lambda: cosine_topk(u, v, k, seen),
        peer,
        check,
        shape=shape,
        k=k,
        d=64,
        work=work,
        peer_name="matmul, mask, topk",
        rounds=10 if shape is WIDE else 20,
    )


@pytest.mark.parametrize("k", [1, 20, 67, 134, 335, 1000, 6710])
@pytest.mark.parametrize("way", ["cosine_topk", "RelationRows.topk"])
def test_any_k(benchmark, way, k):
    shape = SHAPES["tiktok"]
    n_rows = 1024
    u, v = (F.normalize(normal(n, 64, seed=n)) for n in (n_rows, shape.items))
    seen = shape.graph().rows(torch.arange(n_rows))
    row, col = torch.repeat_interleave(torch.arange(n_rows), seen.crow.diff()), seen.col.long()
    rows = RelationRows.generated(u, v, "dot", seen)

    def peer():
        if way == "RelationRows.topk":
            return rows.dense().topk(k)
        scores = u @ v.T
        scores[row, col] = -torch.inf
        return scores.topk(k)

    def check(actual, expected):
        torch.testing.assert_close(actual[0], expected[0], rtol=1e-4, atol=1e-6)

    work = Work(bytes=4 * 64 * (n_rows + shape.items) + 12 * k * n_rows, matrix_flops=2 * 64 * n_rows * shape.items)
    ours = (lambda: cosine_topk(u, v, k, seen, "dot")) if way == "cosine_topk" else (lambda: rows.topk(k))
    compare(benchmark, ours, peer, check, shape=shape, k=k, rows=n_rows, d=64, work=work, peer_name="dense", rounds=5)
