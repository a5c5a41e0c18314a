"""How a run stays within its memory: entries of a tile, users ranked at once, and what features are kept in."""

from __future__ import annotations

from typing import TYPE_CHECKING

from mmssl_fast.tiles import TILE_ELEMENTS

from . import plan
from .retry import LEAST_TILE

if TYPE_CHECKING:
    from ..config.sections import Config
    from ..data import Dataset

TILE_BYTES = 8 * plan.FLOAT  # of an entry: the tile itself and what is made of it at once
RANKED_BYTES = 128  # of a place in a user's list
FEWEST_USERS = 64


def settle(dataset: Dataset, config: Config, resumed: bool = False) -> Config:
    """The configuration with train.tile, train.feature_dtype and evaluate.batch settled by train.memory.

    Features are kept in float16 where that alone makes the run fit. What the plan leaves goes half to tiles, half to
    evaluation, each no larger than is of use. A key that was chosen already stays; of a run that is resumed, by its
    resolved configuration, all do. Raises InputError with the plan's figures where nothing makes it fit.
    """
    allowed, needed = _allowed(dataset, config), _needed(dataset, config)
    dtype = config.train.feature_dtype
    if dtype == "auto" and not resumed:
        dtype = "float16" if needed > allowed >= needed - _saved(dataset, config) else "float32"
    if dtype == "float16":
        needed -= _saved(dataset, config)
    if needed > allowed:
        plan.refuse_what_cannot_fit(dataset, config)
    if resumed:
        return config
    train, evaluate = {"feature_dtype": dtype}, {}
    if not config.train.tile:
        share = max(0, allowed - needed) // 2
        train["tile"] = _halved(TILE_ELEMENTS, TILE_BYTES, share, LEAST_TILE)
        users = config.evaluate.batch
        evaluate["batch"] = _halved(users, RANKED_BYTES * max(config.evaluate.ks), share, min(users, FEWEST_USERS))
    sections = (("train", train), ("evaluate", evaluate))
    return config.model_copy(
        update={name: getattr(config, name).model_copy(update=values) for name, values in sections}
    )


def described(dataset: Dataset, config: Config) -> str | None:
    """One line: the plan against what may be used, and what was chosen by it. None where train.memory is not given and
    nothing was made smaller by it."""
    smaller = 0 < config.train.tile < TILE_ELEMENTS or config.train.feature_dtype == "float16"
    if not config.train.memory and not smaller:
        return None
    needed = _needed(dataset, config)
    features = ""
    if dataset.features and config.model.system == "mmssl":
        features = f", features in {config.train.feature_dtype.replace('auto', 'float32')}"
        needed -= _saved(dataset, config) if config.train.feature_dtype == "float16" else 0
    return (
        f"memory: about {plan.readable(needed)} of the {plan.readable(_allowed(dataset, config))} that may be used; "
        f"item tiles of {config.train.tile or TILE_ELEMENTS} entries, {config.evaluate.batch} users ranked at "
        f"once{features}"
    )


def _needed(dataset: Dataset, config: Config) -> int:
    return plan.peak(plan.stages(plan.sizes_of(dataset, config)))


def _saved(dataset: Dataset, config: Config) -> int:
    """Bytes that the encoder's features take less in float16."""
    sizes = plan.sizes_of(dataset, config)
    return plan.FLOAT // 2 * sizes.items * sum(sizes.widths) if config.model.system == "mmssl" else 0


def _allowed(dataset: Dataset, config: Config) -> int:
    """Bytes that the plan may come to, as plan.refuse_what_cannot_fit reckons them."""
    if config.train.memory:
        return plan.parse_bytes(config.train.memory)
    found = plan.stages(plan.sizes_of(dataset, config))
    loaded = 0 if config.train.device.startswith("cuda") else sum(stage.held for stage in found if stage.loaded)
    return int(plan.SHARE * plan.free_memory(config.train.device)) + loaded


def _halved(count: int, each: int, within: int, least: int) -> int:
    """`count`, halved until so many of `each` bytes are within the limit, but no less than `least`."""
    while count // 2 >= least and count * each > within:
        count //= 2
    return count
