"""What one rank keeps of graphs and checkpoints, without other processes."""

import json

import numpy as np
import pytest
import torch
from mmssl_trainer.training import sharded_state, state_file

from mmssl_fast import distributed
from mmssl_fast.distributed import GroupGraph, Ranks, group_graph, ranks

GROUPS = Ranks(0, 2).divided(2)


@pytest.mark.parametrize(
    "indptr, indices, block",
    [
        ([0, 2, 4], [0, 2, 2, 1], 9),
        ([0, 3, 4], [0, 2, 1, 2], 2),  # the row of the first user goes on in the second block
        ([0, 2, 4], [0, 2, 1, 1], 9),
        ([0, 2, 4], [0, 3, 1, 2], 9),
        ([0, 2, 4], [-1, 2, 1, 2], 9),
    ],
)
def test_items_that_do_not_ascend_or_are_out_of_range(monkeypatch, indptr, indices, block):
    monkeypatch.setattr(group_graph, "BLOCK", block)
    message = r"^GroupGraph: indices must lie in \[0, 3\) and ascend within each row, but an entry from \d to \d does"
    with pytest.raises(ValueError, match=message):
        GroupGraph.from_csr(np.array(indptr), np.array(indices), 3, GROUPS)


@pytest.mark.parametrize("user", [-1, 2, 0])
def test_users_that_do_not_ascend_or_are_out_of_range(user):
    blocks = [(np.array([1], np.int32), np.array([0])), (np.array([user], np.int32), np.array([1]))]
    with pytest.raises(ValueError, match=r"^GroupGraph: indices .* but an entry from 1 to 1 does not$"):
        GroupGraph.from_blocks(blocks, 2, 3, GROUPS)


@pytest.mark.parametrize("side, shape", [("users", (7, 2, 3)), ("columns of users", (2, 7, 3)), (None, (7, 3))])
def test_a_checkpoint_with_tables_that_every_rank_had(tmp_path, monkeypatch, side, shape):
    """Development versions stored the lists of semantic neighbours so. A rank takes its part."""
    whole = torch.arange(torch.Size(shape).numel()).view(shape)
    sharded_state.write(tmp_path, 3, {"lists": whole}, {}, lambda name: None, {"users": 7}, "")
    path = state_file.newest(tmp_path)
    body = json.loads(path.read_text())["state"]
    monkeypatch.setattr(ranks, "_current", Ranks(1, 3))
    found = sharded_state.read(path, body, lambda name: side).tensors["lists"]
    expected = {"users": whole[3:6], "columns of users": whole[:, 3:6], None: whole}[side]
    assert distributed.current().size == 3 and torch.equal(found, expected) and found.is_contiguous()
