"""What is no tensor, and ids of another type, are answered by the public function's name in a sentence of ours."""

import numpy as np
import pytest
import torch

import mmssl_fast
from mmssl_fast import InteractionGraph, RelationRows, SeenRows

GRAPH = InteractionGraph.from_pairs([0, 0, 1, 2, 3, 3, 5], [0, 2, 2, 1, 0, 3, 4], 6, 5)
U, V, W = torch.randn(6, 4), torch.randn(5, 4), torch.randn(8, 5)
SEEN = GRAPH.rows(torch.arange(6))

WITH_IDS = {
    "bpr_loss": ("users", lambda ids: mmssl_fast.bpr_loss(U, V, ids, ids, ids)),
    "infonce": ("ids", lambda ids: mmssl_fast.infonce(U, U + 1, ids, 0.3)),
    "gumbel_softmax": ("users", lambda ids: mmssl_fast.gumbel_softmax(GRAPH, ids, 0.3, 1)),
    "gumbel_linear": ("users", lambda ids: mmssl_fast.gumbel_linear(GRAPH, ids, W, 0.3, 1)),
    "RelationRows.gumbel": ("users", lambda ids: RelationRows.gumbel(GRAPH, ids, 0.3, 1).dense()),
}


@pytest.mark.parametrize("op", WITH_IDS)
def test_ids_of_int32_are_taken(op):
    ids = torch.tensor([0, 3, 3, 1])
    call = WITH_IDS[op][1]
    assert torch.equal(call(ids.int()), call(ids))


def test_ids_of_int32_train():
    u = U.clone().requires_grad_()
    ids = torch.tensor([0, 3, 3, 1], dtype=torch.int32)
    (mmssl_fast.infonce(u, U, ids, 0.3) + mmssl_fast.bpr_loss(u, V, ids, ids, ids)).backward()
    assert u.grad[0].abs().max() > 0


@pytest.mark.parametrize("op", WITH_IDS)
@pytest.mark.parametrize(
    "ids, error, message",
    [
        ([0, 1], TypeError, "must be a torch.Tensor of int64 or int32, got a list; use torch.tensor"),
        (np.arange(2), TypeError, "must be a torch.Tensor of int64 or int32, got a NumPy ndarray; use torch.from_n"),
        (torch.tensor([0.0]), ValueError, r"must be int64 or int32 \[B\], got float32"),
        (torch.tensor([True]), ValueError, r"must be int64 or int32 \[B\], got bool"),
        (torch.zeros(2, 1, dtype=torch.int64), ValueError, r"must be int64 \[B\], got \[2, 1\]"),
    ],
)
def test_other_ids_are_refused_by_the_public_name(op, ids, error, message):
    name, call = WITH_IDS[op]
    with pytest.raises(error, match=f"^{op}: {name} {message}"):
        call(ids)


ARRAYS = {
    "propagate: x": lambda x: mmssl_fast.propagate(GRAPH, x(V)),
    "lightgcn: users": lambda x: mmssl_fast.lightgcn(GRAPH, x(U), V, 2),
    "lightgcn: items": lambda x: mmssl_fast.lightgcn(GRAPH, U, x(V), 2),
    "cosine_block: u": lambda x: mmssl_fast.cosine_block(x(U), V),
    "cosine_block: v": lambda x: mmssl_fast.cosine_block(U, x(V)),
    "cosine_block: seen.crow": lambda x: mmssl_fast.cosine_block(U, V, SeenRows(x(SEEN.crow), SEEN.col)),
    "cosine_topk: u": lambda x: mmssl_fast.cosine_topk(x(U), V, 2),
    "cosine_topk: seen.col": lambda x: mmssl_fast.cosine_topk(U, V, 2, SeenRows(SEEN.crow, x(SEEN.col))),
    "bpr_loss: item_emb": lambda x: mmssl_fast.bpr_loss(U, x(V), *(torch.zeros(1, dtype=torch.int64),) * 3),
    "infonce: h": lambda x: mmssl_fast.infonce(x(U), U, torch.arange(2), 0.3),
    "gumbel_softmax: h_u": lambda x: mmssl_fast.gumbel_softmax(GRAPH, torch.arange(6), 0.3, 1, augment=(x(U), V)),
    "gumbel_linear: weight": lambda x: mmssl_fast.gumbel_linear(GRAPH, torch.arange(2), x(W), 0.3, 1),
    "gradient_norm: g": lambda x: mmssl_fast.gradient_norm(x(torch.ones(2, 8)), W),
    "relation_linear: weight": lambda x: mmssl_fast.relation_linear(U, V, x(W)),
    "modality_attention: e": lambda x: mmssl_fast.modality_attention(x(U[None]), *(torch.ones(4, 4),) * 3, 1),
    "act_norm_dropout: z": lambda x: mmssl_fast.act_norm_dropout(
        x(U), torch.ones(4), torch.ones(4), 0.1, torch.tensor([1, 2])
    ),
    "RelationRows.generated: u": lambda x: RelationRows.generated(x(U), V),
    "RelationRows.from_dense: x": lambda x: RelationRows.from_dense(x(U)),
    "InteractionGraph.rows: users": lambda x: GRAPH.rows(x(torch.arange(2))),
}


@pytest.mark.parametrize("argument", ARRAYS)
def test_lists_and_arrays_are_refused_by_the_public_name(argument):
    for convert, kind in ((lambda x: x.tolist(), "a list"), (lambda x: x.numpy(), "a NumPy ndarray")):
        with pytest.raises(TypeError, match=f"^{argument} must be a torch.Tensor, got {kind}; use torch"):
            ARRAYS[argument](convert)
