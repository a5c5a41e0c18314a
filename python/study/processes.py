"""Parallel worker processes (`--jobs`), one per run or trial. A worker ends when its parent process ends."""

from __future__ import annotations

import importlib
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch

from .. import threads as thread_settings
from ..config.byte_size import readable
from ..config.sections import Config
from ..console import output, progress
from ..data import Dataset
from ..errors import InputError, Interrupted, NonFiniteLoss, OutOfMemory, WorkerFailed, as_user_error
from ..memory import budget, free
from ..runs.complete import load_data
from ..training import signals

POLL = 0.5  # seconds between checks of the workers
PROCESS = 256 << 20  # bytes that Python and torch need in each process
# A worker starts with -P and takes sys.path from its parent: a module in the current folder must not replace one of
# ours.
WORKER_CODE = """import sys
line = sys.stdin.readline()
import json
request = json.loads(line)
sys.path[:] = request["path"]
from mmssl_trainer.study.processes import work
work(request)"""
ERRORS = {error.__name__: error for error in (InputError, NonFiniteLoss, OutOfMemory)}


@dataclass(frozen=True)
class Part:
    """The work of one process: it calls function(dataset, config, **arguments).

    title: name in messages and progress bars.
    call: the function, as "module:function".
    config: the configuration; the worker loads the dataset that it names.
    arguments: keyword arguments that can be written as JSON.
    progress: returns (epochs done, maximum epochs, best validation Recall@20); None if that is not known.
    """

    title: str
    call: str
    config: Config
    arguments: dict[str, Any]
    progress: Callable[[], tuple[int, int, float]] | None = None


