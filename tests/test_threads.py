"""How many threads a process uses and how they wait: what the system grants, what the user sets, and when."""

import importlib.util
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from mmssl_trainer import threads
from mmssl_trainer.config.load import load
from mmssl_trainer.study.processes import sharing

GROUPS = "sys/fs/cgroup/"
CPU = GROUPS + "cpu,cpuacct/"
V2 = "41 31 0:38 / /sys/fs/cgroup rw,relatime shared:9 - cgroup2 cgroup2 rw\n"
V1 = (
    "31 23 0:28 / /sys/fs/cgroup rw - tmpfs tmpfs rw,mode=755\n"
    "32 31 0:29 {top} /sys/fs/cgroup/cpu,cpuacct rw,relatime - cgroup cgroup rw,cpu,cpuacct\n"
    "34 31 0:31 / /sys/fs/cgroup/cpuset rw,relatime - cgroup cgroup rw,cpuset\n"
)


def system(root, groups, mounts, files):
    """A made-up root folder: /proc/self/cgroup, /proc/self/mountinfo and the files of the groups."""
    for name, text in {"proc/self/cgroup": groups, "proc/self/mountinfo": mounts, **files}.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


@pytest.mark.parametrize(
    "groups, mounts, files, expected",
    [
        ("0::/\n", V2, {}, float("inf")),
        ("0::/\n", V2, {GROUPS + "cpu.max": "150000 100000\n"}, 1.5),
        ("0::/\n", V2, {GROUPS + "cpu.max": "max 100000\n"}, float("inf")),
        # The tightest of nested groups, wherever it is on the path; groups beside the path do not count.
        (
            "0::/a.slice/b.scope\n",
            V2,
            {
                GROUPS + "a.slice/cpu.max": "200000 100000\n",
                GROUPS + "a.slice/b.scope/cpu.max": "max 100000\n",
                GROUPS + "c.slice/cpu.max": "10000 100000\n",
            },
            2.0,
        ),
        (
            "0::/a.slice/b.scope\n",
            V2,
            {GROUPS + "a.slice/cpu.max": "800000 100000\n", GROUPS + "a.slice/b.scope/cpu.max": "50000 100000\n"},
            0.5,
        ),
        # Version 1, the group's folder below the mount.
        (
            "9:name=systemd:/x\n4:cpu,cpuacct:/jobs/7\n0::/\n",
            V1.format(top="/"),
            {
                CPU + "jobs/cpu.cfs_quota_us": "-1\n",
                CPU + "jobs/cpu.cfs_period_us": "100000\n",
                CPU + "jobs/7/cpu.cfs_quota_us": "300000\n",
                CPU + "jobs/7/cpu.cfs_period_us": "50000\n",
            },
            6.0,
        ),
        # Version 1 in a container: the mount begins at the container's group.
        (
            "4:cpu,cpuacct:/docker/abc\n",
            V1.format(top="/docker/abc"),
            {CPU + "cpu.cfs_quota_us": "250000\n", CPU + "cpu.cfs_period_us": "100000\n"},
            2.5,
        ),
        # A group outside of what is mounted here: the mount itself is what is known.
        ("0::/../../other\n", V2, {GROUPS + "cpu.max": "100000 100000\n"}, 1.0),
        # A mount point with a space, an empty file, no number, a period of 0.
        ("0::/\n", V2.replace("/sys/fs/cgroup", "/my\\040groups"), {"my groups/cpu.max": "100000 50000\n"}, 2.0),
        ("0::/\n", V2, {GROUPS + "cpu.max": ""}, float("inf")),
        ("0::/\n", V2, {GROUPS + "cpu.max": "some 100000"}, float("inf")),
        ("0::/\n", V2, {GROUPS + "cpu.max": "100000 0"}, float("inf")),
        ("", "", {}, float("inf")),
    ],
)
def test_quota_of_control_groups(tmp_path, groups, mounts, files, expected):
    assert threads.cgroup_quota(system(tmp_path, groups, mounts, files)) == expected


