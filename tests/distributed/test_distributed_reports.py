"""Which of several processes reports the error that ends a run."""

import logging
import os
import signal
import subprocess
import sys
import time

import pytest
from mmssl_trainer.cli import launch, main
from mmssl_trainer.errors import Interrupted
from mmssl_trainer.runs import train
from mmssl_trainer.training import ranks as together
from mmssl_trainer.training.signals import ignore_signals

from mmssl_fast.distributed import Ranks, ranks


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_does_not_end_the_process_that_was_chosen_to_report(number, monkeypatch, capsys):
    """The launcher sends SIGTERM to the last process when the others may have told it to end already."""
    received = []
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.setattr(together, "report_once", lambda message: (signal.raise_signal(number), f"rank 1: {message}")[1])
    monkeypatch.setattr(main, "_main", lambda argv: main._fail(Interrupted("interrupted", signal.SIGTERM), 143))
    before = signal.signal(number, lambda *_: received.append(number))
    try:
        assert main.main([]) == 143
        assert capsys.readouterr().err == "mmssl-fast: rank 1: interrupted\n"
        assert received == []
        signal.raise_signal(number)
        assert received == [number]
    finally:
        signal.signal(number, before)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_signals_are_ignored_within_the_block_only(number):
    received = []
    before = signal.signal(number, lambda *_: received.append(number))
    try:
        with pytest.raises(ValueError), ignore_signals():
            signal.raise_signal(number)
            raise ValueError
        assert received == []
        signal.raise_signal(number)
        assert received == [number]
    finally:
        signal.signal(number, before)


def test_a_signal_before_training_does_not_promise_a_run_to_resume(tmp_path, monkeypatch, capsys):
    run = tmp_path / "run"
    monkeypatch.setattr(train, "fit_and_test", lambda *_: signal.raise_signal(signal.SIGTERM))
    assert main.main(["train", "--system", "mf", "--out", str(run), "--no-compare"]) == 143
    said = capsys.readouterr().err.splitlines()[-1]
    assert said == "mmssl-fast: interrupted before training began; nothing was written" and not run.exists()


@pytest.mark.parametrize("launched", [False, True])
def test_ctrl_c_while_the_process_ends_prints_no_traceback(launched):
    """torch imports modules at exit. A rank whose work is complete ignores it; otherwise it has its usual effect."""
    at_exit = "import atexit, signal; atexit.register(lambda: (signal.raise_signal(signal.SIGINT), print('went on')))"
    code = f"{at_exit}; signal.signal(signal.SIGINT, signal.default_int_handler)\nimport sys\n"
    code += "from mmssl_trainer.cli import main\nmain._main = lambda argv: 0\nsys.exit(main.main())"
    variables = {"TORCHELASTIC_RUN_ID": "test", "RANK": "1", "WORLD_SIZE": "2"} if launched else {}
    done = subprocess.run(
        [sys.executable, "-P", "-c", code], env=os.environ | variables, capture_output=True, text=True, check=False
    )
    assert done.stderr == "" and ("went on" in done.stdout) == launched, done
    assert done.returncode == (0 if launched else -signal.SIGINT)


def test_only_critical_messages_of_the_launcher_of_torch_are_printed(capfd):
    ranks.quiet_logs()
    logging.getLogger("torch.distributed.elastic.agent.server.api").warning("Received 15 death signal")
    assert capfd.readouterr().err == ""


class Store:
    """The store of a launcher that still exists, has ended, or hangs."""

    def __init__(self, state: str) -> None:
        self.state, self.calls = state, 0

    def add(self, key: str, amount: int) -> int:
        if self.state == "ended":
            raise RuntimeError("Broken pipe")
        if self.state == "hangs":
            time.sleep(2)
        self.calls += amount
        return self.calls


class Dictionary(dict):
    """A store in one process."""

    set = dict.__setitem__

    def get(self, key):
        return self[key].encode()


def test_a_rank_with_another_number_of_groups(monkeypatch):
    """It would wait for process groups that the others do not create. Each call has its own key in the store."""
    store = Dictionary()

    def of_rank(rank, groups, earlier=0):
        monkeypatch.setattr(ranks, "_divisions", earlier)
        return ranks._in_groups(Ranks(rank, 4, store), groups, None)

    assert of_rank(0, 1).groups.size == 1
    assert of_rank(1, 1).groups.size == 1
    with pytest.raises(ValueError, match=r"^groups is 2 on rank 3 and 1 on rank 0; start all ranks with the same"):
        of_rank(3, 2)
    store.set("groups 2", "2")
    with pytest.raises(ValueError, match=r"^groups is 1 on rank 2 and 2 on rank 0; "):
        of_rank(2, 1, earlier=1)


@pytest.mark.parametrize("state", ["exists", "ended", "hangs"])
def test_exactly_one_rank_is_the_first(state, monkeypatch):
    """Also where the store does not answer: otherwise no rank would report."""
    monkeypatch.setattr(ranks, "ANSWER_SECONDS", 0.3)
    store = Store(state)
    first = [Ranks(rank, 3, store).is_first("failed") for rank in (1, 0, 2)]
    assert first == ([True, False, False] if state == "exists" else [False, True, False])


@pytest.mark.parametrize(
    "code, line",
    [
        (130, "mmssl-fast: interrupted"),
        (143, "mmssl-fast: interrupted"),
        (3, "mmssl-fast: rank 1 ended with exit code 3; the reason is above"),
    ],
)
@pytest.mark.parametrize("is_reported", [False, True])
def test_the_launcher_says_what_no_rank_has_said(code, line, is_reported, monkeypatch, capsys):
    """A signal may end all ranks while they import torch. Otherwise one of them reports, and the launcher does not."""

    def ended(size, command, restarts):
        if is_reported:
            launch.reported()
        return 1, code

    monkeypatch.setattr(ranks, "launch", ended)
    monkeypatch.setattr(ranks, "quiet_logs", lambda: None)
    monkeypatch.setattr(launch.threads, "divide", lambda ranks: None)
    monkeypatch.setenv("GLOO_SOCKET_IFNAME", "lo")
    assert main.main(["train", "--ranks", "2"]) == (1 if code == 3 and not is_reported else code)
    assert capsys.readouterr().err.splitlines() == ([] if is_reported else [line])
    assert launch.UNREPORTED not in os.environ
