"""`mmssl-fast tune`: a search over the configuration by validation Recall@20, with Optuna.

A study is one folder: study.log, Optuna's journal, from which a search goes on; trials.md, its record; best.toml, a
preset of the best trial. Test interactions are never looked at.
"""

from __future__ import annotations

import fcntl
import tomllib
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

import optuna
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.trial import FrozenTrial, Trial, TrialState

from mmssl_fast import InteractionGraph

from ...config.sections import Config, known_keys, load, toml_value
from ...data import Dataset
from ...errors import InputError, Interrupted, shown
from ...files import write_text
from ...systems import create
from ...training import loop as train
from ...training import signals
from ...training.checkpoints import refuse_other
from .. import processes
from ..reproduce.tables import markdown

optuna.logging.set_verbosity(optuna.logging.WARNING)
JOURNAL, RECORD, BEST = "study.log", "trials.md", "best.toml"
ENDED = (TrialState.COMPLETE, TrialState.PRUNED)
NOT_TUNED = (
    "data", "train.seed", "train.device", "train.threads", "train.memory", "train.compare", "train.start",
)  # fmt: skip
STARTUP_TRIALS, LEAST_EPOCHS = 5, 3
Distribution = CategoricalDistribution | FloatDistribution | IntDistribution


@dataclass(frozen=True)
class Space:
    """What is searched: {"section.key": distribution}, and the file that says so."""

    source: str
    keys: dict[str, Distribution]


def find_space(name: str | None, system: str) -> Path:
    """The TOML file of a bundled space, or the file of that name; without a name the space that has the system's.

    Raises InputError where there is none.
    """
    bundled = {Path(one.name).stem: Path(str(one)) for one in (files(__package__) / "searches").iterdir()
               if one.name.endswith(".toml")}  # fmt: skip
    if (name or system) in bundled:
        return bundled[name or system]
    known = ", ".join(sorted(bundled))
    if name is None:
        raise InputError(f"tune: no search space is bundled for {system}, only {known}; give --space")
    if Path(name).is_file():
        return Path(name)
    raise InputError(f"space {shown(name)}: is no file, and the bundled ones are {known}")


def read_space(path: Path, base: Config) -> Space:
    """A TOML file laid out as a configuration, each key with a list of values, or with { low, high } and, where they
    lie orders apart, log = true.

    Raises InputError for an unknown key, or an end or value that the configuration refuses.
    """
    try:
        sections = tomllib.loads(path.read_bytes().decode())
    except OSError as error:
        raise InputError(f"{path}: cannot be read ({error.strerror}); give a search space in TOML") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(f"{path}: is not TOML: {error}") from None
    keys: dict[str, Distribution] = {}
    ends: dict[str, list[Any]] = {}
    for section, entries in sections.items():
        if not isinstance(entries, dict):
            raise InputError(f"{path}: {section} must be a table, [{section}]")
        for key, entry in entries.items():
            name = f"{section}.{key}"
            if name in NOT_TUNED or section in NOT_TUNED:
                raise InputError(f"{path}: {name} is not searched over; give it as an option")
            keys[name], ends[name] = _distribution(path, name, entry)
    fixed = {name: values[0] for name, values in ends.items() if len(values) == 1}  # every trial has them
    for name, values in ends.items():
        for value in values:
            _with(base, fixed | {name: value}, str(path))
    if not keys:
        raise InputError(f"{path}: names no key; write for example lr = {{ low = 1e-3, high = 1e-2, log = true }}")
    return Space(str(path), keys)