def sharing(config: Config, jobs: int) -> Config:
    """The configuration for each of `jobs` simultaneous processes.

    If train.threads is 0, the threads of this process are divided among them.
    """
    return config.changed("train", threads=config.train.threads or max(1, torch.get_num_threads() // jobs))


def run_parallel(parts: list[Part], dataset: Dataset, jobs: int, unit: str, on_end: Callable[[int], None]) -> None:
    """Run all parts, at most `jobs` at a time, started in order.

    unit: plural noun for the parts in messages ("runs", "trials"); on_end: called with the index of each finished part.

    Raises Interrupted after a signal, InputError if `jobs` parts do not fit into memory together, and any error that a
    part or `on_end` raises, with the title of the part. The other workers are first asked to stop (SIGTERM) and waited
    for, so that they can write their checkpoints. A second SIGINT kills them.
    """
    refuse_what_cannot_fit([part.config for part in parts], dataset, jobs, unit)
    waiting, n_ended = list(enumerate(parts)), 0
    running: list[_Worker] = []
    failure: Exception | None = None
    with signals.defer_signals() as stop, progress.WorkerProgress() as bars:
        try:
            while running or (waiting and not (failure or stop.received)):
                while waiting and len(running) < jobs and not (failure or stop.received):
                    running.append(_Worker(*waiting.pop(0), dataset.fingerprint))
                time.sleep(POLL)
                for worker in list(running):
                    if failure or stop.received:
                        worker.request_stop()
                    bars.show(worker.part.title, worker.part.progress)
                    if worker.is_running():
                        continue
                    running.remove(worker)
                    bars.remove(worker.part.title)
                    error = worker.wait()
                    if error is None:
                        n_ended += 1
                        on_end(worker.index)
                    elif not (failure or (stop.received and isinstance(error, Interrupted))):
                        failure = error
        except KeyboardInterrupt:
            for worker in running:
                worker.process.kill()
            raise
        finally:
            for worker in running:  # empty unless an exception was raised
                worker.request_stop()
            for worker in running:
                worker.wait()
    if failure:
        raise failure
    if stop.received:
        left = f"{len(parts) - n_ended} of {len(parts)} {unit} left"
        raise Interrupted(f"interrupted with {left}; repeat the command to continue", stop.received)


def refuse_what_cannot_fit(configs: list[Config], dataset: Dataset, jobs: int, unit: str) -> None:
    """Raise InputError if the `jobs` largest runs do not fit into memory together."""
    if min(jobs, len(configs)) < 2:  # a single run checks this itself
        return
    # The trials of a search share one configuration object; each distinct one is estimated once.
    distinct = {id(config): config for config in configs}
    estimates = {key: budget.needed(dataset, config) for key, config in distinct.items()}
    needed = sorted((PROCESS + estimates[id(config)] for config in configs), reverse=True)[:jobs]
    allowed = int(budget.SHARE * free.free_memory(configs[0].train.device))
    if sum(needed) > allowed:
        fits = next(count for count in range(len(needed) - 1, 0, -1) if count == 1 or sum(needed[:count]) <= allowed)
        raise InputError(
            f"--jobs {jobs}: {len(needed)} {unit} at once need about {readable(sum(needed))}, but the budget is "
            f"{readable(allowed)} ({budget.SHARE:.0%} of the free memory); use --jobs {fits}"
        )


class _Worker:
    """A worker process. It runs in its own session, so that Ctrl-C in the terminal reaches only the parent."""

    def __init__(self, index: int, part: Part, fingerprint: str) -> None:
        self.index, self.part = index, part
        threads = part.config.train.threads
        request = {
            "path": sys.path,
            "call": part.call,
            "config": part.config.model_dump_json(),
            "arguments": part.arguments,
            "fingerprint": fingerprint,
        }
        environ = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        thread_settings.configure(environ=environ)
        thread_settings.let_waiting_threads_sleep(environ)  # the other jobs need the processors
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", WORKER_CODE],
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
                env=environ,
            )
        except OSError as error:
            raise InputError(f"{part.title}: cannot start a process ({error.strerror}); use fewer --jobs") from None
        assert self.process.stdin is not None and self.process.stdout is not None  # both are pipes
        self.stdin, self.stdout = self.process.stdin, self.process.stdout
        try:
            self.stdin.write(json.dumps(request) + "\n")
            self.stdin.flush()
        except BrokenPipeError:  # the worker has already ended; wait() reports how
            pass

    def is_running(self) -> bool:
        return self.process.poll() is None

    def request_stop(self) -> None:
        """Close the worker's stdin, at which it stops itself. This also happens when the parent dies."""
        try:
            self.stdin.close()
        except BrokenPipeError:
            pass

    def wait(self) -> Exception | None:
        """Wait for the process to end. Returns its error, or None if the part is done."""
        self.request_stop()
        with self.process as process:
            output_text, code = self.stdout.read(), process.wait()
        try:
            outcome = json.loads(output_text)
        except ValueError:
            outcome = {}
        if outcome.get("kind") in ERRORS:
            return ERRORS[outcome["kind"]](f"{self.part.title}: {outcome['message']}")
        if outcome.get("kind") == Interrupted.__name__ or code in (-signal.SIGTERM, -signal.SIGINT):
            message = "was stopped by a signal; repeat the command to continue"
            return Interrupted(f"{self.part.title}: {message}", signal.SIGTERM)
        if code == -signal.SIGKILL:
            return OutOfMemory(f"{self.part.title}: was killed, probably because the memory ran out; use fewer --jobs")
        if code:
            return WorkerFailed(
                f"{self.part.title}: the worker process failed with exit code {code}; see its output above"
            )
        return None


def work(request: dict[str, Any]) -> None:
    """The main function of a worker process.

    It stops when its stdin is closed. It writes its outcome to stdout as JSON; everything else that is printed goes to
    stderr.
    """
    outcome_stream = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)  # so that a print in a library cannot corrupt the outcome
    output.disable_progress_bars()
    module, _, function = request["call"].partition(":")
    outcome = {}
    try:
        with signals.raise_on_signal("interrupted"):
            threading.Thread(target=_stop_when_stdin_closes, daemon=True).start()
            config = Config.model_validate_json(request["config"])
            dataset = load_data(**config.data.model_dump())
            if dataset.fingerprint != request["fingerprint"]:
                raise InputError(f"{config.data.path}: has changed since the command started; repeat it")
            getattr(importlib.import_module(module), function)(dataset, config, **request["arguments"])
    except (InputError, Interrupted, NonFiniteLoss) as error:
        outcome = {"kind": type(error).__name__, "message": str(error)}
    except Exception as error:
        if (user_error := as_user_error(error)) is None:
            raise
        outcome = {"kind": type(user_error).__name__, "message": str(user_error)}
    outcome_stream.write(json.dumps(outcome))
    outcome_stream.close()


def _stop_when_stdin_closes() -> None:
    os.read(0, 1)  # not sys.stdin: this thread would hold its lock at interpreter exit
    os.kill(os.getpid(), signal.SIGTERM)
