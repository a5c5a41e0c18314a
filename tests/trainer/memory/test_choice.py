"""What is chosen by the memory that a run may use."""

import pytest
from configurations import short
from mmssl_trainer.data import synthetic
from mmssl_trainer.errors import InputError
from mmssl_trainer.memory import budget as memory
from mmssl_trainer.memory import plan, retry
from mmssl_trainer.memory.sizes import sizes_of


def configured(**values):
    return short(defaults={"model.hidden": [6, 4]}, **values)


@pytest.fixture(scope="module")
def data():
    return synthetic(seed=1, n_users=40, n_items=30, modalities={"image": 8, "text": 6})


def sizes(data, config):
    needed = plan.peak(plan.stages(sizes_of(data, config)))
    return needed, 2 * data.n_items * sum(one.shape[1] for one in data.features.values())


def given(data, config, allowed):
    train = config.train.model_copy(update={"memory": str(allowed)})
    return memory.fit_to_budget(data, config.model_copy(update={"train": train}))


def test_choice_by_what_is_left(data):
    config = configured()
    needed, saved = sizes(data, config)
    roomy = given(data, config, needed + (1 << 30))
    assert (roomy.train.tile, roomy.evaluate.batch, roomy.train.feature_dtype) == (1 << 20, 4096, "float32")
    tight = given(data, config, needed)
    assert (tight.train.tile, tight.evaluate.batch, tight.train.feature_dtype) == (retry.LEAST_TILE, 64, "float32")
    middle = given(data, config, needed + (8 << 20))
    assert retry.LEAST_TILE < middle.train.tile < 1 << 20 and 64 < middle.evaluate.batch < 4096
    halved = given(data, config, needed - saved)
    assert (halved.train.feature_dtype, halved.train.recompute) == ("float16", "off")
    again = given(data, config, needed - saved - 1)
    assert (again.train.recompute, again.optimiser.first_layer_weight) == ("on", "float32")
    least = again.changed("optimiser", first_layer_weight="bfloat16")
    assert memory.needed(data, least) < memory.needed(data, again) < memory.needed(data, halved)
    assert given(data, config, memory.needed(data, again) - 1).optimiser.first_layer_weight == "bfloat16"
    with pytest.raises(InputError, match=r"the run needs about .*largest parts"):
        given(data, config, memory.needed(data, least) - 1)
    off = configured(train__feature_dtype="float32", train__recompute="off", optimiser__first_layer_weight="float32")
    with pytest.raises(InputError, match=r"the run needs about .*largest parts"):
        given(data, off, needed - 1)
    asked = off.changed("train", tile=5000).changed("evaluate", batch=100)
    assert given(data, asked, needed).model_dump(exclude={"train": {"memory"}}) == asked.model_dump(
        exclude={"train": {"memory"}}
    )
    assert memory.summary(data, config) is None
    line = memory.summary(data, tight)
    assert "\n" not in line
    assert f"item tiles of {tight.train.tile} entries, 64 users ranked at once, features in float32" in line
    assert memory.summary(data, least).endswith(
        "features in float16, the encoder's parts computed twice, the discriminator's first weight in bfloat16"
    )


def test_savings_that_the_run_would_refuse_are_not_chosen(data, monkeypatch):
    """A first weight in bfloat16 needs one process, and a captured step goes with neither it nor recomputation."""
    for changes, ranks, possible in (
        ({}, 1, ["float16", "on", "bfloat16"]),
        ({}, 2, ["float16", "on", "float32"]),
        ({"train__cuda_graph": True}, 1, ["float16", "off", "float32"]),
        ({"loss__adversarial": False}, 1, ["float16", "on", "float32"]),
    ):
        monkeypatch.setattr(memory.distributed, "current", lambda ranks=ranks: memory.distributed.Ranks(0, ranks))
        config = configured(train__memory="1KiB", **changes)
        chosen = memory._with_savings(data, config)
        found = [getattr(getattr(chosen, one.section), one.key) for one in memory.SAVINGS]
        assert found == possible, (changes, ranks)
    other = short("lightgcn", train__memory="1KiB")
    assert memory._with_savings(data, other).train.feature_dtype == "float32"
