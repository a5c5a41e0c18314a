"""`mmssl-fast report`: a report on finished runs, as one self-contained HTML page and as Markdown."""

from __future__ import annotations

import base64
import io
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
from jinja2 import Environment, PackageLoader, StrictUndefined

from ...config.byte_size import readable
from ...config.load import load
from ...config.names import METRICS
from ...config.sections import Config
from ...errors import InputError
from ...files import write_text
from ...ranking import breakdown, user_metrics_on_test
from ...runs import folder as run_folder
from ...runs import saved_model
from ...runs.curves import draw
from ...runs.list_metrics import interval, list_metrics, values_of_users
from ...runs.recommend import recommend
from ...systems import SYSTEMS, title

BINS = (0, 4, 6, 9, 13, 100)  # groups of training interactions, as in Table 4 of the paper for Amazon-Baby
SHOWN_USERS, SHOWN_ITEMS, K = 5, 10, 20

CRITIC = {  # values of training.critic, and their columns
    "auc": "AUC",
    "auc_running": "AUC, running statistics",
    "wasserstein": "real minus generated",
    "slope_real": "slope, real",
    "slope_generated": "slope, generated",
    "gumbel_share": "Gumbel share",
}


@dataclass(frozen=True)
class Page:
    """The content of the report on one run. Tables are lists of rows of text; curves: PNG as a data URI, may be
    empty."""

    name: str
    title: str
    fingerprint: str
    data: str
    config: Config
    result: dict[str, Any]
    metrics: list[list[str]]
    groups: list[list[str]]
    breakdown: list[list[str]]
    lists: list[list[str]]
    top: list[list[str]]
    timing: list[list[str]]
    balance: list[list[str]]
    critic: list[list[str]]
    baselines: list[list[str]]
    settings: list[list[str]]
    curves: str
    not_run: list[str]


def write_report(paths: list[Path], out: Path) -> tuple[Path, Path]:
    """Write the report to `out` (.html), and as Markdown to the same path with .md. Returns both paths.

    Runs on different splits are shown in separate sections. Raises InputError if a folder contains no finished run.

    >>> import tempfile
    >>> from mmssl_trainer import configure, train
    >>> with tempfile.TemporaryDirectory() as folder:
    ...     run = train(configure({"model.system": "popularity", "train.compare": "no"}), f"{folder}/run")
    ...     [path.name for path in write_report([run.path], Path(folder) / "report.html")]
    ['report.html', 'report.md']
    """
    if out.suffix.lower() != ".html":
        raise InputError(f"{out}: the extension must be .html; the Markdown file is written next to it")
    if not out.parent.is_dir():
        raise InputError(f"{out}: the folder {out.parent} does not exist")
    pages = [read(path) for path in dict.fromkeys(paths)]
    splits: dict[str, list[Page]] = {}
    for page in pages:
        splits.setdefault(page.fingerprint, []).append(page)
    values = {
        "splits": [_split(split) for split in splits.values()],
        "versions": pages[0].result["versions"],
        "metric_columns": ["K", *METRICS],
        "group_columns": ["training interactions", "test users", f"Recall@{K}", f"NDCG@{K}"],
        "list_columns": [f"at K = {K}", "mean", "95% interval"],
        "breakdown_columns": ["held-out pairs of", "users", "pairs", f"Recall@{K}", f"NDCG@{K}", f"Hit@{K}"],
        "balance_columns": ["part", "term", "share, first epoch", "share, best epoch", "cosine, best epoch"],
        "critic_columns": ["modality", "epoch", *CRITIC.values()],
        "baseline_columns": ["system", "Recall@20", "Precision@20", "NDCG@20", "best epoch"],
        "run_columns": ["run", "seed", "Recall@20", "Precision@20", "NDCG@20", "best epoch", "s an epoch"],
    }
    written = out, out.with_suffix(".md")
    for path, template in zip(written, ("report.html.j2", "report.md.j2"), strict=True):
        write_text(path, _environment(template).get_template(template).render(**values))
    return written


