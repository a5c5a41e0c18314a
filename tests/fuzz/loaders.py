"""Gives everything that reads a file what no file should hold: valid files with bytes, words and stretches changed, and
files made up by structure.

    python -P tests/fuzz/loaders.py FOLDER --seconds 600 --seed 0 [--target NAME]

Each read ends with a sound result or with InputError in one line. Anything else is a finding: another exception, more
than 10 seconds of CPU, more than 256 MiB for a moment or 64 MiB for good, a program or connection started, a file
written outside FOLDER. FOLDER then holds the files of it, made as small as Hypothesis can. Prints JSON at the end:
{target: [read, refused, found]}; exit code 0 without a finding.
"""

import argparse
import json
import os
import resource
import shutil
import signal
import sys
import time
import traceback
import warnings
from itertools import count
from pathlib import Path

import torch
from hypothesis import HealthCheck, Phase, given, seed, settings
from mmssl_trainer.data import InputError

sys.path.extend(str(Path(__file__).parents[1] / folder) for folder in ("", "helpers"))  # as pytest's pythonpath

from data_folders import WRITERS
from fuzz.reader_targets import data_targets, run_targets

LONGEST_READ, LONGEST_WAIT = 10, 300  # seconds of CPU; by the clock, for a machine that does much else
FOR_A_MOMENT, FOR_GOOD = 256 << 20, 64 << 20
ROUND = 100  # examples of one target before the next has its turn, fewer where there are few seconds
FORBIDDEN = {
    "os.system",
    "os.exec",
    "os.fork",
    "os.posix_spawn",
    "os.remove",
    "os.rename",
    "os.mkdir",
    "os.rmdir",
    "os.chmod",
    "os.link",
    "os.symlink",
    "os.truncate",
    "shutil.rmtree",
    "subprocess.Popen",
    "socket.connect",
    "pickle.find_class",
    "ctypes.dlopen",
}


class Finding(AssertionError):
    """What a reader must not do."""


class Watch:
    """An audit hook that is asked to look while a file is read."""

    def __init__(self):
        self.active = False
        sys.addaudithook(self._heard)

    def _heard(self, event, arguments):
        if not self.active:
            return
        source = arguments[0].co_filename if event == "exec" else arguments[1] if event == "compile" else ""
        if event in FORBIDDEN or str(source).startswith("<"):  # a module's own code has a file
            raise Finding(f"{event} {arguments!r:.200}")
        if event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR):
            raise Finding(f"writes {arguments[0]!r:.200}")


def _status(key):
    with open("/proc/self/status") as file:
        return next(1024 * int(line.split()[1]) for line in file if line.startswith(key))


def _too_long(*_):
    raise Finding(f"still reading after {LONGEST_READ} s of CPU or {LONGEST_WAIT} s")


def attempt(target, folder, watch):
    """Whether the folder's files were read; False where they were refused as they should be."""
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")  # the highest so far is forgotten
    before = _status("VmRSS")
    signal.setitimer(signal.ITIMER_PROF, LONGEST_READ)
    signal.alarm(LONGEST_WAIT)
    watch.active = True
    try:
        target.read(folder)
        return True
    except InputError as error:
        said = str(error)
        if not said.isprintable() or not 0 < len(said) <= 600:
            raise Finding(f"refused in other than one line: {said!r}") from None
        return False
    finally:
        watch.active = False
        signal.setitimer(signal.ITIMER_PROF, 0)
        signal.alarm(0)
        if _status("VmHWM") - before > FOR_A_MOMENT:
            raise Finding(f"took {_status('VmHWM') - before} bytes")


def once(name, target, changes, folder, number, examples, watch, counts):
    """Some examples of one target; whether one of them is a finding, whose files are then kept."""
    place, kept = folder / name, folder / f"finding-{name}-{number}"
    for file, content in target.files.items():
        (place / file).parent.mkdir(parents=True, exist_ok=True)
        (place / file).write_bytes(content)

    @seed(number)
    @settings(
        max_examples=examples,
        deadline=None,
        database=None,
        phases=[Phase.generate, Phase.shrink],
        suppress_health_check=list(HealthCheck),
        print_blob=False,
    )
    @given(changes)
    def tried(changes):
        for file, content in changes.items():
            (place / file).write_bytes(content)
        try:
            counts["read" if attempt(target, place, watch) else "refused"] += 1
        except Exception:
            shutil.copytree(place, kept, dirs_exist_ok=True)
            raise
        finally:
            for file in changes:
                (place / file).write_bytes(target.files[file])

    try:
        tried()
    except Exception as error:
        print(f"{name}, round {number}: {type(error).__name__}: {str(error)[:300]}; its files: {kept}")
        traceback.print_exc(limit=-3, file=sys.stdout)
        counts["found"] += 1
        return True
    return False


def main():
    parser = argparse.ArgumentParser()
    parser.add_argument("folder", type=Path)
    parser.add_argument("--seconds", type=float, default=600, help="of CPU, in all")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--target")
    chosen = parser.parse_args()
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    for number in (signal.SIGALRM, signal.SIGPROF):
        signal.signal(number, _too_long)
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    targets = data_targets(chosen.folder) | run_targets(chosen.folder)
    left = {name: one for name, one in targets.items() if chosen.target in (None, name)}
    changes = {name: one.changes() for name, one in left.items()}
    counts = {name: dict.fromkeys(("read", "refused", "found"), 0) for name in left}
    for name, target in left.items():
        target.read(chosen.folder / "valid" / (name if name in WRITERS else "run"))  # imports what is imported late
    examples = max(25, min(ROUND, int(chosen.seconds)))
    watch, begun, settled, tried = Watch(), time.process_time(), None, list(left)
    for number in count(chosen.seed * 1_000_000):
        for name in list(left):
            if once(name, left[name], changes[name], chosen.folder, number, examples, watch, counts[name]):
                del left[name]
        spent = time.process_time() - begun
        if settled is None and spent > chosen.seconds / 3:
            settled = _status("VmRSS")
        if not left or spent > chosen.seconds:
            break
    growth = max(0, _status("VmRSS") - settled) if settled else 0
    print(
        json.dumps(
            {name: list(counts[name].values()) for name in tried} | {"seconds": round(spent, 1), "growth": growth}
        )
    )
    return int(any(one["found"] for one in counts.values()) or growth > FOR_GOOD)


if __name__ == "__main__":
    sys.exit(main())
