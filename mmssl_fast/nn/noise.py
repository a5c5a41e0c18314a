"""The random numbers of the adversarial losses, a pure function of (seed, step): nothing to store in a checkpoint."""

from __future__ import annotations

import torch
from torch import Tensor

from mmssl_fast.reference import MASK32, STREAM_ALPHA, philox4x32


def interpolation_weights(seed: int, step: int, users: Tensor, modalities: int) -> Tensor:
    """α ~ U(0, 1) of Eq. 7, one a user and modality: float32 [modalities * B], modality by modality, on users' device.

    α = (k + ½)·2⁻³² clamped to 1 − 2⁻²⁴, k word (modality % 4) of Philox4x32-10 at key = seed, counter = (modality //
    4, user, step, STREAM_ALPHA): a row's weight depends neither on its place in the batch nor on the device.

    users: int64 [B] of global ids.
    """
    blocks = (modalities + 3) // 4
    block = torch.arange(blocks, device=users.device).expand(users.numel(), -1)
    fixed = torch.tensor([step & MASK32, STREAM_ALPHA], device=users.device).expand(users.numel(), blocks, 2)
    counter = torch.cat((torch.stack((block, users[:, None].expand_as(block)), -1), fixed), -1)
    words = philox4x32(seed, counter).flatten(1)[:, :modalities]
    return (words.to(torch.float32) * 2.0**-32 + 2.0**-33).clamp(max=1 - 2.0**-24).mT.flatten()
