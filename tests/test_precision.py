"""The weight that is rounded once: kept until it is written to, never mistaken for another."""

import torch

from mmssl_fast import precision
from mmssl_fast.precision import mm, rounded


def test_a_weight_is_rounded_once():
    weight = torch.nn.Parameter(torch.randn(30, 40).mT)  # item-major, as the discriminator has it
    kept = rounded(weight, torch.bfloat16)
    assert torch.equal(kept, weight.detach().to(torch.bfloat16)) and not kept.requires_grad
    assert rounded(weight, torch.bfloat16).data_ptr() == kept.data_ptr()
    assert torch.equal(rounded(weight.detach().mT, torch.bfloat16), kept.mT)
    assert rounded(weight.mT, torch.bfloat16).data_ptr() == kept.data_ptr()
    assert rounded(weight, torch.float32) is weight


def test_a_write_is_noticed():
    weight = torch.randn(30, 40)
    rounded(weight, torch.bfloat16)
    weight[3] += 1
    assert torch.equal(rounded(weight, torch.bfloat16), weight.to(torch.bfloat16))


def test_other_views_and_dtypes_are_others():
    weight = torch.randn(40, 40)
    for dtype in (torch.bfloat16, torch.float16):  # one after the other, for only the last is kept
        for view in (weight, weight[:20], weight[20:], weight[:20], weight[::2], weight.mT, weight.view(20, 80)):
            assert torch.equal(rounded(view, dtype), view.to(dtype))
    assert rounded(weight, torch.bfloat16).dtype == torch.bfloat16 and rounded(weight, torch.half).dtype == torch.half


def test_a_weight_where_another_was_is_another():
    """The allocator gives a freed weight's place to the next one of its size."""
    places = set()
    for _ in range(50):
        weight = torch.randn(64, 64)
        places.add(weight.data_ptr())
        assert torch.equal(rounded(weight, torch.bfloat16), weight.to(torch.bfloat16))
        del weight
    assert len(places) < 50


def test_large_ones_and_those_of_inference_mode_are_not_kept(monkeypatch):
    monkeypatch.setattr(precision, "_cached", None)
    with torch.inference_mode():
        weight = torch.randn(8, 8)
        assert torch.equal(rounded(weight, torch.bfloat16), weight.to(torch.bfloat16))
    monkeypatch.setattr(precision, "MAX_CACHED_BYTES", 100)
    rounded(torch.randn(8, 8), torch.bfloat16)
    assert precision._cached is None


def test_the_product_has_the_dtype_that_is_asked_for():
    a, b = torch.randn(5, 6), torch.randn(6, 7)
    exact = (a.bfloat16() @ b.bfloat16()).float()
    assert torch.equal(mm(a, b, torch.bfloat16), exact)
    assert torch.equal(mm(a.bfloat16(), b, torch.bfloat16, torch.float32), exact)
    assert mm(a, b, torch.float32).dtype == torch.float32
