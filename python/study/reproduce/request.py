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
from . import paper, plan, searches, targets


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
    quick. systems (table2, table4, figure3), variants (table3), sweeps (figure4): a part of the rows; empty: all. A
    system may be "SYSTEM:PRESET", so that it can have several rows. reference: the row of table2 that the others are
    compared with. quick: one seed, 2 epochs, few systems: to try it, not for results. jobs: runs at the same time, each
    a process.

    budget: trials of a search for the settings of every row, before the runs; 0: none. A search uses validation
    interactions only, and starts from the defaults or the preset of the row. Bundled presets come from earlier
    searches, so that only those given are used. search_seeds: seeds of a trial, which the runs do not have. spaces:
    {row: search space}, as in `tune`.

    Raises InputError for what cannot be run.

    >>> import tempfile
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     table = Reproduction("table2", folder, systems=["popularity", "svd"], quick=True)
    ...     path = table.run(lambda line: None)
    ...     path.name, "SVD" in path.read_text()
    ('table2.md', True)
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
        reference: str = "mmssl",
        budget: int = 0,
        search_seeds: int = 2,
        spaces: Mapping[str, str] | None = None,
        sources: Mapping[str, str] | None = None,
    ) -> None:
        _allowed([target], "target", get_args(plan.Target))
        check_counts(jobs=jobs, seeds=1 if seeds is None else seeds, search_seeds=search_seeds, budget=budget or 1)
        origin = dict(sources or {})
        names = plan.systems_of(target, _rows(systems, origin.get("systems", "systems")), quick)
        _refuse_unused(origin, names, target, {"presets": presets, "spaces": spaces}, reference, budget)
        swept = _allowed(sweeps, origin.get("sweeps", "sweeps"), paper.SWEEPS)
        values = dict(settings or {})
        if quick and values.get("train.epochs") is None:
            values["train.epochs"] = plan.QUICK_EPOCHS
        self.dataset = load_data(**configure(values, file=file, sources=origin).data.model_dump())
        refuse_without_features(self.dataset, [plan.system_of(name) for name in names])
        base = {}
        for name in names:
            system, _, named = name.partition(":")
            bundled = f"{name}-{self.dataset.name}"
            found = bundled if bundled in bundled_presets.names() and not budget else None
            preset = named or (presets or {}).get(name) or found
            config = configure(
                {**values, "model.system": system},
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
            reference,
            budget,
            search_seeds,
            dict(spaces or {}),
        )
        if budget:
            searches.check(self.request, self.dataset)
        self.jobs = min(jobs, max(budget, len({run.folder for run in plan.runs_of(self.request)})))
        self.request = replace(self.request, jobs=self.jobs)
        if self.jobs > 1:
            shared = {name: sharing(config, self.jobs) for name, config in base.items()}
            self.request = replace(self.request, base=shared)

    def planned(self) -> list[PlannedRun]:
        """All searches and runs in their order. Two rows may have the same run. With a budget, the runs are shown with
        the settings before the searches."""
        return [PlannedRun(*row) for row in targets.estimate(self.request, self.dataset)]

    def seconds(self, planned: Sequence[PlannedRun]) -> float:
        """Upper bound on the time that these runs take together on this machine, `jobs` at a time."""
        return targets.makespan({run.folder: run.seconds for run in planned}.values(), self.jobs)

    def run(self, note: Callable[[str], None] | None = None) -> Path:
        """Complete the searches and the runs, and write the result. Returns the path of its Markdown file, with a PNG
        file next to it for a figure. note: called with a line about each trial and run. Raises Interrupted after a
        signal."""
        told = note or (lambda line: None)
        request = searches.search(self.request, self.dataset, told) if self.request.budget else self.request
        return targets.produce(request, self.dataset, told, self.jobs)


def _rows(rows: Sequence[str], what: str) -> list[str]:
    """The distinct rows SYSTEM or SYSTEM:PRESET. Raises InputError for an unknown system, and for two rows that would
    have the same name."""
    _allowed(rows if isinstance(rows, str) else map(plan.system_of, rows), what, SYSTEMS)
    labels: dict[str, str] = {}
    for row in rows:
        if (other := labels.setdefault(plan.row_label(row), row)) != row:
            raise InputError(
                f"{what}: {shown(other)} and {shown(row)} would have the same name; rename one of the files"
            )
    return list(labels.values())


def _refuse_unused(
    origin: Mapping[str, str],
    names: Sequence[str],
    target: plan.Target,
    by_row: Mapping[str, Mapping[str, str] | None],
    reference: str,
    budget: int,
) -> None:
    """Raise InputError for options that would have no effect."""
    for what, values in by_row.items():
        for name in values or {}:
            if name not in names:
                raise InputError(
                    f"{origin.get(what, what)} {shown(name)}: is not one of the systems, {', '.join(names)}"
                )
    if by_row["spaces"] and not budget:
        raise InputError(f"{origin.get('spaces', 'spaces')}: is used by searches only; give a budget as well")
    for name in by_row["presets"] or {}:
        if ":" in name:
            raise InputError(f"{origin.get('presets', 'presets')} {shown(name)}: the row names its preset already")
    if budget and target not in plan.DEFAULT_SYSTEMS:
        raise InputError(
            f"{origin.get('budget', 'budget')}: {target} compares forms of one system, whose settings must be the "
            f"same; only {', '.join(plan.DEFAULT_SYSTEMS)} can search for settings"
        )
    if reference != "mmssl" and (target != "table2" or reference not in names):
        raise InputError(
            f"{origin.get('reference', 'reference')} {shown(reference)}: must be one of the systems of table2, "
            f"{', '.join(names)}"
        )


def _allowed(names: Iterable[str], what: str, allowed: Iterable[str]) -> list[str]:
    """The distinct names. Raises InputError for one that is not allowed, and for a text in place of a list."""
    if isinstance(names, str):
        raise InputError(f"{what} {shown(names)}: give a list of names, such as [{shown(names)}]")
    for name in names:
        if name not in allowed:
            raise InputError(f"{what} {shown(name)}: must be one of {', '.join(allowed)}")
    return list(dict.fromkeys(names))
