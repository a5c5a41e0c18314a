"""What wakes a second thread: small ops, one training step, and benchmarks/busy.py, which measures busy processors."""

import importlib.util
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

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
                ["ps", "-ww", "-o", "pid=,args=", "--ppid", str(os.getpid())],
                capture_output=True,
                text=True,
                check=True,
            ).stdout.splitlines()
            if "getppid" in line
        ]
        assert len(ours) == 1
        raise RuntimeError
    assert not os.path.exists(f"/proc/{ours[0]}")
