"""unit_rows: rows divided by their length."""

import torch
from torch import Tensor


def unit_rows(x: Tensor) -> Tensor:
    """Equals ``x / x.norm(dim=-1, keepdim=True)``, with value 0 and gradient 0 at a zero row.

    The normalisation inside the cosine of equations 3, 5, 10 and 11. Right for rows of any finite size: a row is first
    divided by its largest entry, so that its squares neither overflow nor vanish (rows of 1e±20 in float32).
    ``F.normalize`` would divide by at least 1e-12 instead, which shortens small rows and gives a zero row a gradient of
    1e12. Differentiable any number of times.

    Args:
        x: [..., d] float32, float64, or a narrower float (computed in float32).

    Returns:
        Shape and dtype of x. A row with a NaN or an infinity holds NaN.
    """
    if x.shape[-1] == 0:
        return x.clone()
    wide = x.float() if x.dtype in (torch.bfloat16, torch.float16) else x
    largest = wide.detach().abs().amax(-1, keepdim=True)
    scaled = wide / torch.where(largest > 0, largest, 1.0)
    square = (scaled * scaled).sum(-1, keepdim=True)
    # 1/sqrt(inf) = 0: the value and every derivative of a zero row.
    unit = scaled * torch.where(square == 0, torch.inf, square).rsqrt()
    return unit.to(x.dtype)
