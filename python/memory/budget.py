"""Keeping a run within its memory budget: the tile size, the evaluation batch and the dtype of the features."""

from __future__ import annotations

from typing import Any

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


def fit_to_budget(dataset: Dataset, config: Config, resumed: bool = False) -> Config:
    """The configuration with train.tile, train.feature_dtype and evaluate.batch chosen to fit train.memory.

    Features are stored in float16 only if the run does not fit otherwise. Of the memory that the estimate leaves free,
    half goes to tiles and half to evaluation, up to their default sizes. Keys that the user has set are not changed.
    For a resumed run nothing is changed: its configuration already has all values. Raises InputError, with the
    estimate, if the run does not fit.
    """
    allowed, planned = _allowed(dataset, config), needed(dataset, config)
    dtype = config.train.feature_dtype
    if dtype == "auto" and not resumed:
        dtype = "float16" if planned > allowed >= planned - _saved(dataset, config) else "float32"
    if dtype == "float16":
        planned -= _saved(dataset, config)
    if planned > allowed:
        refuse_what_cannot_fit(dataset, config)
    if resumed:
        return config
    train: dict[str, Any] = {"feature_dtype": dtype}
    evaluate: dict[str, Any] = {}
    if not config.train.tile:
        share = max(0, allowed - planned) // 2
        train["tile"] = _halved(TILE_ELEMENTS, TILE_BYTES, share, LEAST_TILE)
        users = config.evaluate.batch
        evaluate["batch"] = _halved(
            users, RANKED_BYTES * max(config.evaluate.ks), share, min(users, MIN_EVALUATION_BATCH)
        )
    return config.changed("train", **train).changed("evaluate", **evaluate)


def summary(dataset: Dataset, config: Config) -> str | None:
    """One line with the estimated memory, the budget and the chosen sizes.

    None if train.memory is not set and no default was reduced.
    """
    reduced = 0 < config.train.tile < TILE_ELEMENTS or config.train.feature_dtype == "float16"
    if not config.train.memory and not reduced:
        return None
    planned = needed(dataset, config)
    features = ""
    if dataset.features and config.model.system == "mmssl":
        features = f", features in {config.train.feature_dtype.replace('auto', 'float32')}"
        planned -= _saved(dataset, config) if config.train.feature_dtype == "float16" else 0
    return (
        f"memory: estimated {readable(planned)} of a budget of {readable(_allowed(dataset, config))}; "
        f"item tiles of {config.train.tile or TILE_ELEMENTS} entries, {config.evaluate.batch} users ranked at "
        f"once{features}"
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


def _saved(dataset: Dataset, config: Config) -> int:
    """Bytes saved by storing the encoder's features in float16."""
    sizes = sizes_of(dataset, config)
    return FLOAT // 2 * sizes.own.items * sum(sizes.widths) if config.model.system == "mmssl" else 0


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
