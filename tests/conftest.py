"""Fixtures every test file may use."""

import fcntl
import os
import random
from pathlib import Path

from mmssl_trainer import threads as thread_settings

# Before torch is imported. pytest -n: each worker, and what it starts, takes its share.
thread_settings.configure(int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", 1)))

import numpy as np
import pytest
import torch
from mmssl_trainer.runs.folder import RunFolder

from mmssl_fast import build_info

# Without a GPU the Triton kernels run in Triton's interpreter. It reads this once, when it is first imported.
if not torch.cuda.is_available():
    os.environ.setdefault("TRITON_INTERPRET", "1")


# What takes longest, longest first: the first of gpu compiles csrc/cuda, the others train or start many processes.
LONGEST = (
    "test_cuda_bpr_loss.py",
    "test_distributed_ranks.py",
    "test_processes.py",
    "test_plan.py",
    "test_kernels_compile.py",
    "test_distributed_cli.py",
    "test_memory.py",
    "test_reproduce.py",
    "test_tune.py",
    "test_checkpoint_signals.py",
    "test_examples.py",
)


def pytest_addoption(parser):
    parser.addoption("--seed", type=int, default=0, help="seed of the global generators in each test")


@pytest.hookimpl(tryfirst=True)  # before the fixtures of the test
def pytest_runtest_setup(item):
    # Otherwise the numbers that a test draws depend on the tests that ran before it in the same process. Another seed
    # finds tolerances that one seed fits by chance.
    seed = item.config.option.seed
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - the tests of clients compare with code that uses it
    random.seed(seed)


def pytest_configure(config):
    # xdist hands out files by their number of tests, and would end with one worker at a few long ones.
    if hasattr(config.option, "loadscopereorder"):
        config.option.loadscopereorder = False


@pytest.hookimpl(tryfirst=True)  # before pytest selects the tests by their markers
def pytest_collection_modifyitems(items):
    for item in items:
        # Without a GPU, an emulator, which takes half a minute to compile, and an interpreter replace it: their results
        # do not depend on the machine.
        replaced = "emulated" in item.fixturenames or item.path.parent.name == "kernels"
        if replaced and not torch.cuda.is_available():
            item.add_marker("source")
    place = {name: at for at, name in enumerate(LONGEST)}
    items.sort(key=lambda item: place.get(item.path.name, len(LONGEST)))


@pytest.fixture(scope="session")
def emulated():
    """The ops of csrc/cuda for CPU tensors: on a GPU where there is one, else emulated (see tests/emulator)."""
    import emulator

    if torch.cuda.is_available() and build_info()["cuda"]:
        return emulator.OnGpu()
    build = Path(emulator.ROOT) / "build"
    build.mkdir(exist_ok=True)
    with open(build / "emulated.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)  # one of pytest -n's workers compiles, the others find it done
        return emulator.load()


_draw = RunFolder._draw


@pytest.fixture(scope="session", autouse=True)
def _no_curves():
    """Runs in this process write an empty curves.png: drawing takes longer than training on the data of a test."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(RunFolder, "_draw", lambda self, fit, path: path.touch())
        yield


@pytest.fixture
def curves(monkeypatch):
    """Runs of this test do draw curves.png."""
    monkeypatch.setattr(RunFolder, "_draw", _draw)


@pytest.fixture
def poison():
    """Every torch.empty, in Python and C++ alike, comes filled with NaN (integers: the largest value).

    A kernel that leaves part of its output unwritten then fails its comparison instead of passing by luck.
    """
    filled, deterministic = (
        torch.utils.deterministic.fill_uninitialized_memory,
        torch.are_deterministic_algorithms_enabled(),
    )
    torch.utils.deterministic.fill_uninitialized_memory = True
    torch.use_deterministic_algorithms(True)
    assert torch.empty(3).isnan().all()
    yield
    torch.use_deterministic_algorithms(deterministic)
    torch.utils.deterministic.fill_uninitialized_memory = filled


@pytest.fixture
def threads():
    """Sets torch's thread count for one test: ``threads(4)``."""
    before = torch.get_num_threads()
    yield torch.set_num_threads
    torch.set_num_threads(before)


@pytest.fixture
def alone(monkeypatch):
    """A pytest that the test starts takes itself for no worker of pytest -n, where it would measure nothing."""
    for name in [name for name in os.environ if name.startswith("PYTEST_XDIST")]:
        monkeypatch.delenv(name)
