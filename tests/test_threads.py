"""How many threads a process takes and how they wait: what the system grants, what the user sets, and when."""

import json
import os
import subprocess
import sys

import pytest
import torch
from mmssl_trainer import threads
from mmssl_trainer.cli.main import main
from mmssl_trainer.config.load import load
from mmssl_trainer.errors import InputError
from mmssl_trainer.study import processes
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


def test_load_counts_the_busy_processors(monkeypatch, tmp_path):
    """user nice system idle iowait irq softirq steal; processor 3 is not among those asked for."""
    before = (
        "cpu  0 0 0 0\ncpu0 10 0 0 90 0 0 0 0\ncpu1 0 0 0 100 0 0 0 0\ncpu2 5 5 5 5 5 5 5 5 9 9\ncpu3 0 0 0 0 0 0 0 0\n"
    )
    after = (
        "cpu  0 0 0 0\ncpu0 16 0 2 90 0 0 0 2\ncpu1 0 5 0 103 2 0 0 0\ncpu2 6 5 6 9 6 6 6 6 9 9\ncpu3 9 0 0 0 0 0 0 0\n"
    )
    system(tmp_path, "", "", {"proc/stat": before})
    monkeypatch.setattr(threads.time, "sleep", lambda _: (tmp_path / "proc/stat").write_text(after))
    monkeypatch.setattr(threads.time, "process_time", lambda: 0.0)
    assert threads.Load(tmp_path).busy({0, 1, 2, 7}) == pytest.approx(1 + 0 + 0.5)


def test_load_leaves_out_this_process_and_waits_no_longer_than_needed(monkeypatch, tmp_path):
    """Of the two busy processors one is kept busy by this process, whose work has taken longer than the window."""
    system(tmp_path, "", "", {"proc/stat": "cpu0 0 0 0 0 0\ncpu1 0 0 0 0 0\n"})
    clock = iter([5.0, 5.5, 5.5])
    own = iter([1.0, 1.5])
    slept = []
    monkeypatch.setattr(threads.time, "perf_counter", lambda: next(clock))
    monkeypatch.setattr(threads.time, "process_time", lambda: next(own))
    monkeypatch.setattr(threads.time, "sleep", slept.append)
    load = threads.Load(tmp_path)
    (tmp_path / "proc/stat").write_text("cpu0 50 0 0 0 0\ncpu1 50 0 0 0 0\n")
    assert load.busy({0, 1}) == pytest.approx(1) and slept == [0]


def test_load_is_0_where_nothing_is_known(tmp_path):
    assert threads.Load(tmp_path).busy({0, 1}, window=0) == 0


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
    monkeypatch.setattr(threads.Load, "busy", lambda load, processors: busy)
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
    monkeypatch.setattr(threads.Load, "busy", lambda load, processors: 1.0)
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
    monkeypatch.setattr(threads.Load, "busy", lambda load, processors: busy)
    for given in ({}, {"OMP_NUM_THREADS": "2"}):
        environ = dict(given)
        threads.configure(jobs, environ)
        assert environ.get("OMP_WAIT_POLICY") == policy


def test_configure_says_why_there_are_fewer_threads(monkeypatch):
    monkeypatch.setattr(threads, "available", lambda: 6)
    monkeypatch.setattr(threads, "choose", lambda busy: 4)
    environ = {}
    assert (
        threads.configure(environ=environ).startswith("using 4 of 6 processors") and environ["OMP_NUM_THREADS"] == "4"
    )
    assert threads.configure(environ=environ) == ""


@pytest.mark.parametrize("given, configured, expected", [(None, True, "2"), ("3", False, "3"), (None, False, "2")])
def test_ranks_share_the_chosen_threads(monkeypatch, given, configured, expected):
    """What `configure` chose is divided among the ranks; what the user set is the number of each rank."""
    for name in ("OMP_NUM_THREADS", *threads.WAIT_SETTINGS):
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    if given:
        monkeypatch.setenv("OMP_NUM_THREADS", given)
    monkeypatch.setattr(threads, "choose", lambda busy=None: 8)
    monkeypatch.setattr(threads, "available", lambda: 8)
    monkeypatch.setattr(threads, "_chosen", False)
    if configured:
        threads.configure()
        assert os.environ["OMP_NUM_THREADS"] == "8"
    threads.divide(4)
    assert os.environ["OMP_NUM_THREADS"] == expected and os.environ["OMP_WAIT_POLICY"] == "PASSIVE"


def test_waiting_threads_of_jobs_sleep(monkeypatch):
    """Also if the processors are idle when a job starts: the other jobs come next."""
    for name in threads.WAIT_SETTINGS:
        monkeypatch.setenv(name, "")
        monkeypatch.delenv(name)
    monkeypatch.setattr(threads.Load, "busy", lambda load, processors: 0.0)
    monkeypatch.setattr(threads, "available", lambda: len(threads._affinity()))
    started = []

    def popen(command, env, **options):
        started.append(env)
        raise OSError(11, "not started")

    monkeypatch.setattr(processes.subprocess, "Popen", popen)
    with pytest.raises(InputError, match="not started"):
        processes._Worker(0, processes.Part("a job", "module:call", load(None), {}), "")
    assert started[0]["OMP_WAIT_POLICY"] == "PASSIVE" and "OMP_WAIT_POLICY" not in os.environ


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
threads.choose, threads.available, threads.Load.busy = lambda busy: 1, lambda: 1, lambda load, processors: 1.0
from mmssl_trainer.cli.main import main
code = main(sys.argv[1:])
import torch
print(json.dumps([code, seen, torch.get_num_threads()]))
"""


@pytest.mark.processes
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


def test_threads_option_wins(tmp_path, threads):
    """Over the number that the process has by itself, which is kept without the option."""
    threads(1)
    command = ["train", "--system", "mf", "--epochs", "1", "--set", "model.dim=8", "--no-compare"]
    for number, more in (("1", []), ("2", ["--threads", "2"])):
        out = tmp_path / number
        assert main([*command, "--out", str(out), *more]) == 0
        assert f"threads = {number}\n" in (out / "config.toml").read_text()
        assert torch.get_num_threads() == int(number)


@pytest.mark.parametrize("number, jobs, asked, expected", [(8, 3, 0, 2), (8, 20, 0, 1), (8, 3, 5, 5), (1, 2, 0, 1)])
def test_jobs_share_the_threads(threads, number, jobs, asked, expected):
    threads(number)
    assert sharing(load(None, {"train.threads": (asked, "test")}), jobs).train.threads == expected
