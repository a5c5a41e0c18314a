"""Parts of a command at once, each in a process of its own that ends when the one that began it does."""

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
from ..memory import budget
from ..runs.complete import load_data
from ..training import signals

POLL = 0.5  # seconds between two looks at the processes
PROCESS = 256 << 20  # bytes of a process by itself, Python and torch
BEGIN = """import sys
line = sys.stdin.readline()
import json
asked = json.loads(line)
sys.path[:] = asked["path"]
from mmssl_trainer.study.processes import work
work(asked)"""  # nothing is imported from the current folder unless the parent would
ERRORS = {error.__name__: error for error in (InputError, NonFiniteLoss, OutOfMemory)}


@dataclass(frozen=True)
class Part:
    """What a process does: call, "module:function", with the dataset that the configuration names, the configuration
    and **arguments (of JSON). progress: (epochs behind it, at most, best validation Recall@20), where that is known."""

    title: str
    call: str
    config: Config
    arguments: dict[str, Any]
    progress: Callable[[], tuple[int, int, float]] | None = None


def sharing(config: Config, jobs: int) -> Config:
    """The configuration of one of `jobs` simultaneous processes: this process's threads are divided among them, unless
    train.threads says how many each has."""
    return config.changed("train", threads=config.train.threads or max(1, torch.get_num_threads() // jobs))


def run_parallel(parts: list[Part], dataset: Dataset, jobs: int, what: str, ended: Callable[[int], None]) -> None:
    """Every part, `jobs` at a time, begun in order. what: what the parts are, in the plural; ended: told which part
    has ended.

    Raises Interrupted after a signal, InputError where so many parts do not fit into memory together, and what a part
    or `ended` raised, naming the part. The others have been asked to leave by then (SIGTERM), and have left; a second
    SIGINT kills them.
    """
    refuse_what_cannot_fit([part.config for part in parts], dataset, jobs, what)
    waiting, at_work, failed, n_ended = list(enumerate(parts)), [], None, 0
    with signals.defer_signals() as stop, progress.PartsProgress() as bars:
        try:
            while at_work or (waiting and not (failed or stop.received)):
                while waiting and len(at_work) < jobs and not (failed or stop.received):
                    at_work.append(_Process(*waiting.pop(0), dataset.fingerprint))
                time.sleep(POLL)
                for one in list(at_work):
                    if failed or stop.received:
                        one.ask_to_leave()
                    bars.show(one.part.title, one.part.progress)
                    if one.running():
                        continue
                    at_work.remove(one)
                    bars.remove(one.part.title)
                    error = one.error()
                    if error is None:
                        n_ended += 1
                        ended(one.at)
                    elif not (failed or (stop.received and isinstance(error, Interrupted))):
                        failed = error
        except KeyboardInterrupt:
            for one in at_work:
                one.process.kill()
            raise
        finally:
            for one in at_work:  # none is left where nothing was raised
                one.ask_to_leave()
            for one in at_work:
                one.error()
    if failed:
        raise failed
    if stop.received:
        left = f"{len(parts) - n_ended} of {len(parts)} {what} left"
        raise Interrupted(f"interrupted with {left}; repeat the command to go on", stop.received)


def refuse_what_cannot_fit(configs: list[Config], dataset: Dataset, jobs: int, what: str) -> None:
    """Raise InputError where the `jobs` that need most do not fit into memory together."""
    if min(jobs, len(configs)) < 2:  # the run itself looks
        return
    distinct = {id(one): one for one in configs}
    planned = {at: budget.needed(dataset, one) for at, one in distinct.items()}
    needed = sorted((PROCESS + planned[id(one)] for one in configs), reverse=True)[:jobs]
    allowed = int(budget.SHARE * budget.free_memory(configs[0].train.device))
    if sum(needed) > allowed:
        fits = next(count for count in range(len(needed) - 1, 0, -1) if count == 1 or sum(needed[:count]) <= allowed)
        raise InputError(
            f"--jobs {jobs}: {len(needed)} {what} at once need about {readable(sum(needed))}, "
            f"{readable(allowed)} may be used ({budget.SHARE:.0%} of what is free); give --jobs {fits}"
        )


class _Process:
    """A part at work, in a session of its own: a terminal's Ctrl-C reaches the parent alone."""

    def __init__(self, at: int, part: Part, fingerprint: str) -> None:
        self.at, self.part = at, part
        threads = part.config.train.threads
        asked = {"path": sys.path, "call": part.call, "config": part.config.model_dump_json(),
                 "arguments": part.arguments, "fingerprint": fingerprint}  # fmt: skip
        environ = os.environ | ({"OMP_NUM_THREADS": str(threads)} if threads else {})
        thread_settings.configure(environ=environ)
        try:
            self.process = subprocess.Popen(
                [sys.executable, "-P", "-c", BEGIN], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
                start_new_session=True, env=environ,
            )  # fmt: skip
        except OSError as error:
            raise InputError(f"{part.title}: no process for it ({error.strerror}); give fewer --jobs") from None
        try:
            self.process.stdin.write(json.dumps(asked) + "\n")
            self.process.stdin.flush()
        except BrokenPipeError:  # it has ended; error() says how
            pass

    def running(self) -> bool:
        return self.process.poll() is None

    def ask_to_leave(self) -> None:
        """What the end of this process would do as well."""
        try:
            self.process.stdin.close()
        except BrokenPipeError:
            pass

    def error(self) -> Exception | None:
        """What ended the process, None where the part is done; waits until then."""
        self.ask_to_leave()
        with self.process as ended:
            answer, code = ended.stdout.read(), ended.wait()
        try:
            said = json.loads(answer)
        except ValueError:
            said = {}
        if said.get("kind") in ERRORS:
            return ERRORS[said["kind"]](f"{self.part.title}: {said['message']}")
        if said.get("kind") == Interrupted.__name__ or code in (-signal.SIGTERM, -signal.SIGINT):
            return Interrupted(f"{self.part.title}: was ended by a signal; repeat the command to go on", signal.SIGTERM)
        if code == -signal.SIGKILL:
            return OutOfMemory(f"{self.part.title}: was killed, as happens for want of memory; give fewer --jobs")
        if code:
            return WorkerFailed(f"{self.part.title}: ended with exit code {code}; see the lines above")
        return None


def work(asked: dict[str, Any]) -> None:
    """A process of one part. The end of its stdin asks it to leave; how it ended goes to stdout as JSON, and whatever
    else is printed to stderr."""
    answers = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    output.draw_no_bars()
    module, _, function = asked["call"].partition(":")
    answer = {}
    try:
        with signals.raise_on_signal("interrupted"):
            threading.Thread(target=_leave_with_stdin, daemon=True).start()
            config = Config.model_validate_json(asked["config"])
            dataset = load_data(**config.data.model_dump())
            if dataset.fingerprint != asked["fingerprint"]:
                raise InputError(f"{config.data.path}: has changed since the command began; repeat it")
            getattr(importlib.import_module(module), function)(dataset, config, **asked["arguments"])
    except (InputError, Interrupted, NonFiniteLoss) as error:
        answer = {"kind": type(error).__name__, "message": str(error)}
    except Exception as error:
        if (known := as_user_error(error)) is None:
            raise
        answer = {"kind": type(known).__name__, "message": str(known)}
    answers.write(json.dumps(answer))
    answers.close()


def _leave_with_stdin() -> None:
    os.read(0, 1)  # not sys.stdin, whose lock this thread would keep while the process ends
    os.kill(os.getpid(), signal.SIGTERM)
