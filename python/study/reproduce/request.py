"""Reproduction: a table or figure of the paper by one object, with what the command line and Python have in common."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, NamedTuple, get_args

from ...config import presets as bundled_presets
from ...config.load import configure
from ...errors import InputError, check_counts, shown
from ...ranking import check_list_lengths
from ...runs.complete import load_data
from ...systems import SYSTEMS, refuse_without_features
from ...training.loop import pick_device
from ..processes import sharing
from . import paper, plan, targets


class PlannedRun(NamedTuple):
    """label: name in the table. seed: of the run. progress: what is done of it. folder: its name. seconds: upper bound
    on what is left on this machine."""

    label: str
    seed: int
    progress: str
    folder: str
    seconds: float


class Reproduction:
    """The runs and the text of table2 (systems), table3 (ablations), table4 (users by training interactions), figure3
    (training curves), figure4 (sweeps) or figure5 (gradients of negatives) of the MMSSL paper, on data of your own.

    target: one of these names. out: folder for runs and results; runs that it already contains are not repeated.
    settings, file, sources: the configuration of every run, as in `configure`; sources may also name where systems,
    variants, sweeps and presets come from. presets: {system: name or TOML file};
    else the bundled preset SYSTEM-DATA, if there is one. seeds: number of seeds of a row, from 0; None: 3, or 1 if
    quick. systems (table2, table4, figure3), variants (table3), sweeps (figure4): a part of the rows; empty: all.
    quick: one seed, 2 epochs, few systems: to try it, not for results. jobs: runs at the same time, each a process.
    Raises InputError for what cannot be run.
    """

    def __init__(
        self,
        target: plan.Target,
        out: str | Path = "reproduced",
        *,
        settings: Mapping[str, Any] | None = None,
        file: str | Path | None = None,
        presets: Mapping[str, str] | None = None,
        seeds: int | None = None,
        systems: Sequence[str] = (),
        variants: Sequence[str] = (),
        sweeps: Sequence[str] = (),
        quick: bool = False,
        jobs: int = 1,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        _allowed([target], "target", get_args(plan.Target))
        check_counts(jobs=jobs, seeds=1 if seeds is None else seeds)
        origin = dict(sources or {})
        names = plan.systems_of(target, _allowed(systems, origin.get("systems", "systems"), SYSTEMS), quick)
        swept = _allowed(sweeps, origin.get("sweeps", "sweeps"), paper.SWEEPS)
        values = dict(settings or {})
        if quick and values.get("train.epochs") is None:
            values["train.epochs"] = plan.QUICK_EPOCHS
        for name in presets or {}:
            if name not in names:
                raise InputError(
                    f"{origin.get('presets', 'presets')} {shown(name)}: is not one of the systems, {', '.join(names)}"
                )
        self.dataset = load_data(**configure(values, file=file, sources=origin).data.model_dump())
        refuse_without_features(self.dataset, names)
        base = {}
        for name in names:
            bundled = f"{name}-{self.dataset.name}"
            preset = (presets or {}).get(name) or (bundled if bundled in bundled_presets.names() else None)
            config = configure(
                {**values, "model.system": name},
                preset=preset,
                file=file,
                sources=origin | {"model.system": origin.get("systems", "systems")},
            )
            base[name] = config.for_many_runs()
            check_list_lengths("evaluate.ks", config.evaluate.ks, self.dataset.n_items)
        variants_from = origin.get("variants", "variants")
        pick_device(next(iter(base.values())).train.device)
        chosen = _allowed(variants, variants_from, plan.ABLATIONS | plan.STRUCTURAL_ABLATIONS)
        missing = [name for name in chosen if "mmssl" in base and name not in plan.ablations(base["mmssl"])]
        if missing:
            raise InputError(
                f"{variants_from} {shown(missing[0])}: needs the structural contrastive loss; set loss.structural = "
                "true"
            )
        self.request = plan.Settings(
            target,
            Path(out),
            self.dataset.fingerprint,
            base,
            (1 if quick else 3) if seeds is None else seeds,
            quick,
            tuple(chosen),
            tuple(swept),
        )
        self.jobs = min(jobs, len({run.folder for run in plan.runs_of(self.request)}))
        if self.jobs > 1:
            shared = {name: sharing(config, self.jobs) for name, config in base.items()}
            self.request = replace(self.request, base=shared)

    def planned(self) -> list[PlannedRun]:
        """All runs in their order. Two rows may have the same run."""
        return [PlannedRun(*row) for row in targets.estimate(self.request, self.dataset)]

    def seconds(self, planned: Sequence[PlannedRun]) -> float:
        """Upper bound on the time that these runs take together on this machine, `jobs` at a time."""
        return targets.makespan({run.folder: run.seconds for run in planned}.values(), self.jobs)

    def run(self, note: Callable[[str], None] | None = None) -> Path:
        """Complete the runs and write the result. Returns the path of its Markdown file, with a PNG file next to it for
        a figure. note: called with a line about each run. Raises Interrupted after a signal."""
        return targets.produce(self.request, self.dataset, note or (lambda line: None), self.jobs)


def _allowed(names: Iterable[str], what: str, allowed: Iterable[str]) -> list[str]:
    """The distinct names. Raises InputError for one that is not allowed, and for a text in place of a list."""
    if isinstance(names, str):
        raise InputError(f"{what} {shown(names)}: give a list of names, such as [{shown(names)}]")
    for name in names:
        if name not in allowed:
            raise InputError(f"{what} {shown(name)}: must be one of {', '.join(allowed)}")
    return list(dict.fromkeys(names))
