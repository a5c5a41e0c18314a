"""relation_linear against F.linear of the dense block."""

import pytest
import torch
from relation_cases import carried, catalogue, factors, relative, weights, wide
from tolerances import assert_as_accurate

from mmssl_fast import reference
from mmssl_fast.graph import SeenRows
from mmssl_fast.relation.algebra.parts import DensePart, GeneratedPart, SparsePart, TiledPart
from mmssl_fast.relation.algebra.relation_linear import linear_of_parts, relation_linear

pytestmark = pytest.mark.usefixtures("poison")

# rows, items, d, hidden
SHAPES = [(13, 41, 5, 17), (41, 401, 16, 9), (7, 1271, 3, 33), (1, 41, 5, 4), (5, 1, 3, 2), (0, 41, 5, 3)]


def block(n_rows, n_items, seen):
    if not seen:
        return None
    users = torch.randperm(max(50, n_rows), generator=torch.Generator().manual_seed(3))[:n_rows]
    users[:3] = torch.tensor([1, 2, 4])[: min(3, n_rows)]
    return catalogue(max(50, n_rows), n_items).rows(users)


def results(op, u, v, weight, dz, **options):
    z = op(u, v, weight, **options)
    return z, *torch.autograd.grad(z, (u, v, weight), dz.to(z.dtype))


@pytest.mark.parametrize("item_major", [True, False])
@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("seen", [False, True])
@pytest.mark.parametrize("shape", SHAPES)
def test_relation_linear_float64_equals_dense(shape, seen, kind, row_l2, item_major):
    n_rows, n_items, d, h = shape
    u, v = factors(n_rows, n_items, d)
    weight = weights(h, n_items, item_major)
    options = {"seen": block(n_rows, n_items, seen), "kind": kind, "row_l2": row_l2}
    dz = torch.randn(n_rows, h, dtype=torch.float64, generator=torch.Generator().manual_seed(5))
    actual = results(relation_linear, u, v, weight, dz, **options)
    truth = results(reference.relation_linear, u, v, weight, dz, **options)
    for name, a, t in zip(("z", "du", "dv", "dw"), actual, truth, strict=True):
        assert relative(a, t) < 1e-10, name
    if seen and n_rows > 3:
        assert torch.equal(actual[0][0], torch.zeros(h, dtype=torch.float64))  # every item seen
        assert torch.equal(actual[0][3], torch.zeros(h, dtype=torch.float64))  # zero user row
        if row_l2:
            assert not actual[1][0].any() and not actual[1][3].any()
    assert actual[3].stride() == weight.stride()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("row_l2", [False, True])
@pytest.mark.parametrize("kind", ["cosine", "dot"])
def test_relation_linear_is_as_accurate_as_dense(kind, row_l2, dtype):
    u, v = factors(41, 401, 16, dtype)
    weight = weights(33, 401, dtype=dtype)
    options = {"seen": block(41, 401, True), "kind": kind, "row_l2": row_l2}
    dz = torch.randn(41, 33, generator=torch.Generator().manual_seed(5))
    actual = results(relation_linear, u, v, weight, dz, **options)
    plain = results(reference.relation_linear, u, v, weight, dz, **options)
    truth = results(reference.relation_linear, *wide(u, v, weight), dz.to(dtype), **options)
    for a, p, t in zip(actual, plain, truth, strict=True):
        assert_as_accurate(a, p, t)


@pytest.mark.parametrize("ratio", [1e-2, 1e-3, 1e-6])
def test_relation_linear_of_rows_their_seen_items_carry(ratio):
    u, v, seen = carried(torch.float32, ratio)
    weight, u64, v64 = weights(9, 301, dtype=torch.float32), *wide(u, v)
    dz = torch.randn(6, 9, generator=torch.Generator().manual_seed(5))
    actual = results(relation_linear, u, v, weight, dz, seen=seen, row_l2=True)
    truth = results(reference.relation_linear, u64, v64, *wide(weight), dz, seen=seen, row_l2=True)
    for name, a, t in zip(("z", "du", "dv", "dw"), actual, truth, strict=True):
        assert relative(a, t) < 1e-5, name


