"""Keeping a run within its memory budget: the tile size, the evaluation batch and the dtype of the features."""

from __future__ import annotations

from functools import partial
from typing import Any, NamedTuple

from mmssl_fast import distributed
from mmssl_fast.tiles import TILE_ELEMENTS

from ..config.byte_size import parse_bytes, readable
from ..config.sections import Config
from ..data import Dataset
from ..errors import InputError
from .free import free_memory
from .plan import largest, peak, stages
from .retry import LEAST_TILE
from .sizes import divisors, largest_group, sizes_of, smallest_groups
from .stage import FLOAT

SHARE = 0.8  # fraction of the free memory that a run may use by default
TILE_BYTES = 8 * FLOAT  # bytes per entry of a tile: the tile and the temporaries derived from it
RANKED_BYTES = 128  # bytes per position of a user's recommendation list
MIN_EVALUATION_BATCH = 64
UNEQUAL = 1.2  # the interactions of the largest group over the mean, from which a remark is made


class Saving(NamedTuple):
    """A key whose value "auto" becomes `smaller` if a run does not fit with `default`, and the words for that."""

    section: str
    key: str
    default: str
    smaller: str
    words: str

    def possible(self, config: Config) -> bool:
        """Whether `smaller` works with the rest of the configuration."""
        if config.model.system != "mmssl" or (config.train.cuda_graph and self.key != "feature_dtype"):
            return False
        return self.key != "first_layer_weight" or (config.loss.adversarial and distributed.current().size == 1)


SAVINGS = (
    Saving("train", "feature_dtype", "float32", "float16", "features in float16"),
    Saving("train", "recompute", "off", "on", "the encoder's parts computed twice"),
    Saving("optimiser", "first_layer_weight", "float32", "bfloat16", "the discriminator's first weight in bfloat16"),
)


def fit_to_budget(dataset: Dataset, config: Config, resumed: bool = False) -> Config:
    """The configuration with train.tile, evaluate.batch and the keys of SAVINGS chosen to fit train.memory.

    The keys of SAVINGS that are "auto" save memory only if the run does not fit otherwise. Of the memory that the
    estimate leaves free, half goes to tiles and half to evaluation, up to their default sizes. Keys that the user has
    set are not changed. For a resumed run nothing is changed: its configuration already has all values. Raises
    InputError, with the estimate, if the run does not fit.
    """
    if resumed:
        refuse_what_cannot_fit(dataset, config)
        return config
    config = _with_savings(dataset, config)
    allowed, planned = _allowed(dataset, config), needed(dataset, config)
    refuse_what_cannot_fit(dataset, config)
    train: dict[str, Any] = {}
    evaluate: dict[str, Any] = {}
    if not config.train.tile:
        share = max(0, allowed - planned) // 2
        train["tile"] = _halved(TILE_ELEMENTS, TILE_BYTES, share, LEAST_TILE)
        users = config.evaluate.batch
        evaluate["batch"] = _halved(
            users, RANKED_BYTES * max(config.evaluate.ks), share, min(users, MIN_EVALUATION_BATCH)
        )
    return config.changed("train", **train).changed("evaluate", **evaluate)


def _with_savings(dataset: Dataset, config: Config) -> Config:
    """The configuration with a value for every key of SAVINGS that is "auto": those that save memory in order, until
    the run fits."""
    open_keys = _open_keys(config)
    config = _saving(config, False)
    for saving in open_keys:
        if _fits(dataset, config):
            break
        if saving.possible(config):
            config = config.changed(saving.section, **{saving.key: saving.smaller})
    return config


def _open_keys(config: Config) -> list[Saving]:
    """The keys of SAVINGS that are "auto"."""
    return [saving for saving in SAVINGS if getattr(getattr(config, saving.section), saving.key) == "auto"]


def _saving(config: Config, everything: bool) -> Config:
    """The configuration with a value for every key of SAVINGS that is "auto": what saves memory as far as that works
    with the rest, or the default."""
    for saving in _open_keys(config):
        smaller = everything and saving.possible(config)
        config = config.changed(saving.section, **{saving.key: saving.smaller if smaller else saving.default})
    return config


def summary(dataset: Dataset, config: Config) -> str | None:
    """One line with the estimated memory, the budget and the chosen sizes.

    None if train.memory is not set and no default was reduced.
    """
    saved = [one.words for one in SAVINGS if getattr(getattr(config, one.section), one.key) == one.smaller]
    if not config.train.memory and not saved and not 0 < config.train.tile < TILE_ELEMENTS:
        return None
    if dataset.features and config.model.system == "mmssl":
        saved = [*([] if config.train.feature_dtype == "float16" else ["features in float32"]), *saved]
    else:
        saved = []
    return (
        f"memory: estimated {readable(needed(dataset, config))} of a budget of {readable(_allowed(dataset, config))}; "
        f"item tiles of {config.train.tile or TILE_ELEMENTS} entries, {config.evaluate.batch} users ranked at "
        f"once{''.join(f', {words}' for words in saved)}"
    )


