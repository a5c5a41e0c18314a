"""The Python interface says in one line which argument is wrong, where the command line would not accept it."""

import pytest
from mmssl_trainer import (
    InputError,
    Reproduction,
    breakdown,
    configure,
    convert_data,
    evaluate,
    evaluate_cold,
    fit,
    recommend,
    similar,
    train,
    tune,
    unfinished,
)
from mmssl_trainer.data import synthetic, write_plain

FAST = {"model.system": "svd", "model.dim": 4, "train.threads": 1, "train.compare": "no"}


@pytest.fixture(scope="module")
def model():
    return fit(synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5}), configure(FAST))


@pytest.mark.parametrize("ks", [[], 20, "20", [20.5], ["20"], [True]])
def test_list_lengths_are_integers(model, ks):
    for call in (evaluate, breakdown):
        with pytest.raises(InputError, match=r"k = .*: must be integers, such as"):
            call(model, ks=ks)


@pytest.mark.parametrize("k", [2.0, "2", True])
def test_the_length_of_lists_is_an_integer(model, k):
    with pytest.raises(InputError, match=r"k = \[.*\]: must be integers"):
        recommend(model, k=k)


def test_similar_and_diversity_take_numbers(model):
    with pytest.raises(InputError, match=r"k = 1\.5: must be between"):
        similar(model, [3], k=1.5)
    with pytest.raises(InputError, match="diversity = a: must be between 0 and 1"):
        recommend(model, diversity="a")


def test_cold_items_of_an_unknown_split(tmp_path):
    data = write_plain(synthetic(seed=2, n_users=60, n_items=40, modalities={"image": 5}), tmp_path / "data")
    run = train(configure(FAST | {"data.path": str(data)}), tmp_path / "run")
    for split in ("train", "valid"):
        with pytest.raises(InputError, match=f"split = '{split}': must be test or val"):
            evaluate_cold(run.path, split)
    assert unfinished(str(run.path)) is None
    (run.path / "result.json").unlink()
    assert "has not ended" in unfinished(str(run.path))


@pytest.mark.parametrize("name", ["trials", "seeds", "jobs"])
@pytest.mark.parametrize("value", [0, -1, 1.5])
def test_searches_have_counts(tmp_path, name, value):
    with pytest.raises(InputError, match=f"{name} = {value}: must be an integer of 1 or more"):
        tune(configure(FAST), tmp_path / "tuned", **{name: value})
    assert not (tmp_path / "tuned").exists()


@pytest.mark.parametrize(
    "target, arguments, fragment",
    [
        ("table9", {}, "target 'table9': must be one of table2"),
        ("table2", {"seeds": 0}, "seeds = 0: must be an integer of 1 or more"),
        ("table2", {"seeds": -1}, "seeds = -1"),
        ("table2", {"jobs": 0}, "jobs = 0"),
        ("table2", {"systems": "mf"}, "systems 'mf': give a list of names"),
    ],
)
def test_reproductions_have_counts_and_names(tmp_path, target, arguments, fragment):
    with pytest.raises(InputError, match=fragment):
        Reproduction(target, tmp_path, **({"quick": True} | arguments))


def test_converted_data_has_the_name_of_its_folder(tmp_path):
    table = tmp_path / "marks.csv"
    table.write_text("user,item\n1,1\n1,2\n2,1\n")
    assert convert_data(table, tmp_path / "shop").name == "shop"
    with pytest.raises(InputError, match="both the column 'user'"):
        convert_data(table, tmp_path / "other", user="user", item="user")
