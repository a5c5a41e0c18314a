"""Tables with more than 2³¹ entries, whose flat offsets do not fit in 32 bits.

Memory of which a page has never been written takes no room, so a table of 4 GiB with a few written rows is as small as
these. Tests that write whole tables of this size are marked as slow.
"""

import pytest
import torch

from mmssl_fast import InteractionGraph, cosine_topk, propagate
from mmssl_fast.ops.sampled_dot import sampled_dot
from mmssl_fast.ops.spmm import spmm, spmm_add_
from mmssl_fast.ops.unit_rows import unit_rows

ROWS, WIDTH = (1 << 22) + 3, 512
LAST = torch.tensor([ROWS - 1, 1, ROWS - 2])


@pytest.fixture
def table():
    """[ROWS, WIDTH] bfloat16, of which the rows LAST are written. Others, if they are read, are 0."""
    try:
        x = torch.empty(ROWS, WIDTH, dtype=torch.bfloat16)
    except RuntimeError as error:
        pytest.skip(f"the system does not reserve 4.3 GB: {error}")
    assert x.numel() > 2**31
    x[LAST] = torch.randn(3, WIDTH).bfloat16()
    return x


def test_spmm_reads_rows_beyond_32_bits(table):
    crow, value = torch.tensor([0, 1, 3]), torch.tensor([1.0, 2.0, 3.0])
    for index in (torch.int32, torch.int64):
        found = spmm(crow, LAST.to(index), value, table).float()
        rows = table[LAST].float()
        torch.testing.assert_close(found, torch.stack([rows[0], 2 * rows[1] + 3 * rows[2]]), atol=0.05, rtol=0.01)


def test_spmm_add_writes_rows_beyond_32_bits(table):
    before, x = table[LAST].clone(), torch.ones(1, WIDTH, dtype=torch.bfloat16)
    spmm_add_(table, torch.tensor([ROWS - 1]), torch.tensor([0, 1]), torch.tensor([0]), torch.tensor([4.0]), x)
    torch.testing.assert_close(table[LAST[0]], before[0] + 4, atol=0.05, rtol=0.01)
    assert torch.equal(table[LAST[1:]], before[1:])


def test_sampled_dot_reads_rows_beyond_32_bits(table):
    u = torch.randn(2, WIDTH).bfloat16()
    found = sampled_dot(torch.tensor([0, 2, 3]), LAST.int(), u, table)
    expected = (u[torch.tensor([0, 0, 1])].float() * table[LAST].float()).sum(1)
    torch.testing.assert_close(found.float(), expected, atol=0.3, rtol=0.02)


def graph():
    return InteractionGraph.from_pairs([0, 0, 1], LAST.tolist(), n_users=2, n_items=ROWS)


def test_propagate_reads_rows_beyond_32_bits(table):
    found, rows = propagate(graph(), table, "users", "none").float(), table[LAST].float()
    torch.testing.assert_close(found, torch.stack([rows[0] + rows[1], rows[2]]), atol=0.05, rtol=0.01)


@pytest.mark.slow
def test_propagate_writes_rows_beyond_32_bits():
    users = torch.randn(2, WIDTH).bfloat16()
    found = propagate(graph(), users, "items", "none")
    assert torch.equal(found[LAST], users[[0, 0, 1]])
    assert not found[2].any() and not found[ROWS - 3].any()


@pytest.mark.slow
def test_unit_rows_beyond_32_bits(table):
    found = unit_rows(table)
    rows = table[LAST].float()
    torch.testing.assert_close(found[LAST].float(), rows / rows.norm(dim=1, keepdim=True), atol=1e-3, rtol=1e-2)
    assert not found[ROWS - 3].any()


@pytest.mark.slow
def test_topk_of_items_beyond_32_bits():
    items = torch.zeros((1 << 19) + 3, 4096)
    items[-1, 0], items[-2, 0], items[5, 0] = 3.0, 2.0, 1.0
    assert items.numel() > 2**31
    values, found = cosine_topk(torch.eye(1, 4096), items, 3, kind="dot")
    assert values.tolist() == [[3.0, 2.0, 1.0]] and found.tolist() == [[len(items) - 1, len(items) - 2, 5]]
