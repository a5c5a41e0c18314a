"""The random numbers of the adversarial losses, a pure function of (seed, step): nothing to store in a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast.ops.philox import philox_bits
from mmssl_fast.reference import STREAM_ALPHA


def interpolation_weights(seed: int | Tensor, step: int, users: Tensor, modalities: int) -> Tensor:
    """α ~ U(0, 1) of Eq. 7, one a user and modality: float32 [modalities * B], modality by modality, on users' device.

    α = (k + ½)·2⁻³² clamped to 1 − 2⁻²⁴, k = philox_bits(seed, step, users, modalities, STREAM_ALPHA): a row's weight
    depends neither on its place in the batch nor on the device.

    users: int64 [B] of global ids.
    """
    words = philox_bits(seed, step, users, modalities, STREAM_ALPHA)
    return (words.to(torch.float32) * 2.0**-32 + 2.0**-33).clamp(max=1 - 2.0**-24).mT.flatten()