def test_relation_linear_would_lose_digits_without_the_dense_rows(monkeypatch):
    u, v, seen = carried(torch.float32, 1e-3)
    weight = weights(9, 301, dtype=torch.float32)
    monkeypatch.setattr("mmssl_fast.relation.algebra.relation_row_norm.CANCELLED_SHARE", 0.0)
    z = relation_linear(u, v, weight, seen, row_l2=True)
    assert relative(z, reference.relation_linear(*wide(u, v, weight), seen, row_l2=True)) > 1e-4


@pytest.mark.parametrize("item_major", [True, False])
def test_linear_of_parts_shares_one_pass(item_major, monkeypatch):
    """All kinds of parts at once; of three generated ones two share v."""
    graph, users = catalogue(), torch.arange(13)
    seen = graph.rows(users)
    (u1, v1), (u2, v2) = factors(13, 41, 5), factors(13, 41, 5, seed=7)
    weight = weights(17, 41, item_major)
    p = reference.gumbel_softmax(graph, users, 0.2, 1).double()
    x = torch.randn(4, 41, dtype=torch.float64, generator=torch.Generator().manual_seed(9)).requires_grad_()
    crow, col = SeenRows(torch.arange(14) * 41, torch.arange(41).repeat(13))
    parts = [
        GeneratedPart(u1, v1, seen),
        SparsePart(crow, col, p.flatten(), 41),
        GeneratedPart(u2, v2),
        GeneratedPart(u2, v1, seen),
        TiledPart(13, 41, lambda begin, end: p[:, begin:end]),
        DensePart(x),
    ]
    dense = [
        reference.cosine_block(u1, v1, seen, "dot"),
        p,
        reference.cosine_block(u2, v2, None, "dot"),
        reference.cosine_block(u2, v1, seen, "dot"),
        p,
        x,
    ]
    projections = []
    from mmssl_fast.relation.algebra import weight_products as algebra

    real_mm = algebra.mm

    def counted(a, b, *dtypes):
        if b.shape == (41, 17) and a.shape[0] % 5 == 0:
            projections.append(a.shape)
        return real_mm(a, b, *dtypes)

    monkeypatch.setattr(algebra, "mm", counted)
    z = linear_of_parts(parts, weight)
    assert projections == [(10, 41)]  # v1 and v2, once
    leaves = (u1, v1, u2, v2, x, weight)
    dz = [torch.randn(a.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(11)) for a in z]
    actual = torch.autograd.grad(z, leaves, dz)
    truth_z = [rows @ weight.mT for rows in dense]
    truth = torch.autograd.grad(truth_z, leaves, dz)
    for a, t in zip((*z, *actual), (*truth_z, *truth), strict=True):
        assert relative(a, t) < 1e-10


@pytest.mark.parametrize("frozen", ["weight", "u", "v", "inputs"])
def test_linear_of_parts_leaves_out_what_needs_no_gradient(frozen, monkeypatch):
    u, v = factors(13, 41, 5)
    weight, seen = weights(17, 41), block(13, 41, True)
    leaves = {"u": u, "v": v, "weight": weight}
    for name in ("u", "v") if frozen == "inputs" else (frozen,):
        leaves.pop(name).requires_grad_(False)
    from mmssl_fast.relation.algebra import parts as algebra

    if frozen == "weight":
        monkeypatch.setattr(algebra, "_weight_gradient", lambda *a: pytest.fail("dW of a frozen weight"))
    (z,) = linear_of_parts([GeneratedPart(u, v, seen)], weight)
    actual = torch.autograd.grad(z.square().sum(), list(leaves.values()))
    truth = torch.autograd.grad(reference.relation_linear(u, v, weight, seen).square().sum(), list(leaves.values()))
    for a, t in zip(actual, truth, strict=True):
        assert relative(a, t) < 1e-10


