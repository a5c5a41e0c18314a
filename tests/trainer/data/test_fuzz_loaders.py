"""Everything that reads a file, fuzzed in a process of its own: seconds in the suite, ten minutes with -m fuzz."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from fuzz import loaders
from fuzz.reader_targets import Target
from mmssl_trainer.data import InputError

PROGRAM = Path(__file__).parents[2] / "fuzz" / "loaders.py"
DATA = {"diffmm", "hkuds", "mmrec", "plain_csv", "plain_parquet", "plain_named"}
TARGETS = DATA | {"model", "state", "configuration", "figures"}


def fuzz(folder, seconds, number):
    command = [sys.executable, "-P", str(PROGRAM), str(folder), "--seconds", str(seconds), "--seed", str(number)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, f"exit code {done.returncode}\n{done.stdout}{done.stderr[-2000:]}"
    found = json.loads(done.stdout.splitlines()[-1])
    assert {name for name in found if isinstance(found[name], list)} == TARGETS
    assert all(read and refused and not findings for read, refused, findings in (found[name] for name in TARGETS))


def test_no_file_harms_a_reader(tmp_path):
    fuzz(tmp_path, 1, 0)


@pytest.mark.fuzz
def test_no_file_harms_a_reader_for_minutes(tmp_path):
    """MMSSL_FAST_FUZZ_SECONDS of CPU, by default ten minutes, from another seed each time it is given one."""
    seconds = float(os.environ.get("MMSSL_FAST_FUZZ_SECONDS", "600"))
    fuzz(tmp_path, seconds, int(os.environ.get("MMSSL_FAST_FUZZ_SEED", "1")))


def refused_in_two_lines():
    error = InputError("one")
    error.args = ("one\ntwo",)
    raise error


HARMS = {
    "another exception": (lambda: 1 / 0, ZeroDivisionError),
    "a program": (lambda: os.system("true"), loaders.Finding),
    "code of the file's own": (lambda: eval("1 + 1"), loaders.Finding),
    "a file elsewhere": (lambda: open("written", "w"), loaders.Finding),
    "two lines": (refused_in_two_lines, loaders.Finding),
    "memory": (lambda: bytearray(os.urandom(1 << 20)) * 300, loaders.Finding),
    "a hang": (lambda: time.sleep(9), loaders.Finding),
    "a loop": (lambda: [None for _ in range(10**8)], loaders.Finding),
}


@pytest.mark.parametrize("harm", HARMS)
def test_harm_is_a_finding(harm, watch, monkeypatch, tmp_path):
    """Nothing else than a sound result or a line passes the watch."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(loaders, "LONGEST_READ", 0.2)
    monkeypatch.setattr(loaders, "LONGEST_WAIT", 900 if harm == "a hang" else 9000)
    monkeypatch.setattr(signal, "alarm", lambda seconds: signal.setitimer(signal.ITIMER_REAL, seconds / 3000))
    read, kind = HARMS[harm]
    with pytest.raises(kind):
        loaders.attempt(Target({}, lambda _: read()), tmp_path, watch)
    assert not list(tmp_path.iterdir())


def test_sound_reads_and_refusals_pass(watch, tmp_path):
    def refused(_):
        raise InputError(f"{tmp_path}: no")

    assert loaders.attempt(Target({}, lambda _: None), tmp_path, watch)
    assert not loaders.attempt(Target({}, refused), tmp_path, watch)


@pytest.fixture(scope="module")
def watch():
    before = {number: signal.signal(number, loaders._too_long) for number in (signal.SIGALRM, signal.SIGPROF)}
    yield loaders.Watch()
    for number, handler in before.items():
        signal.signal(number, handler)
