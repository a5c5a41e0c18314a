"""The random numbers of the adversarial losses. They are a function of (seed, step), so checkpoints need not store
them."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast.ops.philox import philox_bits
from mmssl_fast.reference import STREAM_ALPHA


def interpolation_weights(seed: int | Tensor, step: int, users: Tensor, modalities: int) -> Tensor:
    """The interpolation weights α ~ U(0, 1) of Eq. 7, one per user and modality.

    α = (k + ½)·2⁻³² clamped to 1 − 2⁻²⁴ with k = philox_bits(seed, step, users, modalities, STREAM_ALPHA). The weight
    of a row depends neither on its position in the batch nor on the device.

    Args:
        seed, step: key and offset of the generator.
        users: int64 [B], global user ids.
        modalities: number of modalities M.

    Returns:
        float32 [M * B], modality by modality, on the device of users.
    """
    words = philox_bits(seed, step, users, modalities, STREAM_ALPHA)
    return (words.to(torch.float32) * 2.0**-32 + 2.0**-33).clamp(max=1 - 2.0**-24).mT.flatten()
