"""Throws at every op in torch.ops.mmssl_fast what no program should: tensors of other shapes, strides, dtypes, layouts
and devices, indices out of range, sizes beyond memory.

    python -P tests/fuzz/ops.py --examples 40 --seed 0 --journal FILE [--op NAME]

Each call is noted in the journal before it is made, so that a crash names it. Exit code 0: every call returned tensors
or raised one of REFUSALS. What went wrong is printed otherwise. Ops are read from the registry: one that OVERRIDES and
VALUES cannot give sound arguments is a failure, so a new op cannot be forgotten.
"""

import argparse
import os
import resource
import signal
import sys
import traceback
import warnings
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from hypothesis import strategies as st

sys.path.append(str(Path(__file__).parents[1]))  # as pytest's pythonpath

from fuzz.op_arguments import EDIT, FLOATS, INTEGERS, KINDS, OVERRIDES, VALUES

NAMESPACE = "mmssl_fast::"
# AttributeError: an op that is written in Python was given something else than a tensor.
REFUSALS = (
    ValueError,
    RuntimeError,
    TypeError,
    NotImplementedError,
    IndexError,
    MemoryError,
    OverflowError,
    AttributeError,
)
LONGEST_CALL = 2  # seconds
EXTRA_MEMORY = 3 << 30


def ops():
    """{name: schema} of every op that is registered."""
    mine = [one for one in torch._C._jit_get_all_schemas() if one.name.startswith(NAMESPACE)]
    return {one.name.removeprefix(NAMESPACE): one for one in sorted(mine, key=lambda one: one.name)}


def sound_arguments(op, schema):
    """What the op should take, in order."""
    found = []
    for argument in schema.arguments:
        make = OVERRIDES.get(op, {}).get(argument.name) or VALUES.get(argument.name)
        if make is None and str(argument.type) == "bool":
            make = bool
        if make is None:
            raise LookupError(f"tests/fuzz/op_arguments.py: no value for argument {argument.name!r} of {op}")
        found.append(make())
    return found


def changed(value, argument, edit, number, fraction):
    """An argument after one edit, and what the edit was."""
    kind, choice = edit
    if isinstance(value, torch.Tensor):
        try:
            return KINDS[kind][1](value, choice), f"{argument.name}: {kind} {choice}"
        except (RuntimeError, IndexError, ValueError, TypeError, NotImplementedError):
            return value, f"{argument.name}: as it was"  # the edit itself makes no sense for this tensor
    if isinstance(value, bool):
        return not value, f"{argument.name}: {not value}"
    return (fraction if isinstance(value, float) else number), f"{argument.name}: {number, fraction}"


def touch(result):
    """Read every returned tensor whole: what lies outside memory shows here."""
    for one in result if isinstance(result, (tuple, list)) else [result]:
        if isinstance(one, torch.Tensor):
            assert all(0 <= side < 2**62 for side in one.shape), one.shape
            if one.device.type == "cpu" and one.numel() < 1 << 24:
                one.detach().double().sum()


class TooLong(Exception):
    """The call was still at work: of 2^40 rows an op that goes tile by tile does not refuse."""


def too_long(*_):
    raise TooLong


def attempt(op, arguments, journal, note):
    """Call the op; whether it returned. Anything but REFUSALS passes through."""
    os.pwrite(journal, f"{op}: {note}".ljust(2000)[:2000].encode(), 0)
    try:
        touch(getattr(torch.ops.mmssl_fast, op)(*arguments))
        return True
    except REFUSALS:
        return False


def fuzz(op, schema, examples, number, journal):
    """Call one op `examples` times with up to three arguments changed, after once with none."""
    if not attempt(op, sound_arguments(op, schema), journal, "sound arguments"):
        getattr(torch.ops.mmssl_fast, op)(*sound_arguments(op, schema))
    places = st.integers(0, len(schema.arguments) - 1)
    edit = st.tuples(places, EDIT, st.sampled_from(INTEGERS), st.sampled_from(FLOATS))
    edits = st.lists(edit, min_size=1, max_size=3, unique_by=lambda one: one[0])

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @given(edits)
    def once(chosen):
        signal.setitimer(signal.ITIMER_REAL, LONGEST_CALL, 1)  # again where a callback of the collector swallows it
        arguments, notes = sound_arguments(op, schema), []
        for place, *how in chosen:
            arguments[place], note = changed(arguments[place], schema.arguments[place], *how)
            notes.append(note)
        try:
            attempt(op, arguments, journal, "; ".join(notes))
        except TooLong:
            if "2^" not in "".join(notes):
                raise
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)

    once()


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("--examples", type=int, default=40)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--journal", required=True)
    parser.add_argument("--op")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    signal.signal(signal.SIGALRM, too_long)
    with open("/proc/self/statm") as file:
        held = int(file.read().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (held + EXTRA_MEMORY,) * 2)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    journal = os.open(chosen.journal, os.O_CREAT | os.O_RDWR)
    failed = []
    every = ops()
    for op in [chosen.op] if chosen.op else every:
        try:
            fuzz(op, every[op], chosen.examples, chosen.seed, journal)
        except Exception as error:
            call = os.pread(journal, 2000, 0).decode().strip()
            failed.append(op)
            print(f"{call}\n  seed {chosen.seed}: {type(error).__name__}: {str(error)[:300]}")
            traceback.print_exc(limit=-2)
    print(f"{len(every) if not chosen.op else 1} ops x {chosen.examples} calls, {len(failed)} failed: {failed}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
