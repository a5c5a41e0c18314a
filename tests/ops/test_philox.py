"""Philox4x32-10: published vectors, and the same bits as reference.py for any tiling."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from mmssl_fast import reference
from mmssl_fast.ops.philox import philox4x32, philox_bits, seed_offset

pytestmark = pytest.mark.usefixtures("poison")

# kat_vectors of Random123 1.14 (philox4x32, 10 rounds): counter, key, words.
KNOWN = [
    ([0] * 4, [0] * 2, [0x6627E8D5, 0xE169C58D, 0xBC57AC4C, 0x9B00DBD8]),
    ([0xFFFFFFFF] * 4, [0xFFFFFFFF] * 2, [0x408F276D, 0x41C83B0E, 0xA20BC7C6, 0x6D5451FD]),
    (
        [0x243F6A88, 0x85A308D3, 0x13198A2E, 0x03707344],
        [0xA4093822, 0x299F31D0],
        [0xD16CFE09, 0x94FDCCEB, 0x5001E420, 0x24126EA1],
    ),
]

CPU = torch.device("cpu")


@pytest.mark.parametrize("counter, key, words", KNOWN)
@pytest.mark.parametrize("generator", [philox4x32, reference.philox4x32])
def test_philox_known_answers(generator, counter, key, words):
    seed = key[0] | key[1] << 32
    assert generator(seed, torch.tensor(counter)).tolist() == words


def test_philox4x32_equals_reference_for_any_counter():
    counter = torch.randint(2**32, (7, 41, 4), generator=torch.Generator().manual_seed(0))
    assert torch.equal(philox4x32(2**40 + 3, counter), reference.philox4x32(2**40 + 3, counter))


@pytest.mark.parametrize("columns", [0, 1, 3, 4, 5, 63, 64, 65, 401, 1271])
@pytest.mark.parametrize(
    "seed, offset, stream", [(0, 0, 0), (2**64 - 1, 2**32 - 1, 1), (-3, 17, 6), (12345678901, 5, 2)]
)
def test_philox_bits_equal_reference(columns, seed, offset, stream):
    rows = torch.tensor([0, 1, 9318, 2**31, 2**32 - 1, 1])
    actual = philox_bits(seed, offset, rows, columns, stream)
    assert torch.equal(actual, reference.philox_bits(seed, offset, rows, columns, stream))
    assert torch.equal(actual[1], actual[5])


def test_philox_bits_do_not_depend_on_the_batch_or_the_threads(threads):
    rows = torch.arange(1000)
    whole = philox_bits(7, 1, rows, 401, 0)
    threads(1)
    assert torch.equal(whole, philox_bits(7, 1, rows, 401, 0))
    assert torch.equal(whole[500:], philox_bits(7, 1, rows[500:], 401, 0))
    assert torch.equal(whole[:, :41], philox_bits(7, 1, rows, 41, 0))


def test_philox_seed_and_offset_may_be_tensors():
    rows = torch.arange(3)
    expected = philox_bits(2**62 + 5, 9, rows, 10, 0)
    assert torch.equal(philox_bits(torch.tensor(2**62 + 5), torch.tensor(9), rows, 10, 0), expected)


def test_philox_opcheck():
    torch.library.opcheck(torch.ops.mmssl_fast.philox4x32, (torch.zeros(3, 4, dtype=torch.int64), 5))
    torch.library.opcheck(torch.ops.mmssl_fast.philox_bits, (torch.arange(3), 10, torch.tensor([5, 0]), 1))


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1])
def test_philox_refuses_a_seed_of_more_than_64_bits(seed):
    with pytest.raises(ValueError, match=f"^op: seed must fit in 64 bits, got {seed}"):
        seed_offset("op", seed, 0, CPU)


@pytest.mark.parametrize("value", [1.5, 2.0, "1", None, torch.tensor(1.5), torch.tensor(True)])
def test_philox_refuses_what_is_no_integer(value):
    for name, pair in (("seed", (value, 0)), ("offset", (0, value))):
        with pytest.raises(TypeError, match=f"^op: {name} must be an integer, got "):
            seed_offset("op", *pair, CPU)
    with pytest.raises(TypeError, match=r"^philox4x32: seed must be an integer, got "):
        philox4x32(value, torch.zeros(4, dtype=torch.int64))
    exact = seed_offset("op", 3, 4, CPU)
    assert torch.equal(exact, seed_offset("op", np.int64(3), np.uint8(4), CPU))


def test_philox_exports_with_a_step_that_varies():
    class Bits(torch.nn.Module):
        def forward(self, rows, step):
            return philox_bits(7, step, rows, 6, 0)

    rows = torch.arange(5)
    program = torch.export.export(Bits(), (rows, 3), dynamic_shapes=(None, torch.export.Dim.DYNAMIC)).module()
    for step in (3, 11):
        assert torch.equal(program(rows, step), philox_bits(7, step, rows, 6, 0))


@pytest.mark.parametrize("offset", [-1, 2**32])
def test_philox_refuses_an_offset_of_more_than_32_bits(offset):
    with pytest.raises(ValueError, match=f"^op: offset must be in .* got {offset}"):
        seed_offset("op", 0, offset, CPU)
    with pytest.raises(ValueError, match=f"^philox_bits: offset must be in .* got {offset}"):
        philox_bits(0, torch.tensor(offset), torch.arange(3), 4, 0)


def test_philox_refuses_a_seed_offset_that_is_not_two_integers():
    for wrong in (torch.tensor([1]), torch.tensor([[1, 0]]), torch.tensor([1.0, 0.0])):
        with pytest.raises(ValueError, match=r"^philox_bits: seed_offset must be int64 \[2\]"):
            torch.ops.mmssl_fast.philox_bits(torch.arange(3), 4, wrong, 0)


def test_philox_reads_its_seed_when_it_runs():
    """What a captured CUDA graph lives on: the tensors' values at the time of the call, not at the time of tracing."""
    seed, step = torch.tensor(5), torch.tensor(0)
    rows = torch.arange(3)
    compiled = torch.compile(lambda: philox_bits(seed, step, rows, 10, 0), fullgraph=True, backend="aot_eager")
    for at in range(3):
        step.fill_(at)
        assert torch.equal(compiled(), philox_bits(5, at, rows, 10, 0))


def test_philox_refuses_shapes():
    with pytest.raises(ValueError, match=r"^philox4x32: counter must be int64 \[..., 4\]"):
        philox4x32(0, torch.zeros(4, 3, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"^philox_bits: rows must be int64 \[B\]"):
        philox_bits(0, 0, torch.zeros(2, 2, dtype=torch.int64), 4, 0)
    with pytest.raises(ValueError, match=r"^philox_bits: columns must not be negative, got -1"):
        philox_bits(0, 0, torch.arange(2), -1, 0)


def test_every_use_of_a_seed_and_an_offset_has_a_stream_of_its_own():
    """All streams are in reference.py: a number that another file chooses may be taken already."""
    streams = [value for name, value in vars(reference).items() if name.startswith("STREAM_")]
    assert len(streams) > 10 and len(set(streams)) == len(streams)
    root = Path(__file__).parents[2]
    sources = [path for folder in ("mmssl_fast", "python") for path in (root / folder).rglob("*.py")]
    definition = re.compile(r"^_?STREAM\w*( = |, )", re.MULTILINE)
    assert [path.name for path in sources if definition.search(path.read_text())] == ["reference.py"]
