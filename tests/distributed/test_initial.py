"""Initial values that ranks draw in blocks: the bits of one process, and the same state of torch's generator."""

import pytest
import torch
from torch import nn

from mmssl_fast import distributed as md
from mmssl_fast.distributed import initial
from mmssl_fast.nn import Discriminator

DTYPES = pytest.mark.parametrize("dtype", [torch.float32, torch.float64])


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch):
    monkeypatch.setattr(initial, "BLOCK", 64)


@pytest.fixture
def dtype_of(request):
    before = torch.get_default_dtype()
    yield torch.set_default_dtype
    torch.set_default_dtype(before)


def drawn(call):
    """(values, state of the generator afterwards)."""
    torch.manual_seed(5)
    return call(), torch.get_rng_state()


@DTYPES
@pytest.mark.parametrize("rows, columns", [(1, 1), (2, 7), (9, 64), (33, 5), (401, 3), (66, 200)])
@pytest.mark.parametrize("size", [2, 3, 5])
def test_every_rank_has_its_part(dtype_of, dtype, rows, columns, size):
    dtype_of(dtype)
    every = [md.Ranks(rank, size) for rank in range(size)]
    whole, after = drawn(lambda: nn.init.xavier_uniform_(torch.empty(rows, columns)))
    weight, later = drawn(lambda: nn.init.kaiming_normal_(torch.empty(rows, columns).mT))
    for ranks in every:
        part, state = drawn(lambda ranks=ranks: md.xavier_uniform(rows, columns, ranks))
        assert part.dtype == dtype and part.equal(ranks.mine(whole)) and state.equal(after)
        part, state = drawn(lambda ranks=ranks: md.kaiming_normal_columns(columns, rows, ranks))
        assert part.equal(ranks.mine(weight.mT).mT) and part.mT.is_contiguous() and state.equal(later)


@pytest.mark.parametrize("hidden", [(12, 6), (1, 1)])
def test_a_discriminator_has_its_columns(hidden):
    whole, after = drawn(lambda: Discriminator(41, hidden=hidden))
    for rank in range(3):
        ranks = md.Ranks(rank, 3)
        part, state = drawn(lambda ranks=ranks: Discriminator(41, hidden=hidden, ranks=ranks))
        assert state.equal(after) and part.state_dict().keys() == whole.state_dict().keys()
        for name, value in part.state_dict().items():
            expected = whole.state_dict()[name]
            first, last = ranks.span(41)
            assert value.equal(expected[:, first:last] if name == "linear.weight" else expected), name


def test_no_rank_draws_the_whole_table(monkeypatch):
    """The largest tensor that is allocated is the rank's part or a block."""
    largest, empty = [0], torch.empty

    def watched(*shape, **options):
        result = empty(*shape, **options)
        largest[0] = max(largest[0], result.numel())
        return result

    monkeypatch.setattr(torch, "empty", watched)
    initial.xavier_uniform(10_000, 4, md.Ranks(3, 10))
    initial.kaiming_normal_columns(4, 10_000, md.Ranks(3, 10))
    initial.skip_uniform(40_000)
    assert largest[0] == 4000
