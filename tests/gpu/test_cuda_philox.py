"""csrc/cuda/philox on the emulator: the same bits as the CPU and reference.py."""

import pytest
import torch

from mmssl_fast import reference

pytestmark = pytest.mark.usefixtures("poison")


@pytest.mark.parametrize("seed", [0, 5, 2**63 - 1, -1])
@pytest.mark.parametrize("shape", [(4,), (0, 4), (3, 5, 4), (1271, 4)])
def test_philox4x32_has_the_cpus_words(emulated, seed, shape):
    counter = torch.randint(0, 2**32, shape, generator=torch.Generator().manual_seed(0))
    words = emulated.philox4x32(counter, seed)
    assert torch.equal(words, reference.philox4x32(seed, counter)) and words.shape == shape


def test_philox4x32_known_words(emulated):
    """The vectors of the authors' own tests (Random123, kat_vectors)."""
    ones = 2**32 - 1
    assert emulated.philox4x32(torch.zeros(4, dtype=torch.int64), 0).tolist() == [
        0x6627E8D5,
        0xE169C58D,
        0xBC57AC4C,
        0x9B00DBD8,
    ]
    assert emulated.philox4x32(torch.full((4,), ones), -1).tolist() == [
        0x408F276D,
        0x41C83B0E,
        0xA20BC7C6,
        0x6D5451FD,
    ]


@pytest.mark.parametrize("seed, offset", [(0, 0), (2**63 - 1, 2**32 - 1), (-3, 7)])
@pytest.mark.parametrize("columns", [0, 1, 4, 41, 1030])
def test_philox_bits_have_the_cpus_words(emulated, columns, seed, offset):
    rows = torch.tensor([[0, 9], [3, 9], [2**31 + 5, 9], [2**32 - 1, 9], [3, 9]])[:, 0]  # not contiguous, one repeated
    at = torch.tensor([seed, offset])
    bits = emulated.philox_bits(rows, columns, at, reference.STREAM_GAP)
    assert torch.equal(bits, torch.ops.mmssl_fast.philox_bits(rows, columns, at, reference.STREAM_GAP))
    assert torch.equal(bits, reference.philox_bits(seed, offset, rows, columns, reference.STREAM_GAP))
    assert emulated.philox_bits(rows[:0], columns, at, 0).shape == (0, columns)


def test_philox_refuses(emulated):
    rows, at = torch.arange(3), torch.tensor([5, 0])
    for counter in (torch.zeros(3, dtype=torch.int64), torch.zeros(4)):
        with pytest.raises(ValueError, match=r"^philox4x32: counter must be int64 \[..., 4\]"):
            emulated.philox4x32(counter, 0)
    with pytest.raises(ValueError, match=r"^philox_bits: rows must be int64 \[B\]"):
        emulated.philox_bits(rows.int(), 3, at, 0)
    with pytest.raises(ValueError, match=r"^philox_bits: columns must not be negative, got -1"):
        emulated.philox_bits(rows, -1, at, 0)
    for wrong in (torch.tensor([5]), at.int(), torch.tensor(5)):
        with pytest.raises(ValueError, match=r"^philox_bits: seed_offset must be contiguous int64 \[2\]"):
            emulated.philox_bits(rows, 3, wrong, 0)
