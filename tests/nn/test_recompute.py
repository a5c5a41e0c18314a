"""MMSSL(recompute=True): the same encoding and gradients, from less that is kept."""

import pytest
import torch
from nn_catalogue import catalogue

from mmssl_fast.nn import MMSSL, row_blocks

SETTINGS = {"dim": 8, "heads": 2, "neighbours": 3, "dropout": 0.4}


def trained(recompute, dtype=torch.float64, **settings):
    """(model, the encoding in training mode, the bytes of what autograd has kept besides parameters and buffers)"""
    graph, features = catalogue(2)
    torch.manual_seed(1)
    model = MMSSL(graph, features, recompute=recompute, **(SETTINGS | settings)).to(dtype)
    lasting = {x.data_ptr() for x in [*model.parameters(), *model.buffers()]}
    kept = {}

    def pack(x):
        if x.data_ptr() not in lasting and x.is_floating_point():
            kept[x.untyped_storage().data_ptr()] = x.untyped_storage().nbytes()
        return x

    torch.manual_seed(2)
    with torch.autograd.graph.saved_tensors_hooks(pack, lambda x: x):
        encoded = model()
    return model, encoded, sum(kept.values())


def gradients(model, encoded):
    random = torch.Generator().manual_seed(3)
    parts = [encoded.users, encoded.items, *encoded.modal_users, *encoded.modal_items, *encoded.view_users]
    weights = [torch.randn(part.shape, generator=random, dtype=part.dtype) for part in parts]
    sum((part * weight).sum() for part, weight in zip(parts, weights, strict=True)).backward()
    return {name: x.grad for name, x in model.named_parameters()}


@pytest.mark.parametrize("settings", [{}, {"eta": 0.0}, {"feature_dtype": torch.float16}])
def test_the_same_encoding_and_gradients(settings, monkeypatch):
    monkeypatch.setattr(row_blocks, "BLOCK_ROWS", 5)
    plain, again = (trained(recompute, **settings)[:2] for recompute in (False, True))
    for name in ("users", "items", "modal_users", "modal_items", "view_users", "view_items"):
        mine, expected = getattr(again[1], name), getattr(plain[1], name)
        for a, b in zip(*((x if isinstance(x, list) else [x]) for x in (mine, expected)), strict=True):
            torch.testing.assert_close(a, b, atol=1e-13, rtol=1e-13)
    mine, expected = gradients(*again), gradients(*plain)
    assert expected["user_embedding"].abs().max() > 0
    for name in expected:
        torch.testing.assert_close(mine[name], expected[name], atol=1e-12, rtol=1e-10, msg=name)


def test_less_is_kept():
    """Neither what the attention computes, nor the masks of dropout."""
    plain, again = (trained(recompute)[2] for recompute in (False, True))
    assert 0 < again < 0.5 * plain
    without = [trained(recompute, dropout=0.0)[2] for recompute in (False, True)]
    assert without[0] < plain and without[1] == again


def test_random_numbers_after_a_step_are_the_same():
    after = []
    for recompute in (False, True):
        gradients(*trained(recompute)[:2])
        after.append(torch.rand(3))
    assert torch.equal(*after)


def test_no_blocks_and_no_rows():
    weight = torch.randn(3, 4, requires_grad=True)
    for rows in (0, 1, 7):
        x = torch.randn(rows, 3, requires_grad=True)
        found = row_blocks.in_row_blocks(torch.matmul, [x], [weight])
        torch.testing.assert_close(found, x @ weight)
        found.sum().backward()
        torch.testing.assert_close(x.grad, weight.sum(1).expand(rows, 3))


def test_a_second_derivative_is_an_error():
    x, weight = torch.randn(3, 2, requires_grad=True), torch.ones(3, 2, requires_grad=True)
    (first,) = torch.autograd.grad((row_blocks.in_row_blocks(torch.square, [x]) * weight).sum(), x, create_graph=True)
    with pytest.raises(RuntimeError, match="once_differentiable"):
        first.sum().backward()