@pytest.mark.parametrize("kind", ["cosine", "dot"])
@pytest.mark.parametrize("row_l2", [False, True])
def test_relation_linear_gradcheck(kind, row_l2):
    u, v = (torch.randn(n, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(n)) for n in (4, 9))
    seen = SeenRows(torch.tensor([0, 2, 2, 7, 8]), torch.tensor([1, 8, 0, 2, 3, 5, 8, 4]))
    leaves = (u.requires_grad_(), v.requires_grad_(), weights(4, 9))
    assert torch.autograd.gradcheck(lambda u, v, weight: relation_linear(u, v, weight, seen, kind, row_l2), leaves)
    assert torch.autograd.gradcheck(
        lambda u, v, weight: relation_linear(u[:1].expand(4, 3), v, weight, seen, kind, row_l2), leaves
    )


def test_relation_linear_cannot_be_differentiated_twice():
    u, v = factors(5, 9, 3)
    weight = weights(4, 9)
    parts = linear_of_parts([GeneratedPart(u, v)], weight)[0]
    for z, message in ((relation_linear(u, v, weight), "relation_linear has no second derivative"), (parts, None)):
        (du,) = torch.autograd.grad(z.square().sum(), u, create_graph=True)
        with pytest.raises(RuntimeError, match=message):
            torch.autograd.grad(du.square().sum(), weight)


@pytest.mark.parametrize("seen", [False, True])
def test_relation_linear_opcheck(seen):
    u, v = factors(5, 9, 3)
    weight, rows = weights(4, 9), block(5, 9, seen)
    crow, col = (None, None) if rows is None else rows
    mask = torch.tensor([False, False, True, False, False]) if seen else None
    torch.library.opcheck(torch.ops.mmssl_fast.relation_linear, (u, v, weight, crow, col, mask))


def test_relation_linear_compiles_fullgraph():
    u, v = factors(13, 41, 5)
    weight, seen = weights(17, 41), block(13, 41, True)

    def loss(op, u, v, weight):
        return op(u, v, weight, seen, "cosine", True).square().sum()

    compiled = torch.compile(lambda *x: loss(relation_linear, *x), fullgraph=True, backend="aot_eager")
    actual = torch.autograd.grad(compiled(u, v, weight), (u, v, weight))
    truth = torch.autograd.grad(loss(reference.relation_linear, u, v, weight), (u, v, weight))
    for a, t in zip(actual, truth, strict=True):
        assert relative(a, t) < 1e-10


def test_relation_linear_same_bits_when_repeated():
    u, v = factors(41, 401, 16, torch.float32)
    weight, seen = weights(33, 401, dtype=torch.float32), block(41, 401, True)
    dz = torch.randn(41, 33, generator=torch.Generator().manual_seed(5))
    once, again = (results(relation_linear, u, v, weight, dz, seen=seen) for _ in range(2))
    assert all(torch.equal(a, b) for a, b in zip(once, again, strict=True))


@pytest.mark.parametrize(
    "change, message",
    [
        ({"kind": "euclid"}, 'kind must be "cosine" or "dot", got \'euclid\''),
        ({"u": torch.zeros(3, 4)}, r"u must be \[B, d\] and v \[I, d\], got \(3, 4\) and \(9, 2\)"),
        ({"v": torch.zeros(9, 2, dtype=torch.float64)}, "the same floating dtype, got torch.float32 and torch.float64"),
        ({"weight": torch.zeros(4, 8)}, r"weight must be \[H, 9\] for 9 items, got \(4, 8\)"),
        (
            {"weight": torch.zeros(4, 9, dtype=torch.float64)},
            "weight must have the dtype of u, torch.float32, got torch.float64",
        ),
        (
            {"seen": SeenRows(torch.zeros(3, dtype=torch.int64), torch.zeros(0, dtype=torch.int64))},
            "must have 4 offsets for 3 rows, got 3",
        ),
    ],
)
def test_relation_linear_refuses(change, message):
    arguments = {"u": torch.zeros(3, 2), "v": torch.zeros(9, 2), "weight": torch.zeros(4, 9)}
    with pytest.raises(ValueError, match="^relation_linear: .*" + message):
        relation_linear(**(arguments | change))
