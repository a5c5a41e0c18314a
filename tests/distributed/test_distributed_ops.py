"""The primitives and ops of mmssl_fast.distributed in one process; test_distributed_ranks.py has several."""

import ast
from pathlib import Path

import op_cases
import pytest
import torch
from all_cases import CASES
from driver import Check

import mmssl_fast as mf
from mmssl_fast import distributed as md
from mmssl_fast.distributed import collectives


@pytest.mark.parametrize("case", CASES)
def test_one_rank(case, monkeypatch):
    """Every case on one rank, where nothing is sent."""
    for name in ("all_reduce", "all_to_all_single", "broadcast", "barrier", "init_process_group"):
        monkeypatch.setattr(collectives.dist, name, None)
    check = Check()
    CASES[case](md.start(), check)
    md.stop()
    assert check.failures == []


def test_one_rank_copies_nothing():
    x = torch.ones(3, 2)
    assert md.rows_to_columns(x, 3, md.ONE) is x and md.columns_to_rows(x, 2, md.ONE) is x
    assert md.reduce_from_ranks(x, md.ONE) is x and md.copy_to_ranks(x, md.ONE) is x
    assert md.merge_logsumexp(x, md.ONE) is x and md.ONE.mine(x).data_ptr() == x.data_ptr()


def test_rows_of_ranks():
    """As with torch.chunk, for any remainder."""
    for n in (0, 1, 5, 8, 9):
        for size in (1, 2, 3, 4, 7):
            chunks = [len(part) for part in torch.arange(n).chunk(size)] if n else [0]
            assert md.Ranks(0, size).sizes(n) == chunks + [0] * (size - len(chunks))
    with pytest.raises(ValueError, match=r"rank must be in \[0, 2\)"):
        md.Ranks(2, 2)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16])
def test_columns_do_not_depend_on_their_number(dtype):
    """Bit-identical results on any number of ranks depend on this. All widths up to a vector, and some above."""
    graph = op_cases.a_graph(60, 40)
    users, items = op_cases.normal(60, 40).to(dtype), op_cases.normal(40, 40, seed=1).to(dtype)
    for norm in ("receiver", "both", "none"):
        whole = mf.lightgcn(graph, users, items, 3, norm)
        for width in (*range(1, 18), 33):
            for first in range(0, 40, width):
                part = slice(first, first + width)
                columns = mf.lightgcn(graph, users[:, part].contiguous(), items[:, part].contiguous(), 3, norm)
                for side, one in enumerate(columns):
                    assert one.equal(whole[side][:, part]), (norm, width, first, side)


def test_wrong_shards_are_refused():
    ranks = md.Ranks(1, 2)
    with pytest.raises(ValueError, match="x has 3 rows, rank 1 of 2 owns 2 of 5"):
        md.rows_to_columns(torch.ones(3, 2), 5, ranks)
    with pytest.raises(ValueError, match="rank 1 owns 2 of 5 columns"):
        md.columns_to_rows(torch.ones(3, 3), 5, ranks)


def test_torch_distributed_is_imported_in_three_modules():
    importing = set()
    for path in Path(mf.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            names = [alias.name for alias in getattr(node, "names", [])] if isinstance(node, ast.Import) else []
            names += [node.module or ""] if isinstance(node, ast.ImportFrom) else []
            if any(name.startswith("torch.distributed") for name in names):
                importing.add(path.name)
    assert importing == {"ranks.py", "collectives.py", "transfers.py"}