def _distribution(path: Path, name: str, entry: Any) -> tuple[Distribution, list[Any]]:
    """Optuna's distribution of an entry, and the values that must be good for all of it to be."""
    if isinstance(entry, list) and entry and all(isinstance(one, (bool, int, float, str)) for one in entry):
        return CategoricalDistribution(entry), entry
    if isinstance(entry, dict) and {"low", "high"} <= entry.keys() <= {"low", "high", "log"}:
        low, high, log = entry["low"], entry["high"], entry.get("log", False)
        numbers = all(isinstance(one, (int, float)) and not isinstance(one, bool) for one in (low, high))
        if numbers and isinstance(log, bool) and low < high and (low > 0 or not log):
            whole = isinstance(low, int) and isinstance(high, int)
            return (IntDistribution if whole else FloatDistribution)(low, high, log=log), [low, high]
    raise InputError(
        f"{path}: {name} = {shown(entry)}: write a list of values, or {{ low = a, high = b }} with a < b, and "
        "log = true where a > 0"
    )


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
    device, refusals = train.pick_device(base.train.device), []
    lowest = {
        name: one.choices[0] if isinstance(one, CategoricalDistribution) else one.low
        for name, one in space.keys.items()
    }
    for values in ({}, lowest):
        try:
            graph = InteractionGraph.from_scipy(dataset.train).to(device)
            create(base.model.system).build(dataset, graph, _with(base, values, space.source))
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
            self.study.enqueue_trial(self._of_base())
            return
        if held["fingerprint"] != now["fingerprint"]:
            raise InputError(f"{self.folder}: holds a search on other data; give another --out")
        refuse_other(self.folder, held["config"], now["config"])
        for name, what in (("space", "over another space"), ("seeds", f"with {held['seeds']} seeds a trial")):
            if held[name] != now[name]:
                raise InputError(f"{self.folder}: holds a search {what}; give another --out")

    def _of_base(self) -> dict[str, Any]:
        """The base configuration's values, as far as the space holds them: the first trial."""
        held = self.base.model_dump()
        values = {name: held[name.partition(".")[0]][name.partition(".")[2]] for name in self.space.keys}
        return {name: value for name, value in values.items() if _holds(self.space.keys[name], value)}

    def run(self, trials: int, say: Callable[[str], None], jobs: int = 1) -> None:
        """Until so many trials, those of earlier calls too, have ended, `jobs` at a time. say: told a line for each.

        A trial that was interrupted is taken once more, from its beginning. Raises Interrupted after a signal, never
        amid what Optuna writes.
        """
        with self._alone():
            for trial in self.study.get_trials(states=[TrialState.RUNNING]):
                self.study.tell(trial.number, state=TrialState.FAIL)
                self.study.enqueue_trial(trial.params)
            if jobs > 1:
                self._at_once(trials, say, jobs)
                return
            with signals.kept() as self.stop:
                while (ended := self._n_ended()) < trials:
                    number = self.one()
                    say(f"{ended + 1}/{trials}  {self._line(self.study.trials[number])}")
                    self.write()

    def _n_ended(self) -> int:
        return len(self.study.get_trials(deepcopy=False, states=ENDED))

    def _at_once(self, trials: int, say: Callable[[str], None], jobs: int) -> None:
        """Each trial in a process of its own, with draws of its own: what is drawn also depends on which trials have
        ended by then."""
        first, told = self._n_ended(), {one.number for one in self.ended()}

        def ended(_) -> None:
            for one in sorted(self.ended(), key=lambda one: one.number):
                if one.number not in told:
                    told.add(one.number)
                    say(f"{len(told)}/{trials}  {self._line(one)}")
            self.write()

        arguments = {
            "folder": str(self.folder), "source": self.space.source, "seeds": self.seeds, "prune": self.prune,
            "keys": {name: optuna.distributions.distribution_to_json(one) for name, one in self.space.keys.items()},
        }  # fmt: skip
        processes.at_once(
            [processes.Part(f"trial {at + 1} of {trials}", f"{__name__}:take_one", self.base,
                            arguments | {"draws": self.draws + at}) for at in range(first, trials)],
            self.dataset, jobs, "trials", ended,
        )  # fmt: skip

    @contextmanager
    def _alone(self) -> Iterator[None]:
        with open(self.folder / JOURNAL, "rb") as journal:
            try:
                fcntl.flock(journal, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise InputError(f"{self.folder}: another process searches there; wait for it, or stop it") from None
            yield

    def one(self) -> int:
        """One trial: its number."""
        _leave_if_asked(self.stop)
        trial = self.study.ask(self.space.keys)
        try:
            config = _with(self.base, trial.params, self.space.source)
            self.study.tell(trial, self._value(trial, config))
        except optuna.TrialPruned:
            self.study.tell(trial, state=TrialState.PRUNED)
        except (InputError, train.NonFiniteLoss) as error:  # keys that do not go together, a rate that is too high
            trial.set_user_attr("note", str(error))
            self.study.tell(trial, state=TrialState.PRUNED)
        return trial.number

    def _value(self, trial: Trial, config: Config) -> float:
        """Validation Recall@20, mean over seeds; only the first seed's run may be pruned."""
        values = []
        for seed in range(config.train.seed, config.train.seed + self.seeds):
            watch = _Watch(trial, prune=not values, stop=self.stop)
            seeded = config.model_copy(update={"train": config.train.model_copy(update={"seed": seed})})
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", message="sample_bpr: ")  # that it leaves out users with every item
                fit = train.fit(self.dataset, seeded, watch)
            values.append(fit.best)
            trial.set_user_attr("epochs", [*trial.user_attrs.get("epochs", []), len(fit.epochs)])
            trial.set_user_attr("best_epoch", [*trial.user_attrs.get("best_epoch", []), fit.best_epoch])
        trial.set_user_attr("recall@20", values)
        return sum(values) / len(values)

    def ended(self) -> list[FrozenTrial]:
        """The best first, then the pruned ones."""
        found = self.study.get_trials(states=ENDED)
        return sorted(found, key=lambda one: (one.state != TrialState.COMPLETE, -(_value_of(one) or 0)))

    def write(self) -> None:
        """The record, and the best trial's preset."""
        found = self.ended()
        names = list(self.space.keys)
        rows = [
            [str(one.number), _text(_value_of(one)), _state(one), *(_text(one.params[name]) for name in names),
             ", ".join(map(str, one.user_attrs.get("best_epoch", []))), f"{one.duration.total_seconds():.0f}"]
            for one in found
        ]  # fmt: skip
        columns = ["trial", "val. Recall@20", "state", *names, "best epoch", "seconds"]
        lines = [
            f"# Search for {self.base.model.system} on {self.dataset.name}", "",
            f"{len(found)} trials, {sum(one.state == TrialState.PRUNED for one in found)} of them pruned; {self.seeds} "
            f"seed{'s' * (self.seeds > 1)} from {self.base.train.seed}, at most {self.base.train.epochs} epochs; "
            f"split {self.dataset.fingerprint[:16]}. Optuna {optuna.__version__}, TPE. A pruned trial shows its best.",
            "", markdown(columns, rows), "",
        ]  # fmt: skip
        write_text(self.folder / RECORD, "\n".join(lines))
        if found and found[0].state == TrialState.COMPLETE:
            config = _with(self.base, found[0].params, self.space.source)
            title = f"{config.model.system} on {self.dataset.name}: trial {found[0].number} of {len(found)}"
            write_text(self.folder / BEST, preset(config, f"{title}, validation Recall@20 {found[0].value:.4f}."))

    def _line(self, one: FrozenTrial) -> str:
        values = ", ".join(f"{name} {_text(value)}" for name, value in one.params.items())
        return f"trial {one.number}: {_text(_value_of(one))} {_state(one)}  {values}"


def take_one(
    dataset: Dataset, base: Config, folder: str, source: str, keys: dict[str, str], seeds: int, prune: bool, draws: int
) -> None:
    """What a process of its own does for a trial."""
    space = Space(source, {name: optuna.distributions.json_to_distribution(one) for name, one in keys.items()})
    with signals.kept() as stop:
        search = Search(Path(folder), dataset, base, space, seeds, prune, draws)
        search.stop = stop
        search.one()


def _leave_if_asked(stop: signals.Stop) -> None:
    if stop.received:
        raise Interrupted("interrupted; repeat the command to go on, the trial from its beginning", stop.received)


class _Watch(train.Silent):
    """Tells the trial of every validation, and ends a run that is worse than most, or after a signal."""

    def __init__(self, trial: Trial, prune: bool, stop: signals.Stop) -> None:
        self.trial, self.prune, self.stop = trial, prune, stop

    def stepped(self, epoch, step, losses):
        _leave_if_asked(self.stop)

    def epoch_ended(self, record):
        recall = record.get("val", {}).get(train.WATCHED)
        if recall is None or not self.prune:
            return
        self.trial.report(recall, record["epoch"])
        if self.trial.should_prune():
            raise optuna.TrialPruned


def preset(config: Config, title: str) -> str:
    """TOML of the keys that differ from the defaults, apart from what says where and on what a run is made."""
    lines, default = [f"# {title}"], Config()
    for name in known_keys():
        section, key = name.split(".")
        value = getattr(getattr(config, section), key)
        if section in NOT_TUNED or name in NOT_TUNED or value == getattr(getattr(default, section), key):
            continue
        if f"[{section}]" not in lines:
            lines += ["", f"[{section}]"]
        lines.append(f"{key} = {toml_value(value)}")
    return "\n".join(lines) + "\n"


def _with(base: Config, values: dict[str, Any], source: str) -> Config:
    """The base with a trial's values, checked together."""
    held = base.model_dump()
    given = {f"{section}.{key}": (value, source) for section in held for key, value in held[section].items()}
    return load(None, given | {name: (value, source) for name, value in values.items()})


def _holds(distribution: Distribution, value: Any) -> bool:
    if isinstance(distribution, CategoricalDistribution):
        return value in distribution.choices
    return distribution.low <= value <= distribution.high


def _value_of(one: FrozenTrial) -> float | None:
    """A trial's value; of a pruned one the best it had come to."""
    return one.value if one.state == TrialState.COMPLETE else max(one.intermediate_values.values(), default=None)


def _state(one: FrozenTrial) -> str:
    if one.state == TrialState.COMPLETE:
        return "complete"
    return "refused" if "note" in one.user_attrs else f"pruned at epoch {max(one.intermediate_values, default=0)}"


def _text(value: Any) -> str:
    if value is None:
        return "–"
    return f"{value:.4g}" if isinstance(value, float) else str(value)