def test_no_control_groups(tmp_path):
    assert threads.cgroup_quota(tmp_path) == float("inf")


def processors(monkeypatch, n):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(n)), raising=False)


@pytest.mark.parametrize(
    "affinity, quota, expected", [(8, None, 8), (8, 350000, 3), (2, 350000, 2), (8, 50000, 1), (1, None, 1)]
)
def test_available_is_the_affinity_or_the_quota(monkeypatch, tmp_path, affinity, quota, expected):
    processors(monkeypatch, affinity)
    files = {} if quota is None else {GROUPS + "cpu.max": f"{quota} 100000\n"}
    assert threads.available(system(tmp_path, "0::/\n", V2, files)) == expected


def test_available_without_affinity(monkeypatch, tmp_path):
    monkeypatch.delattr(os, "sched_getaffinity", raising=False)
    monkeypatch.setattr(os, "cpu_count", lambda: 6)
    assert threads.available(tmp_path) == 6


def test_busy_processors(monkeypatch, tmp_path):
    """user nice system idle iowait irq softirq steal; processor 3 is not among those asked for."""
    before = (
        "cpu  0 0 0 0\ncpu0 10 0 0 90 0 0 0 0\ncpu1 0 0 0 100 0 0 0 0\ncpu2 5 5 5 5 5 5 5 5 9 9\ncpu3 0 0 0 0 0 0 0 0\n"
    )
    after = (
        "cpu  0 0 0 0\ncpu0 16 0 2 90 0 0 0 2\ncpu1 0 5 0 103 2 0 0 0\ncpu2 6 5 6 9 6 6 6 6 9 9\ncpu3 9 0 0 0 0 0 0 0\n"
    )
    system(tmp_path, "", "", {"proc/stat": before})
    monkeypatch.setattr(threads.time, "sleep", lambda _: (tmp_path / "proc/stat").write_text(after))
    assert threads.busy_processors({0, 1, 2, 7}, tmp_path) == pytest.approx(1 + 0 + 0.5)


def test_busy_processors_is_0_where_nothing_is_known(tmp_path):
    assert threads.busy_processors({0, 1}, tmp_path, window=0) == 0


@pytest.mark.parametrize(
    "n, quota, busy, load, expected",
    [
        (2, 2, 0.0, 0.0, 2),
        (2, 2, 2.0, 6.0, 2),  # two threads, however busy the processors
        (4, 4, 4.0, 9.0, 2),
        (8, 8, 1.0, 1.0, 7),
        (8, 8, 8.0, 0.2, 8),  # busy for a moment
        (8, 8, 0.1, 9.0, 8),  # was busy, or others of the host's processors are
        (8, 1, 8.0, 9.0, 1),
        (16, 16, 4.0, 4.0, 13),
        (16, 16, 16.0, 40.0, 8),
        (64, 4, 30.0, 30.0, 4),  # a quota that the free processors cover
        (1, 1, 1.0, 9.0, 1),
    ],
)
def test_choose(monkeypatch, n, quota, busy, load, expected):
    processors(monkeypatch, n)
    monkeypatch.setattr(threads, "cgroup_quota", lambda root: quota)
    monkeypatch.setattr(threads, "busy_processors", lambda processors: busy)
    monkeypatch.setattr(os, "getloadavg", lambda: (load, 0.0, 0.0))
    assert threads.choose() == expected


