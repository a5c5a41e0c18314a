"""`mmssl-fast tune`: hyper-parameter search with Optuna, maximising the validation metric train.select_by.

A search writes one folder: study.log, Optuna's journal, from which the search can be resumed; trials.md, the table of
trials; best.toml, the best trial as a preset. The test interactions are never used.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import optuna
from optuna.distributions import CategoricalDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from mmssl_fast import InteractionGraph

from ...config.compare import refuse_other
from ...config.sections import Config
from ...data import Dataset
from ...errors import InputError, Interrupted, NonFiniteLoss
from ...files import lock, unlock, write_text
from ...systems import create, refuse_item_item
from ...training import loop, signals
from ...training.progress import NullObserver
from ...training.selection import selection
from .. import processes
from .record import BEST, RECORD, line, preset, table, value_of
from .space import Distribution, Space, values_in, with_values

optuna.logging.set_verbosity(optuna.logging.WARNING)
JOURNAL, STUDY = "study.log", "tune"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
STARTUP_TRIALS, LEAST_EPOCHS = 5, 3


def refuse_what_cannot_run(dataset: Dataset, base: Config, space: Space) -> None:
    """Raise InputError where a search could find nothing: the data has no validation interactions, the device is
    missing, or the system accepts neither the base configuration nor the lowest values of the space."""
    if base.train.start:
        raise InputError("tune: train.start is set, and trials start from random values; leave it out")
    if base.train.log_to:
        raise InputError("tune: train.log_to is set, but trials have no run folder; leave it out")
    if not dataset.val.nnz:
        raise InputError(
            f"{dataset.name}: has no validation interactions, and tune compares settings by a validation metric; give "
            'some interactions the split "val"'
        )
    refuse_item_item(base)
    device, refusals = loop.pick_device(base.train.device), []
    lowest = {name: d.choices[0] if isinstance(d, CategoricalDistribution) else d.low for name, d in space.keys.items()}
    for values in ({}, lowest):
        try:
            graph = InteractionGraph.from_scipy(dataset.train).to(device)
            create(base.model.system).build(dataset, graph, with_values(base, values, space.source))
            return
        except InputError as error:
            refusals.append(error)
    raise refusals[0]


def trials_in(folder: Path) -> int:
    """The number of finished trials of the search in a folder, 0 without one."""
    if not (folder / JOURNAL).exists():
        return 0
    storage = JournalStorage(JournalFileBackend(str((folder / JOURNAL).resolve())))
    study = optuna.load_study(study_name=STUDY, storage=storage)
    return len(study.get_trials(deepcopy=False, states=ENDED))


class Search:
    """A hyper-parameter search in a folder. If the folder already contains the search, it is resumed.

    Raises InputError if the folder contains a search with other data, another base configuration or another search
    space, or if another process is using it.
    """

    def __init__(
        self,
        folder: Path,
        dataset: Dataset,
        base: Config,
        space: Space,
        seeds: int,
        prune: bool,
        sampler_seed: int | None = None,
    ) -> None:
        """sampler_seed: for a worker process that runs a single trial. None: derived from the number of trials so
        far."""
        self.folder, self.dataset, self.base, self.space = folder, dataset, base, space
        self.seeds, self.prune, self.stop = seeds, prune, signals.Stop()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(str((folder / JOURNAL).resolve())))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another --out") from None
        self.study = optuna.create_study(
            storage=storage,
            study_name=STUDY,
            load_if_exists=True,
            direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=LEAST_EPOCHS)
            if prune
            else optuna.pruners.NopPruner(),
        )
        # A resumed search must not repeat the values that it drew at first.
        drawn = base.train.seed + len(self.study.get_trials(deepcopy=False))
        self.sampler_seed = drawn if sampler_seed is None else sampler_seed
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.sampler_seed,
                n_startup_trials=STARTUP_TRIALS,
                constant_liar=sampler_seed is not None,  # keeps parallel trials apart
            )
        self._check_same_search()

    def _check_same_search(self) -> None:
        """Store what the search is about when it starts, and compare it when it is resumed."""
        current: dict[str, Any] = {
            "fingerprint": self.dataset.fingerprint,
            "config": self.base.model_dump(),
            "seeds": self.seeds,
            "space": _to_json(self.space.keys),
        }
        stored = self.study.user_attrs
        if not stored:
            for name, value in current.items():
                self.study.set_user_attr(name, value)
            self.study.enqueue_trial(values_in(self.space, self.base))
            return
        if stored["fingerprint"] != current["fingerprint"]:
            raise InputError(f"{self.folder}: contains a search on other data; choose another --out")
        refuse_other(self.folder, stored["config"], current["config"])
        for name, difference in (("space", "over another space"), ("seeds", f"with {stored['seeds']} seeds per trial")):
            if stored[name] != current[name]:
                raise InputError(f"{self.folder}: contains a search {difference}; choose another --out")

    def run(self, trials: int, report: Callable[[str], None], jobs: int = 1) -> None:
        """Run trials, `jobs` at a time, until the search has `trials` finished ones, including those of earlier calls.

        report: called with a line of text for each finished trial. An interrupted trial is repeated from its start.
        Raises Interrupted after a signal, but never while Optuna writes its journal.
        """
        lock(self.folder, f"{self.folder}: another process is using this search; wait for it or stop it")
        try:
            for trial in self.study.get_trials(states=[TrialState.RUNNING]):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)
            if jobs > 1:
                self._run_parallel(trials, report, jobs)
                return
            with signals.defer_signals() as self.stop:
                while (n_ended := self._n_ended()) < trials:
                    number = self.run_trial()
                    report(f"{n_ended + 1}/{trials}  {line(self.study.trials[number])}")
                    self.write()
        finally:
            unlock(self.folder)

    def _n_ended(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=ENDED))

    def _run_parallel(self, trials: int, report: Callable[[str], None], jobs: int) -> None:
        """Run each trial in its own process, with its own sampler seed.

        The sampled values are not reproducible: they depend on which trials have finished when a trial starts.
        """
        first, reported = self._n_ended(), {trial.number for trial in self.ended()}

        def on_end(_: object) -> None:
            for trial in sorted(self.ended(), key=lambda trial: trial.number):
                if trial.number not in reported:
                    reported.add(trial.number)
                    report(f"{len(reported)}/{trials}  {line(trial)}")
            self.write()

        arguments = {
            "folder": str(self.folder),
            "source": self.space.source,
            "seeds": self.seeds,
            "prune": self.prune,
            "keys": _to_json(self.space.keys),
        }
        processes.run_parallel(
            [
                processes.Part(
                    f"trial {index + 1} of {trials}",
                    f"{__name__}:run_one_trial",
                    self.base,
                    arguments | {"sampler_seed": self.sampler_seed + index},
                )
                for index in range(first, trials)
            ],
            self.dataset,
            jobs,
            "trials",
            on_end,
        )

    def run_trial(self) -> int:
        """Run one trial and return its number."""
        _raise_if_stopped(self.stop)
        trial = self.study.ask(dict(self.space.keys))
        try:
            config = with_values(self.base, trial.params, self.space.source)
            self.study.tell(trial, self._value(trial, config))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except (InputError, NonFiniteLoss) as error:  # invalid combination of keys, or a learning rate that is too high
            trial.set_user_attr("note", str(error))
            self.study.tell(trial, state=TrialState.PRUNED)
        return trial.number

    def _value(self, trial: Trial, config: Config) -> float:
        """The validation metric (train.select_by), mean over seeds. Only the run of the first seed can be pruned."""
        values: list[float] = []
        for seed in range(config.train.seed, config.train.seed + self.seeds):
            observer = _TrialObserver(trial, prune=not values, stop=self.stop)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="sample_bpr: ")  # users who have every item are skipped
                fit = loop.fit(self.dataset, config.changed("train", seed=seed), observer)
            values.append(fit.best)
            trial.set_user_attr("epochs", [*trial.user_attrs.get("epochs", []), len(fit.epochs)])
            trial.set_user_attr("best_epoch", [*trial.user_attrs.get("best_epoch", []), fit.best_epoch])
        trial.set_user_attr(config.train.select_by, values)
        return sum(values) / len(values)

    def ended(self) -> list[FrozenTrial]:
        """The finished trials: the completed ones, best first, then the pruned ones."""
        trials = self.study.get_trials(states=ENDED)
        return sorted(trials, key=lambda trial: (trial.state != TrialState.COMPLETE, -(value_of(trial) or 0)))

    def write(self) -> None:
        """Write trials.md, and best.toml if a trial is complete."""
        trials = self.ended()
        write_text(self.folder / RECORD, table(trials, list(self.space.keys), self.dataset, self.base, self.seeds))
        if trials and trials[0].state == TrialState.COMPLETE:
            best = trials[0]
            config = with_values(self.base, best.params, self.space.source)
            title = f"{config.model.system} on {self.dataset.name}: trial {best.number} of {len(trials)}"
            write_text(
                self.folder / BEST, preset(config, f"{title}, validation {config.train.select_by} {best.value:.4f}.")
            )


def _to_json(keys: dict[str, Distribution]) -> dict[str, str]:
    return {name: optuna.distributions.distribution_to_json(distribution) for name, distribution in keys.items()}


def run_one_trial(
    dataset: Dataset,
    base: Config,
    folder: str,
    source: str,
    keys: dict[str, str],
    seeds: int,
    prune: bool,
    sampler_seed: int,
) -> None:
    """Run one trial in a worker process; see Search for the arguments."""
    distributions = {name: optuna.distributions.json_to_distribution(text) for name, text in keys.items()}
    space = Space(source, cast(dict[str, Distribution], distributions))  # the inverse of _to_json
    with signals.defer_signals() as stop:
        search = Search(Path(folder), dataset, base, space, seeds, prune, sampler_seed)
        search.stop = stop
        search.run_trial()


def _raise_if_stopped(stop: signals.Stop) -> None:
    if stop.received:
        raise Interrupted(
            "interrupted; repeat the command to continue, the trial restarts from its beginning", stop.received
        )


class _TrialObserver(NullObserver):
    """Reports every validation to Optuna, and stops the run when the trial is pruned or after a signal."""

    def __init__(self, trial: Trial, prune: bool, stop: signals.Stop) -> None:
        self.trial, self.prune, self.stop = trial, prune, stop

    def stepped(self, epoch: int, step: int, losses: dict[str, float] | None) -> None:
        _raise_if_stopped(self.stop)

    def epoch_ended(self, record: dict[str, Any]) -> None:
        recall = selection(record["val"]) if "val" in record else None
        if recall is None or not self.prune:
            return
        self.trial.report(recall, record["epoch"])
        if self.trial.should_prune():
            raise optuna.TrialPruned