def refuse_what_cannot_fit(dataset: Dataset, config: Config) -> None:
    """Raise InputError, with the largest stages, if the estimated memory of a run exceeds its budget.

    The budget is train.memory, or by default 80% of the free memory, which the ranks on a machine share. Data that is
    already loaded does not count against the free memory.
    """
    if not _fits(dataset, config):
        raise _refusal(dataset, config)


def _fits(dataset: Dataset, config: Config, groups: int = 0) -> bool:
    return needed(dataset, config, groups) <= _allowed(dataset, config, groups)


def _refusal(dataset: Dataset, config: Config, best_groups: int = 0) -> InputError:
    """The error for a run that does not fit. best_groups: the number of groups that needs least, if all were tried."""
    parts = largest(stages(sizes_of(dataset, config, best_groups)))
    budget = "train.memory" if config.train.memory else f"{SHARE:.0%} of the free memory"
    who, advice, ranks = "the run needs", "raise --memory", distributed.current()
    if ranks.size > 1:
        who, advice = f"each of the {ranks.size} ranks needs", "raise --memory, or use more ranks on more machines"
        if best_groups:
            who = f"with any number of groups, each of the {ranks.size} ranks needs at least"
        if not config.train.memory and (sharing := _sharing(config)) > 1:
            budget += f", shared by {sharing} ranks"
    planned, allowed = (readable(count(dataset, config, best_groups)) for count in (needed, _allowed))
    return InputError(
        f"{dataset.name}: {who} about {planned}, but its budget is {allowed} ({budget}); largest parts: {parts}; "
        f"choose a smaller model.dim or model.hidden, or {advice}"
    )


def chosen_groups(dataset: Dataset, config: Config) -> int:
    """The number of groups for distributed.groups = "auto": the smallest one with which the run fits its budget.

    If there is none, the smallest one with which it fits when the keys of SAVINGS that are "auto" save memory. Raises
    InputError, with the estimate, if the run does not fit even so.
    """
    ranks = distributed.current().size
    for with_savings in (False, True):
        tried = _saving(config, with_savings)
        groups = smallest_groups(ranks, partial(_fits, dataset, tried))
        if groups:
            return groups
    raise _refusal(dataset, tried, min(divisors(ranks), key=lambda groups: needed(dataset, tried, groups)))


def groups_remark(dataset: Dataset, config: Config) -> str:
    """Why distributed.groups = "auto" has become the number in the configuration."""
    whole, allowed = needed(dataset, config, 1), readable(_allowed(dataset, config, 1))
    reason = f"a rank with the whole graph needs about {readable(whole)} of {allowed}"
    if config.distributed.groups != 1:
        reason = f"a rank with the whole graph would need about {readable(whole)}, but its budget is {allowed}"
    return f'distributed.groups = "auto": {config.distributed.groups}, because {reason}'


def unequal_groups(dataset: Dataset) -> str | None:
    """A remark if the groups of the current processes have unequal shares of the interactions."""
    ranks = distributed.current()
    ratio = largest_group(dataset, ranks.size, ranks.groups.size)
    if ratio < UNEQUAL:
        return None
    return (
        f"the largest of the {ranks.groups.size} groups has {ratio:.1f} times as many interactions as the mean; "
        "mmssl-fast data prepare --renumber degree gives them equal shares"
    )


def needed(dataset: Dataset, config: Config, groups: int = 0) -> int:
    """Estimated peak resident memory of a run in bytes, with several ranks that of each. groups: see sizes_of."""
    return peak(stages(sizes_of(dataset, config, groups)))


def _allowed(dataset: Dataset, config: Config, groups: int = 0) -> int:
    """The memory budget in bytes, with several ranks that of each: those on a machine share its free memory."""
    if config.train.memory:
        return parse_bytes(config.train.memory)
    # The estimate includes the data, which already occupies memory that is no longer free.
    on_cpu = not config.train.device.startswith("cuda")
    run = stages(sizes_of(dataset, config, groups))
    loaded = sum(stage.persistent for stage in run if stage.loaded and on_cpu)
    return int(SHARE * free_memory(config.train.device) / _sharing(config)) + loaded


def _sharing(config: Config) -> int:
    """The number of ranks that share the memory of the device: one for each GPU."""
    return 1 if config.train.device.startswith("cuda") else distributed.on_this_machine()


def _halved(count: int, bytes_each: int, limit: int, minimum: int) -> int:
    """Halve `count` until `count * bytes_each` is within the limit, but not below `minimum`."""
    while count // 2 >= minimum and count * bytes_each > limit:
        count //= 2
    return count
