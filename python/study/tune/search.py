"""`mmssl-fast tune`: a search over the configuration by validation Recall@20, with Optuna.

A study is one folder: study.log, Optuna's journal, from which a search goes on; trials.md, its record; best.toml, a
preset of the best trial. Test interactions are never looked at.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from pathlib import Path

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
from ...systems import create
from ...training import loop, signals
from ...training.progress import SELECTION_METRIC, NullObserver
from .. import processes
from .record import BEST, RECORD, line, preset, table, value_of
from .space import Space, values_in, with_values

optuna.logging.set_verbosity(optuna.logging.WARNING)
JOURNAL = "study.log"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
STARTUP_TRIALS, LEAST_EPOCHS = 5, 3


def refuse_what_cannot_run(dataset: Dataset, base: Config, space: Space) -> None:
    """Raise InputError where a search could find nothing: the data has no validation interactions, the device is
    missing, or the system accepts neither the base configuration nor the lowest values of the space."""
    if base.train.start:
        raise InputError("tune: train.start is set, and trials start from random values; leave it out")
    if not dataset.val.nnz:
        raise InputError(
            f"{dataset.name}: has no validation interactions, and tune compares settings by validation Recall@20; give "
            'some interactions the split "val"'
        )
    device, refusals = loop.pick_device(base.train.device), []
    lowest = {
        name: one.choices[0] if isinstance(one, CategoricalDistribution) else one.low
        for name, one in space.keys.items()
    }
    for values in ({}, lowest):
        try:
            graph = InteractionGraph.from_scipy(dataset.train).to(device)
            create(base.model.system).build(dataset, graph, with_values(base, values, space.source))
            return
        except InputError as error:
            refusals.append(error)
    raise refusals[0]


class Search:
    """A study in a folder: begun where nothing is there, gone on with otherwise.

    Raises InputError where the folder holds a search of other data, another base configuration or another space, or
    another process is at it.
    """

    def __init__(
        self, folder: Path, dataset: Dataset, base: Config, space: Space, seeds: int, prune: bool,
        draws: int | None = None,
    ) -> None:  # fmt: skip
        """draws: the sampler's seed, for a process that takes one trial beside others; none: by the trials so far."""
        self.folder, self.dataset, self.base, self.space = folder, dataset, base, space
        self.seeds, self.prune, self.stop = seeds, prune, signals.Stop()
        try:
            folder.mkdir(parents=True, exist_ok=True)
            storage = JournalStorage(JournalFileBackend(str((folder / JOURNAL).resolve())))
        except OSError as error:
            raise InputError(f"{folder}: cannot be written ({error.strerror}); choose another place") from None
        self.study = optuna.create_study(
            storage=storage, study_name="tune", load_if_exists=True, direction="maximize",
            pruner=optuna.pruners.MedianPruner(n_startup_trials=STARTUP_TRIALS, n_warmup_steps=LEAST_EPOCHS)
            if prune else optuna.pruners.NopPruner(),
        )  # fmt: skip
        self.draws = draws
        if draws is None:  # a search that goes on draws other values than at first
            self.draws = base.train.seed + len(self.study.get_trials(deepcopy=False))
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", optuna.exceptions.ExperimentalWarning)
            self.study.sampler = optuna.samplers.TPESampler(
                seed=self.draws, n_startup_trials=STARTUP_TRIALS, constant_liar=draws is not None
            )
        self._agree()

    def _agree(self) -> None:
        """What the study is of: written down at its beginning, compared afterwards."""
        now = {
            "fingerprint": self.dataset.fingerprint, "config": self.base.model_dump(), "seeds": self.seeds,
            "space": {name: optuna.distributions.distribution_to_json(one) for name, one in self.space.keys.items()},
        }  # fmt: skip
        held = self.study.user_attrs
        if not held:
            for name, value in now.items():
                self.study.set_user_attr(name, value)
            self.study.enqueue_trial(values_in(self.space, self.base))
            return
        if held["fingerprint"] != now["fingerprint"]:
            raise InputError(f"{self.folder}: holds a search on other data; give another --out")
        refuse_other(self.folder, held["config"], now["config"])
        for name, what in (("space", "over another space"), ("seeds", f"with {held['seeds']} seeds a trial")):
            if held[name] != now[name]:
                raise InputError(f"{self.folder}: holds a search {what}; give another --out")

    def run(self, trials: int, say: Callable[[str], None], jobs: int = 1) -> None:
        """Until so many trials, those of earlier calls too, have ended, `jobs` at a time. say: told a line for each.

        A trial that was interrupted is taken once more, from its beginning. Raises Interrupted after a signal, never
        amid what Optuna writes.
        """
        lock(self.folder, f"{self.folder}: another process searches there; wait for it, or stop it")
        try:
            for trial in self.study.get_trials(states=[TrialState.RUNNING]):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)
            if jobs > 1:
                self._in_parallel(trials, say, jobs)
                return
            with signals.defer_signals() as self.stop:
                while (ended := self._n_ended()) < trials:
                    number = self.one()
                    say(f"{ended + 1}/{trials}  {line(self.study.trials[number])}")
                    self.write()
        finally:
            unlock(self.folder)

    def _n_ended(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=ENDED))

    def _in_parallel(self, trials: int, say: Callable[[str], None], jobs: int) -> None:
        """Each trial in a process of its own, with draws of its own: what is drawn also depends on which trials have
        ended by then."""
        first, told = self._n_ended(), {one.number for one in self.ended()}

        def ended(_) -> None:
            for one in sorted(self.ended(), key=lambda one: one.number):
                if one.number not in told:
                    told.add(one.number)
                    say(f"{len(told)}/{trials}  {line(one)}")
            self.write()

        arguments = {
            "folder": str(self.folder), "source": self.space.source, "seeds": self.seeds, "prune": self.prune,
            "keys": {name: optuna.distributions.distribution_to_json(one) for name, one in self.space.keys.items()},
        }  # fmt: skip
        processes.run_parallel(
            [processes.Part(f"trial {at + 1} of {trials}", f"{__name__}:take_one", self.base,
                            arguments | {"draws": self.draws + at}) for at in range(first, trials)],
            self.dataset, jobs, "trials", ended,
        )  # fmt: skip

    def one(self) -> int:
        """One trial: its number."""
        _leave_if_asked(self.stop)
        trial = self.study.ask(self.space.keys)
        try:
            config = with_values(self.base, trial.params, self.space.source)
            self.study.tell(trial, self._value(trial, config))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except (InputError, NonFiniteLoss) as error:  # keys that do not go together, a rate that is too high
            trial.set_user_attr("note", str(error))
            self.study.tell(trial, state=TrialState.PRUNED)
        return trial.number

    def _value(self, trial: Trial, config: Config) -> float:
        """Validation Recall@20, mean over seeds; only the first seed's run may be pruned."""
        values = []
        for seed in range(config.train.seed, config.train.seed + self.seeds):
            watch = _Watch(trial, prune=not values, stop=self.stop)
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="sample_bpr: ")  # that it leaves out users with every item
                fit = loop.fit(self.dataset, config.changed("train", seed=seed), watch)
            values.append(fit.best)
            trial.set_user_attr("epochs", [*trial.user_attrs.get("epochs", []), len(fit.epochs)])
            trial.set_user_attr("best_epoch", [*trial.user_attrs.get("best_epoch", []), fit.best_epoch])
        trial.set_user_attr("recall@20", values)
        return sum(values) / len(values)

    def ended(self) -> list[FrozenTrial]:
        """The best first, then the pruned ones."""
        found = self.study.get_trials(states=ENDED)
        return sorted(found, key=lambda one: (one.state != TrialState.COMPLETE, -(value_of(one) or 0)))

    def write(self) -> None:
        """The record, and the best trial's preset."""
        found = self.ended()
        write_text(self.folder / RECORD, table(found, list(self.space.keys), self.dataset, self.base, self.seeds))
        if found and found[0].state == TrialState.COMPLETE:
            config = with_values(self.base, found[0].params, self.space.source)
            title = f"{config.model.system} on {self.dataset.name}: trial {found[0].number} of {len(found)}"
            write_text(self.folder / BEST, preset(config, f"{title}, validation Recall@20 {found[0].value:.4f}."))


def take_one(
    dataset: Dataset, base: Config, folder: str, source: str, keys: dict[str, str], seeds: int, prune: bool, draws: int
) -> None:
    """What a process of its own does for a trial."""
    space = Space(source, {name: optuna.distributions.json_to_distribution(one) for name, one in keys.items()})
    with signals.defer_signals() as stop:
        search = Search(Path(folder), dataset, base, space, seeds, prune, draws)
        search.stop = stop
        search.one()


def _leave_if_asked(stop: signals.Stop) -> None:
    if stop.received:
        raise Interrupted("interrupted; repeat the command to go on, the trial from its beginning", stop.received)


class _Watch(NullObserver):
    """Tells the trial of every validation, and ends a run that is worse than most, or after a signal."""

    def __init__(self, trial: Trial, prune: bool, stop: signals.Stop) -> None:
        self.trial, self.prune, self.stop = trial, prune, stop

    def stepped(self, epoch, step, losses):
        _leave_if_asked(self.stop)

    def epoch_ended(self, record):
        recall = record.get("val", {}).get(SELECTION_METRIC)
        if recall is None or not self.prune:
            return
        self.trial.report(recall, record["epoch"])
        if self.trial.should_prune():
            raise optuna.TrialPruned