@pytest.mark.parametrize(
    "environ, jobs, expected",
    [
        ({}, 1, {"OMP_NUM_THREADS": "6", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({}, 4, {"OMP_NUM_THREADS": "1", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": ""}, 2, {"OMP_NUM_THREADS": "3", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "9"}, 1, {"OMP_NUM_THREADS": "9", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "9,2"}, 1, {"OMP_NUM_THREADS": "9,2", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "9,2"}, 2, {"OMP_NUM_THREADS": "4", "OMP_WAIT_POLICY": "PASSIVE"}),
        ({"OMP_NUM_THREADS": "many"}, 2, {"OMP_NUM_THREADS": "many", "OMP_WAIT_POLICY": "PASSIVE"}),
        (
            {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
            1,
            {"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"},
        ),
        ({"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "7"}, 1, {"OMP_NUM_THREADS": "2", "GOMP_SPINCOUNT": "7"}),
        ({"OMP_NUM_THREADS": "2", "KMP_BLOCKTIME": "1"}, 1, {"OMP_NUM_THREADS": "2", "KMP_BLOCKTIME": "1"}),
    ],
)
def test_configure_keeps_what_the_user_set(monkeypatch, environ, jobs, expected):
    monkeypatch.setattr(threads, "available", lambda: 6)
    monkeypatch.setattr(threads, "choose", lambda busy: 6)
    monkeypatch.setattr(threads, "busy_processors", lambda processors: 1.0)
    assert threads.configure(jobs, environ) == ""
    assert environ == expected


@pytest.mark.parametrize(
    "n, granted, busy, jobs, policy",
    [
        (6, 6, 0.1, 1, None),  # idle, and all of it for one process
        (6, 6, 0.1, 2, "PASSIVE"),
        (6, 5, 0.1, 1, "PASSIVE"),  # a quota: who spins uses up the time of those who work
        (6, 6, 0.3, 1, "PASSIVE"),
    ],
)
def test_configure_lets_threads_spin_on_idle_processors_alone(monkeypatch, n, granted, busy, jobs, policy):
    monkeypatch.setattr(threads, "_affinity", lambda: set(range(n)))
    monkeypatch.setattr(threads, "available", lambda: granted)
    monkeypatch.setattr(threads, "busy_processors", lambda processors: busy)
    for given in ({}, {"OMP_NUM_THREADS": "2"}):
        environ = dict(given)
        threads.configure(jobs, environ)
        assert environ.get("OMP_WAIT_POLICY") == policy


def test_configure_says_why_there_are_fewer_threads(monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 6)
    monkeypatch.setattr(threads, "choose", lambda busy: 4)
    environ = {}
    assert threads.configure(environ=environ).startswith("4 of 6 threads") and environ["OMP_NUM_THREADS"] == "4"
    assert threads.configure(environ=environ) == ""


WHEN_TORCH_IS_IMPORTED = """
import json, os, sys
class Look:
    def find_spec(self, name, path=None, target=None):
        if name in ("torch", "numpy"):
            seen.setdefault(name, [os.environ.get("OMP_NUM_THREADS"), os.environ.get("OMP_WAIT_POLICY")])
seen = {}
sys.meta_path.insert(0, Look())
from mmssl_trainer import threads
assert not {"torch", "numpy"} & sys.modules.keys()
threads.choose, threads.available, threads.busy_processors = lambda busy: 1, lambda: 1, lambda processors: 1.0
from mmssl_trainer.cli.main import main
code = main(sys.argv[1:])
import torch
print(json.dumps([code, seen, torch.get_num_threads()]))
"""


@pytest.mark.parametrize(
    "environ, expected",
    [
        ({}, ["1", "PASSIVE"]),
        ({"OMP_NUM_THREADS": "2"}, ["2", "PASSIVE"]),
        ({"OMP_NUM_THREADS": "2", "OMP_WAIT_POLICY": "ACTIVE"}, ["2", "ACTIVE"]),
        ({"GOMP_SPINCOUNT": "0"}, ["1", None]),
    ],
)
def test_command_line_configures_before_torch_is_imported(tmp_path, environ, expected):
    clean = {
        name: value for name, value in os.environ.items() if name not in ("OMP_NUM_THREADS", *threads.WAIT_SETTINGS)
    }
    command = [sys.executable, "-P", "-c", WHEN_TORCH_IS_IMPORTED, "doctor", "--json"]
    done = subprocess.run(command, env=clean | environ, capture_output=True, text=True, check=True, cwd=tmp_path)
    _, seen, number = json.loads(done.stdout.splitlines()[-1])
    assert seen == {"torch": expected, "numpy": expected}, done.stderr
    assert number == 1 or expected[0] != "1"


def test_threads_option_wins(tmp_path):
    out = tmp_path / "run"
    command = [
        sys.executable,
        "-P",
        "-m",
        "mmssl_trainer",
        "train",
        "--system",
        "mf",
        "--epochs",
        "1",
        "--set",
        "model.dim=8",
        "--no-compare",
    ]
    for number, more in (("2", ["--threads", "2"]), ("1", [])):
        done = subprocess.run(
            [*command, "--out", str(out), "--overwrite", *more],
            env=os.environ | {"OMP_NUM_THREADS": "1"},
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
        )
        assert done.returncode == 0, done.stderr
        assert f"threads = {number}\n" in (out / "config.toml").read_text()


@pytest.mark.parametrize("number, jobs, asked, expected", [(8, 3, 0, 2), (8, 20, 0, 1), (8, 3, 5, 5), (1, 2, 0, 1)])
def test_jobs_share_the_threads(threads, number, jobs, asked, expected):
    threads(number)
    assert sharing(load(None, {"train.threads": (asked, "test")}), jobs).train.threads == expected


SMALL_OPS = """
import os, torch
from mmssl_fast import InteractionGraph, bpr_loss, propagate, sample_bpr
from mmssl_fast.ops.spmm import spmm
from mmssl_fast.ops.unit_rows import unit_rows
def running():
    return len(os.listdir("/proc/self/task"))
graph = InteractionGraph.from_pairs(range(50), range(50), 50, 50)
x, ids = torch.empty(50, 64).fill_(1), torch.arange(50)
before = running()
unit_rows(x), propagate(graph, x), bpr_loss(x, x, ids, ids, ids), sample_bpr(graph, 50, 0)
small = running() - before
unit_rows(torch.empty(100_000, 64))
print(small, running() - before)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="counts threads in /proc")
def test_small_ops_wake_no_other_thread():
    done = subprocess.run(
        [sys.executable, "-P", "-c", SMALL_OPS],
        env=os.environ | {"OMP_NUM_THREADS": "2"},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout.split() == ["0", "1"]


# Stands before OpenMP's own entry to a parallel region and counts the calls from mmssl_fast's library that start one.
COUNTER = r"""
#define _GNU_SOURCE
#include <dlfcn.h>
#include <string.h>

static long regions;

long regions_of_mmssl_fast(void) { return regions; }

void GOMP_parallel(void (*function)(void *), void *data, unsigned threads, unsigned flags) {
  void (*parallel)(void (*)(void *), void *, unsigned, unsigned) = dlsym(RTLD_NEXT, "GOMP_parallel");
  int (*nested)(void) = dlsym(RTLD_NEXT, "omp_in_parallel");
  Dl_info info;
  if (!nested() && dladdr((void *)function, &info) && strstr(info.dli_fname, "mmssl_fast/_C")) ++regions;
  parallel(function, data, threads, flags);
}
"""
ONE_STEP = """
import ctypes, sys, torch
from mmssl_fast import InteractionGraph, sample_bpr
from mmssl_trainer.config.load import load
from mmssl_trainer.data import synthetic
from mmssl_trainer.systems import create
from mmssl_trainer.systems.base import Batch
torch.set_num_threads(2)
dataset, config = synthetic(0), load(None, {})
graph, system = InteractionGraph.from_scipy(dataset.train), create("mmssl")
system.build(dataset, graph, config)
system.start_epoch(1)
system.step(Batch(*sample_bpr(graph, config.train.batch, 0, 0), 0))
count = ctypes.CDLL(sys.argv[1]).regions_of_mmssl_fast
before = count()
system.step(Batch(*sample_bpr(graph, config.train.batch, 0, 1), 1))
print(count() - before)
"""


@pytest.mark.skipif(sys.platform != "linux" or shutil.which("cc") is None, reason="needs Linux and a C compiler, cc")
def test_step_enters_few_parallel_regions(tmp_path):
    source, library = tmp_path / "counter.c", tmp_path / "counter.so"
    source.write_text(COUNTER)
    subprocess.run(["cc", "-O1", "-shared", "-fPIC", str(source), "-o", str(library), "-ldl"], check=True)
    environ = os.environ | {"LD_PRELOAD": str(library), "OMP_WAIT_POLICY": "PASSIVE"}
    command = [sys.executable, "-P", "-c", ONE_STEP, str(library)]
    done = subprocess.run(command, env=environ, capture_output=True, text=True, check=True)
    assert 20 <= int(done.stdout) <= 64


@pytest.fixture(scope="module")
def busy():
    spec = importlib.util.spec_from_file_location("busy", Path(__file__).parents[1] / "benchmarks" / "busy.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_busy_compares_within_rounds(busy):
    results = {
        busy.OURS: [(8.0, 10.0), (9.0, 30.0), (8.0, 11.0)],
        busy.ONE: [(8.0, 20.0), (6.0, 25.0), (8.0, 20.0)],
        busy.ALL: [(16.0, 10.0), (9.0, 30.0), (16.0, 10.0)],
        busy.OTHER: [(20.0, 20.0), (20.0, 20.0), (20.0, 10.0)],
    }
    assert busy.summary(results)[0] == (busy.OURS, 8.0, 1.0, 11.0, pytest.approx(1.1))
    assert busy.summary(results)[2][2] == 2.0
    met = [sentence.rsplit(": ", 1)[1] for sentence in busy.verdicts(0, results)]
    assert met == ["met", "met", "missed"] and len(busy.verdicts(2, results)) == 2
    text = busy.page([(0, 0.25, 1.0, results)], 2)
    assert "| one thread | 8.0 | 1.00 | 20.0 | 2.00 |" in text and "3 rounds" in text


def test_busy_runs_under_the_settings_asked_for(busy):
    found = busy.ways(2, ["GOMP_SPINCOUNT=10"], "other/python -m command")
    assert found[busy.OURS][1] == {} and found[busy.ONE][1] == {"OMP_NUM_THREADS": "1"}
    assert found["GOMP_SPINCOUNT=10"][1] == {"GOMP_SPINCOUNT": "10"}
    assert found[busy.OTHER][0][:5] == ["other/python", "-m", "command", "train", "--epochs"]


def test_busy_measures_a_command(busy, tmp_path, monkeypatch):
    monkeypatch.setenv("OMP_WAIT_POLICY", "ACTIVE")
    code = "import os, time\nwhile time.process_time() < 0.3: pass\n"
    code += "assert os.environ['SET'] == '1' and 'OMP_WAIT_POLICY' not in os.environ"
    cpu, wall = busy.measure([sys.executable, "-c", code], {"SET": "1"}, tmp_path)
    assert 0.3 <= cpu <= wall + 0.1
    with pytest.raises(SystemExit, match=r"exit code 1\n(.|\n)*KeyError"):
        busy.measure([sys.executable, "-c", code], {}, tmp_path)


def test_busy_ends_its_spinners(busy):
    with pytest.raises(RuntimeError), busy.spinners(1):
        ours = [
            int(line.split()[0])
            for line in subprocess.run(
                ["ps", "-o", "pid=,args=", "--ppid", str(os.getpid())],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
            if "getppid" in line
        ]
        assert len(ours) == 1
        raise RuntimeError
    assert not os.path.exists(f"/proc/{ours[0]}")
