"""RelationRows.topk and rows by index against the dense block."""

import pytest
import torch
import torch.nn.functional as F
from relation_blocks import N_ITEMS, H, both, setting
from relation_cases import factors, relative, weights

from mmssl_fast import reference
from mmssl_fast.graph import SeenRows
from mmssl_fast.relation import RelationRows


@pytest.mark.parametrize("scale", [1.0, -2.0, "lengths", "mixed"])
@pytest.mark.parametrize("whole_rows_k", [0, 128])
@pytest.mark.parametrize("masked", [False, True])
def test_topk_ties_go_to_the_lower_item_by_every_way(scale, whole_rows_k, masked, monkeypatch):
    from mmssl_fast.relation import topk

    monkeypatch.setattr(topk, "WHOLE_ROWS_K", whole_rows_k)
    monkeypatch.setattr(topk, "MERGE_ELEMENTS", 60)
    _, _, seen, (u, v, *_) = setting()
    seen = seen if masked else None
    u, v = u.detach().round(), v.detach().round()  # many equal entries, and seen ones at 0
    factor = {"lengths": torch.ones(13, 1) / 2, "mixed": torch.linspace(-1, 1, 13)[:, None]}.get(scale, scale)
    rows = RelationRows.generated(u, v, "dot", seen) * factor
    dense = reference.cosine_block(u, v, seen, "dot") * factor
    values, items = torch.sort(dense, dim=1, descending=True, stable=True)
    for elements in (1, 1 << 19):
        monkeypatch.setattr(topk, "TILE_ELEMENTS", elements)
        for k in (1, 7, 30, N_ITEMS):
            found = torch.topk(rows, k)
            assert torch.equal(found.indices, items[:, :k])
            torch.testing.assert_close(found.values, values[:, :k])


def test_topk_beyond_128_and_refusals():
    u, v = factors(5, 401, 3)
    rows = RelationRows.generated(u, v)
    assert relative(rows.topk(300).values, torch.topk(rows.dense(), 300).values) < 1e-12
    for arguments in ({"k": 402}, {"k": -1}, {"k": 3, "dim": 0}, {"k": 3, "largest": False}):
        with pytest.raises(ValueError if len(arguments) == 1 else TypeError, match=r"^RelationRows\.topk: "):
            rows.topk(**arguments)
    for k in (3, 300):
        with pytest.raises(ValueError, match="NaN"):
            RelationRows.generated(u * float("nan"), v, "dot").topk(k)


@pytest.mark.parametrize("k", [1, 7, 50, 401])
def test_topk_values_and_gradients_where_rows_are_fully_seen_or_not_at_all(k):
    u, v = factors(9, 401, 6)
    mask = torch.rand(9, 401, generator=torch.Generator().manual_seed(7)) < 0.4
    mask[0], mask[1] = False, True
    crow = torch.zeros(10, dtype=torch.int64)
    crow[1:] = mask.sum(1).cumsum(0)
    rows = RelationRows.generated(u, v, "dot", SeenRows(crow, mask.nonzero()[:, 1]))
    dense = (u @ v.T).masked_fill(mask, 0)
    values, items = torch.sort(dense, dim=1, descending=True, stable=True)
    with torch.no_grad():
        plain = rows.topk(k)
    found = rows.topk(k)
    for each in (plain, found):
        assert torch.equal(each.indices, items[:, :k])
        assert relative(each.values, values[:, :k]) < 1e-12
    actual = torch.autograd.grad(found.values.square().sum(), (u, v), retain_graph=True)
    truth = torch.autograd.grad(values[:, :k].square().sum(), (u, v))
    for a, t in zip(actual, truth, strict=True):
        assert relative(a, t) < 1e-12


@pytest.mark.parametrize("key", [slice(3, 20), slice(None, None, 2), slice(4, 4), torch.tensor([25, 0, 0, -1])])
def test_rows_are_taken_by_slice_and_id(key):
    rows, dense, _ = both("stack")
    weight = weights(H, N_ITEMS)
    taken = key if isinstance(key, slice) else key.where(key >= 0, key + len(dense))
    assert relative(rows[key].linear(weight), F.linear(dense[taken], weight)) < 1e-10
    with pytest.raises(TypeError, match="dense"):
        rows[3]
    with pytest.raises(IndexError, match="52 rows"):
        rows[torch.tensor([52])]
