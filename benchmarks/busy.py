"""Training on a busy machine: processor and wall time of two epochs on the built-in data set, while N single-threaded
processes compute without end.

    python -P benchmarks/busy.py
    python -P benchmarks/busy.py --against /path/to/another/venv/bin/mmssl-fast
    python -P benchmarks/busy.py --also OMP_WAIT_POLICY=ACTIVE --also GOMP_SPINCOUNT=1000

For every N, several configurations run in turns: the default of the command line, one thread (OMP_NUM_THREADS=1), one
thread per processor, --also with an additional environment variable, and --against with the command of another build.
Prints a Markdown page with the medians, the medians of the ratios within a round, and the targets.
"""

import argparse
import os
import shlex
import statistics
import subprocess
import sys
import tempfile
import time
from contextlib import contextmanager
from datetime import date
from pathlib import Path

from mmssl_trainer import threads

# Ends when the process that started it has ended for any reason.
SPIN = """import os
parent = os.getppid()
while os.getppid() == parent:
    for _ in range(1_000_000): pass"""
CPU_TARGET, WALL_TARGET, BEFORE_TARGET = 1.2, 1.1, 1.0
OURS, ONE, ALL, OTHER = "command line's choice", "one thread", "a thread per processor", "other build"
# The runs must not inherit these settings, because each sets its own.
CLEARED = (*threads.WAIT_SETTINGS, "OMP_NUM_THREADS", "OMP_PROC_BIND", "OMP_DYNAMIC", "MKL_NUM_THREADS")


@contextmanager
def spinners(n):
    """A context in which n single-threaded processes compute without end."""
    started = []
    try:
        started += [subprocess.Popen([sys.executable, "-c", SPIN]) for _ in range(n)]
        if n:
            time.sleep(2)
        yield
    finally:
        for process in started:
            process.kill()
            process.wait()


def measure(command, settings, folder):
    """The processor and wall seconds of a command with these environment variables, including its child processes."""
    environ = {name: value for name, value in os.environ.items() if name not in CLEARED} | settings
    with open(Path(folder) / "output", "w+b") as output:
        begun = time.perf_counter()
        process = subprocess.Popen(command, env=environ, cwd=folder, stdout=output, stderr=subprocess.STDOUT)
        _, status, usage = os.wait4(process.pid, 0)
        wall = time.perf_counter() - begun
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode:
            output.seek(0)
            text = output.read().decode(errors="replace")
            raise SystemExit(f"{shlex.join(command)}: exit code {process.returncode}\n{text}")
    return usage.ru_utime + usage.ru_stime, wall


def ways(epochs, also, against):
    """{name: (command, environment variables)}."""
    arguments = ["train", "--epochs", str(epochs), "--overwrite", "--out", "run"]
    ours = [sys.executable, "-P", "-m", "mmssl_trainer", *arguments]
    found = {
        OURS: (ours, {}),
        ONE: (ours, {"OMP_NUM_THREADS": "1"}),
        ALL: (ours, {"OMP_NUM_THREADS": str(threads.available())}),
    }
    found |= {setting: (ours, dict([setting.split("=", 1)])) for setting in also}
    if against:
        found[OTHER] = ([*shlex.split(against), *arguments], {})
    return found


def rounds(n, chosen, most, seconds):
    """{way: [(processor seconds, wall seconds) of every round]} with n spinning processes: `most` rounds, or fewer if
    the time is over, but at least one."""
    results = {name: [] for name in chosen}
    begun = time.perf_counter()
    with spinners(n), tempfile.TemporaryDirectory() as folder:
        for done in range(most):
            spent = time.perf_counter() - begun
            if done and spent * (done + 1) / done > seconds:
                break
            for name, (command, settings) in chosen.items():
                results[name].append(measure(command, settings, folder))
                cpu, wall = results[name][-1]
                print(f"{n} spinning, round {done + 1}, {name}: CPU {cpu:.1f} s, wall {wall:.1f} s", file=sys.stderr)
    return results


def summary(results):
    """[(way, CPU s, CPU / one thread's, wall s, wall / the better of one and all threads)]: medians."""
    one, every = results[ONE], results[ALL]
    rows = []
    for name, measured in results.items():
        cpu = [ours[0] / other[0] for ours, other in zip(measured, one, strict=True)]
        wall = [ours[1] / min(a[1], b[1]) for ours, a, b in zip(measured, one, every, strict=True)]
        medians = [statistics.median(column) for column in zip(*measured, strict=True)]
        rows.append((name, medians[0], statistics.median(cpu), medians[1], statistics.median(wall)))
    return rows


def verdicts(n, results):
    """A sentence for every target that says whether it is met."""
    _, _, cpu, _, wall = summary(results)[0]
    said = [
        f"CPU seconds {cpu:.2f} times one thread's (target {CPU_TARGET}): {_met(cpu, CPU_TARGET)}",
        f"wall {wall:.2f} times the better of one and all threads (target {WALL_TARGET}): {_met(wall, WALL_TARGET)}",
    ]
    if n == 0 and OTHER in results:
        ratio = statistics.median(a[1] / b[1] for a, b in zip(results[OURS], results[OTHER], strict=True))
        said.append(f"wall {ratio:.2f} times the other build's (target {BEFORE_TARGET}): {_met(ratio, BEFORE_TARGET)}")
    return said


def _met(ratio, target):
    return "met" if ratio <= target else "missed"


def page(measured, epochs):
    """Markdown of [(spinners, processors kept busy by others, load average, results)]."""
    lines = [
        f"# Training beside other work, {date.today()}",
        "",
        f"`python -P benchmarks/busy.py`: the built-in data set, {epochs} epochs, {threads.available()} processors; "
        "every run is a process of its own, its start included.",
    ]
    for n, busy, load, results in measured:
        lines += [
            "",
            f"## {n} spinning processes",
            "",
            f"{len(results[OURS])} rounds in turns. Before them, other work kept {busy:.1f} processors busy "
            f"(load average {load:.1f}).",
            "",
            "| | CPU s | of one thread's | wall s | of the better of one and all threads |",
            "|---|---:|---:|---:|---:|",
        ]
        rows = summary(results)
        lines += [
            f"| {way} | {cpu:.1f} | {of_one:.2f} | {wall:.1f} | {of_best:.2f} |"
            for way, cpu, of_one, wall, of_best in rows
        ]
        lines += ["", *(f"- {sentence}" for sentence in verdicts(n, results))]
    return "\n".join(lines) + "\n"


def main(argv=None):
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--spinners", type=int, nargs="+", default=[0, 2, 4], metavar="N")
    parser.add_argument("--rounds", type=int, default=5, help="most rounds for each N")
    parser.add_argument("--minutes", type=float, default=20, help="for all; there is at least one round for each N")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--also", action="append", default=[], metavar="NAME=VALUE", help="one more way to run")
    parser.add_argument("--against", metavar="COMMAND", help="mmssl-fast of another build")
    chosen = parser.parse_args(argv)
    if any("=" not in setting for setting in chosen.also):
        parser.error("--also: write NAME=VALUE")
    compared = ways(chosen.epochs, chosen.also, chosen.against)
    measured = []
    for n in chosen.spinners:
        busy, load = threads.Load().busy(set(range(os.cpu_count() or 1)), window=1.0), os.getloadavg()[0]
        seconds = 60 * chosen.minutes / len(chosen.spinners)
        measured.append((n, busy, load, rounds(n, compared, chosen.rounds, seconds)))
    print(page(measured, chosen.epochs), end="")
    return 0


if __name__ == "__main__":
    sys.exit(main())