def _environment(template: str) -> Environment:
    html = template.endswith(".html.j2")
    environment = Environment(
        loader=PackageLoader(__package__, "templates"),
        autoescape=html,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["cell"] = lambda text: str(text).replace("|", "\\|").replace("\n", " ")
    return environment


def read(path: Path) -> Page:
    """Read a finished run from its folder."""
    result = run_folder.read_result(path)
    config, epochs = load(path / run_folder.CONFIG), run_folder.read_epochs(path)
    model = saved_model.load(path)
    data, test = result["data"], result["test"]
    ks = sorted({int(name.partition("@")[2]) for name in test if "@" in name})
    return Page(
        name=str(path),
        title=title(config.model.system),
        fingerprint=data["fingerprint"],
        data=_data_sentence(data),
        config=config,
        result=result,
        metrics=[[str(k), *(f"{test[f'{name}@{k}']:.4f}" for name in METRICS)] for k in ks],
        groups=_groups(model, config),
        breakdown=_breakdown(model, config),
        lists=_lists(model, config),
        top=_top(model),
        timing=_timing(result, epochs, config),
        balance=_balance(epochs, result["best_epoch"]),
        critic=_critic(epochs, result["best_epoch"]),
        settings=_settings(config),
        baselines=_baselines(run_folder.read_baselines(path)),
        curves=_curves(epochs, f"{title(config.model.system)} on {data['name']}", config.train.select_by),
        not_run=_not_run(result, epochs, config),
    )


def _split(pages: list[Page]) -> dict[str, Any]:
    """The runs on one split, and a table that compares them."""
    rows = []
    for page in pages:
        test = page.result["test"]
        shown = [f"{test[f'{name}@{K}']:.4f}" for name in ("recall", "precision", "ndcg")]
        numbers = [str(page.result["best_epoch"]), f"{page.result['seconds_per_epoch']:.2f}"]
        rows.append([f"{page.title} ({Path(page.name).name})", str(page.result["seed"]), *shown, *numbers])
    present = {page.config.model.system for page in pages}
    missing = [title(name) for name in SYSTEMS if name not in present]
    notes = [f"Systems without a run here: {', '.join(missing)}."] if missing else []
    if len({page.result["seed"] for page in pages}) == 1:
        notes.append("Only one seed: the variance between seeds is unknown.")
    return {"pages": pages, "rows": rows, "notes": notes, "data": pages[0].data, "fingerprint": pages[0].fingerprint}


def _data_sentence(data: dict[str, Any]) -> str:
    counts = ", ".join(f"{count:,} {split}" for split, count in data["interactions"].items())
    modalities = ", ".join(modality["name"] for modality in data["modalities"]) or "none"
    sizes = f"{data['users']:,} users, {data['items']:,} items"
    return f"{data['name']}: {sizes}, interactions {counts}; features {modalities}"


def _groups(model: saved_model.Model, config: Config) -> list[list[str]]:
    """Recall and NDCG of the test users by how many training interactions they have."""
    dataset = model.interactions
    users, values = user_metrics_on_test(model.users, model.items, dataset, K, config.evaluate.mask_validation)
    group = np.digitize(np.diff(dataset.train.indptr)[users], (*BINS, np.inf)) - 1
    rows = []
    for index, (low, high) in enumerate(pairwise((*BINS, None))):
        members = group == index
        if members.any():
            label = f"{low} or more" if high is None else f"{low} to {high - 1}"
            means = [f"{values[name][members].mean():.4f}" for name in ("recall", "ndcg")]
            rows.append([label, str(members.sum()), *means])
    return rows


def _breakdown(model: saved_model.Model, config: Config) -> list[list[str]]:
    """The metrics of known and new users, and of known and cold items; empty if the test split has neither."""
    options = config.evaluate
    groups = breakdown(model.users, model.items, model.interactions, "test", [K], options.mask_validation)
    return [
        [
            name,
            str(group["users"]),
            str(group["pairs"]),
            *(f"{group[f'{m}@{K}']:.4f}" for m in ("recall", "ndcg", "hit")),
        ]
        for name, group in groups.items()
    ]


def _lists(model: saved_model.Model, config: Config) -> list[list[str]]:
    """The means over the test users with their confidence intervals, and what the lists are like beyond accuracy."""
    masked = config.evaluate.mask_validation
    _, values = values_of_users(model, "test", [K], masked)
    found = list_metrics(model, "test", [K], masked)
    if not len(found.users):
        return []
    values |= found.values
    rows = [
        [name.partition("@")[0], f"{each.mean():.4f}", "{:.4f} to {:.4f}".format(*interval(each))]
        for name, each in values.items()
    ]
    return [*rows, *([name.partition("@")[0], f"{share:.4f}", "–"] for name, share in found.coverage.items())]


def _top(model: saved_model.Model) -> list[list[str]]:
    """Recommendations for the first users with test items. Test items among them are marked."""
    interactions = model.interactions
    users = np.flatnonzero(np.diff(interactions.test.indptr))[:SHOWN_USERS]
    rows = []
    for user, user_id in zip(users, interactions.original_users(users).tolist(), strict=True):
        (recommended,) = recommend(model, [user_id], SHOWN_ITEMS)
        test_items = set(interactions.original_items(interactions.test[[user]].indices).tolist())
        shown = [f"{item}*" if item in test_items else str(item) for item in recommended.item.tolist()]
        rows.append([str(user_id), ", ".join(shown), ", ".join(map(str, sorted(test_items, key=str)))])
    return rows


def _timing(result: dict[str, Any], epochs: list[dict[str, Any]], config: Config) -> list[list[str]]:
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    rows = [["device", config.train.device], ["versions", versions]]
    if epochs:
        training = sum(record["seconds"] for record in epochs)
        validating = sum(record.get("validation_seconds", 0.0) for record in epochs)
        peak = max(record["peak_memory_bytes"] for record in epochs)
        rows += [
            ["epochs", f"{len(epochs)} of at most {config.train.epochs}"],
            ["training", f"{training:.1f} s"],
            ["per epoch", f"{training / len(epochs):.2f} s"],
            ["validation", f"{validating:.1f} s"],
            ["peak memory of the process", readable(peak)],
        ]
    return rows


def _balance(epochs: list[dict[str, Any]], best_epoch: int) -> list[list[str]]:
    """The statistics of train.balance: the gradient norm of each loss term on each part of the model, relative to that
    of the ranking term. An epoch without statistics (train.balance was enabled when the run was resumed) shows a
    dash."""
    balances = {record["epoch"]: record["balance"] for record in epochs if record.get("balance")}
    if not balances:
        return []
    first, best = balances.get(epochs[0]["epoch"]), balances.get(best_epoch)
    rows = []
    for part, terms in next(iter(balances.values())).items():
        ranking, *others = terms
        for term in others:
            ratios = [
                "–" if epoch is None else _ratio(epoch[part][term]["norm"], epoch[part][ranking]["norm"])
                for epoch in (first, best)
            ]
            rows.append([part, term, *ratios, "–" if best is None else f"{best[part][term]['cosine']:+.2f}"])
    return rows


def _critic(epochs: list[dict[str, Any]], best_epoch: int) -> list[list[str]]:
    """The values of the critic by modality, in the first, the best and the last epoch that have them."""
    critics = {record["epoch"]: record["critic"] for record in epochs if record.get("critic")}
    shown = [epoch for epoch in sorted(critics) if epoch in (min(critics), best_epoch, max(critics))]
    return [
        [name, str(epoch), *(f"{critics[epoch][name][key]:.3g}" for key in CRITIC)]
        for name in (critics[shown[0]] if shown else ())
        for epoch in shown
    ]


def _baselines(baselines: dict[str, Any]) -> list[list[str]]:
    """The results of the systems trained for comparison (train.compare)."""
    return [
        [
            title(name),
            *(f"{baseline['test'][f'{metric}@{K}']:.4f}" for metric in ("recall", "precision", "ndcg")),
            str(baseline["best_epoch"]),
        ]
        for name, baseline in baselines.items()
    ]


def _ratio(norm: float, ranking: float) -> str:
    return f"{norm / ranking:.2g}" if ranking > 0 else "–"


def _settings(config: Config) -> list[list[str]]:
    """Every key with its value; the third column marks values that differ from the default."""
    changes = config.changes()
    return [[name, str(value), "changed" if name in changes else ""] for name, value in config.flat().items()]


def _curves(epochs: list[dict[str, Any]], title: str, by: str) -> str:
    if not epochs:
        return ""
    png = io.BytesIO()
    draw(epochs, png, title, by)
    return "data:image/png;base64," + base64.b64encode(png.getvalue()).decode()


def _not_run(result: dict[str, Any], epochs: list[dict[str, Any]], config: Config) -> list[str]:
    """The limitations of a run: what was not tested or trained."""
    notes = []
    if not result["test"].get("users"):
        notes.append("The data has no test interactions, so there are no test metrics.")
    if not result["val"].get("users"):
        notes.append("The data has no validation interactions, so the model of the last epoch was used.")
    elif epochs and result["best_epoch"] == epochs[-1]["epoch"]:
        notes.append("The last epoch was the best, so more epochs might improve the result.")
    if epochs and len(epochs) < config.train.epochs:
        run = f"Stopped early after {len(epochs)} of {config.train.epochs} epochs"
        notes.append(f"{run}: {config.train.patience} validations without improvement.")
    switched_off = [name for name in ("adversarial", "contrastive", "gumbel") if not getattr(config.loss, name)]
    if config.model.system == "mmssl" and switched_off:
        notes.append(f"Disabled parts of MMSSL: {', '.join(switched_off)}.")
    if config.model.system == "mmssl" and config.loss.structural:
        notes.append("The structural contrastive loss is enabled. It comes from NCL and is not part of MMSSL.")
    if config.train.device == "cpu":
        notes.append("The run did not use a GPU.")
    return notes
