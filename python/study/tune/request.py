"""tune: a hyper-parameter search by one call."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from ...config.sections import Config
from ...errors import check_counts
from ...runs.complete import load_data
from ...systems import refuse_without_features
from ..processes import refuse_what_cannot_fit, sharing
from . import record
from . import space as spaces
from .search import JOURNAL, Search, refuse_what_cannot_run


def tune(
    config: Config,
    out: str | Path = "tuned",
    *,
    space: str | Path | None = None,
    trials: int = 30,
    seeds: int = 1,
    prune: bool = True,
    jobs: int = 1,
    note: Callable[[str], None] | None = None,
) -> list[Path]:
    """Search for the hyper-parameters of config.model.system with the best Recall@20, or train.select_by, on the
    validation split of config.data, with Optuna. Returns the files written: a table of the trials, and the best trial
    as a preset (not before a trial is complete).

    config: the first trial, and the keys outside the search space. out: folder of the search; if it contains this
    search, that is continued. space: name of a bundled search space, or a TOML file; None: that of the system. trials:
    total number, with those of earlier calls. seeds: runs a trial, whose results are averaged. prune: stop a trial
    early if it is worse than the median of the earlier ones. jobs: trials at the same time, each a process. note:
    called with a line about each trial. Raises InputError for what cannot be searched, and Interrupted after a signal.

    >>> import tempfile
    >>> from mmssl_trainer import configure
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     files = tune(configure({"model.system": "svd", "train.threads": 1}), f"{folder}/search", trials=2)
    >>> [path.name for path in files]
    ['trials.md', 'best.toml']
    """
    check_counts(trials=trials, seeds=seeds, jobs=jobs)
    folder = Path(out)
    chosen = spaces.read_space(spaces.find_space(None if space is None else str(space), config.model.system), config)
    jobs = min(jobs, trials)
    base = sharing(config.for_many_runs(), jobs) if jobs > 1 else config.for_many_runs()
    dataset = load_data(**base.data.model_dump())
    refuse_without_features(dataset, [base.model.system])
    refuse_what_cannot_run(dataset, base, chosen)
    if not (folder / JOURNAL).exists():  # a resumed search may have fewer trials left
        refuse_what_cannot_fit([base] * jobs, dataset, jobs, "trials")
    Search(folder, dataset, base, chosen, seeds, prune).run(trials, note or (lambda line: None), jobs)
    return [folder / name for name in (record.RECORD, record.BEST) if (folder / name).exists()]
