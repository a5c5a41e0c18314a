"""Keeping a run within its memory budget: the tile size, the evaluation batch and the dtype of the features."""

from __future__ import annotations

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
from .sizes import sizes_of
from .stage import FLOAT

SHARE = 0.8  # fraction of the free memory that a run may use by default
TILE_BYTES = 8 * FLOAT  # bytes per entry of a tile: the tile and the temporaries derived from it
RANKED_BYTES = 128  # bytes per position of a user's recommendation list
MIN_EVALUATION_BATCH = 64


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
    open_keys = [saving for saving in SAVINGS if getattr(getattr(config, saving.section), saving.key) == "auto"]
    for saving in open_keys:
        config = config.changed(saving.section, **{saving.key: saving.default})
    for saving in open_keys:
        if needed(dataset, config) <= _allowed(dataset, config):
            break
        if saving.possible(config):
            config = config.changed(saving.section, **{saving.key: saving.smaller})
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
    planned, allowed = needed(dataset, config), _allowed(dataset, config)
    if planned > allowed:
        parts = largest(stages(sizes_of(dataset, config)))
        budget = "train.memory" if config.train.memory else f"{SHARE:.0%} of the free memory"
        who, advice, ranks = "the run needs", "raise --memory", distributed.current()
        if ranks.size > 1:
            who, advice = f"each of the {ranks.size} ranks needs", "raise --memory, or use more ranks on more machines"
            if not config.train.memory and (sharing := _sharing(config)) > 1:
                budget += f", shared by {sharing} ranks"
        raise InputError(
            f"{dataset.name}: {who} about {readable(planned)}, but its budget is {readable(allowed)} ({budget}); "
            f"largest parts: {parts}; choose a smaller model.dim or model.hidden, or {advice}"
        )


def needed(dataset: Dataset, config: Config) -> int:
    """Estimated peak resident memory of a run in bytes, with several ranks that of each."""
    return peak(stages(sizes_of(dataset, config)))


def _allowed(dataset: Dataset, config: Config) -> int:
    """The memory budget in bytes, with several ranks that of each: those on a machine share its free memory."""
    if config.train.memory:
        return parse_bytes(config.train.memory)
    # The estimate includes the data, which already occupies memory that is no longer free.
    on_cpu = not config.train.device.startswith("cuda")
    loaded = sum(stage.persistent for stage in stages(sizes_of(dataset, config)) if stage.loaded and on_cpu)
    return int(SHARE * free_memory(config.train.device) / _sharing(config)) + loaded


def _sharing(config: Config) -> int:
    """The number of ranks that share the memory of the device: one for each GPU."""
    return 1 if config.train.device.startswith("cuda") else distributed.on_this_machine()


def _halved(count: int, bytes_each: int, limit: int, minimum: int) -> int:
    """Halve `count` until `count * bytes_each` is within the limit, but not below `minimum`."""
    while count // 2 >= minimum and count * bytes_each > limit:
        count //= 2
    return count
