"""How far a kernel may be from the truth."""

import torch

# dtype: (absolute, relative), where no plain PyTorch figure in the same dtype is at hand.
TOLERANCE = {
    torch.float64: (1e-12, 1e-10),
    torch.float32: (1e-6, 1e-5),
    torch.bfloat16: (1e-2, 2e-2),
}


def assert_close(actual, truth, dtype=None):
    """Compares with the table's tolerance for `dtype` (default: that of `actual`)."""
    atol, rtol = TOLERANCE[dtype or actual.dtype]
    torch.testing.assert_close(actual.double(), truth.double(), atol=atol, rtol=rtol)


def assert_as_accurate(actual, plain, truth, tiny=None):
    """The error of `actual` may not exceed twice that of `plain`, PyTorch's own result in the same dtype.

    `truth` is the float64 result; `tiny` an absolute allowance, by default a few units in the last place of the
    largest value, since `plain` may be right by chance.
    """
    assert actual.dtype == plain.dtype and actual.shape == truth.shape
    if truth.numel() == 0:
        return
    if tiny is None:
        units = 64 if actual.dtype == torch.float64 else 4  # a float64 truth is itself rounded
        tiny = units * torch.finfo(actual.dtype).eps * truth.abs().max().item()
    error = (actual.double() - truth).abs().max().item()
    allowed = 2 * (plain.double() - truth).abs().max().item() + tiny
    assert error <= allowed, f"error {error:.3g}, allowed {allowed:.3g}"
