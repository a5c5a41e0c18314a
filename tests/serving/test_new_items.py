"""New items by their features: in a request, and at the start of the service; and what /recommend may be asked for."""

import itertools
import json

import numpy as np
import pytest
from command_line import fails
from mmssl_trainer import InputError, embed_items, recommend, similar
from mmssl_trainer.inference.files import read_filtered
from mmssl_trainer.inference.new_items import embed_both, with_new_items
from mmssl_trainer.serving.catalogue import Catalogue
from mmssl_trainer.serving.filters import Filters
from mmssl_trainer.serving.limits import Limits
from mmssl_trainer.serving.sources import Sources
from served_model import made
from shop import items
from shop_model import shop_data, trained, write_model, write_table

IDS = ["new 1", "n2", 9001, "n4"]


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shop_data(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture(scope="module", params=["svd", "mmssl", "vbpr"])
def model(request, data):
    return trained(data, request.param)


@pytest.fixture(scope="module")
def features():
    rng = np.random.default_rng(4)
    return {"kind": rng.random((4, 4)).round(3), "price": rng.standard_normal((4, 2)).round(3)}


def sent(features):
    return {name: rows.tolist() for name, rows in features.items()}


def asked(client, path, message, status=200):
    response = client.post(path, json=message)
    assert response.status_code == status, response.text
    return response.json()


def pairs(one, values="scores"):
    return list(zip(map(str, one["items"]), one[values], strict=True))


def wanted(found, users):
    lists = {str(user): [] for user in users}
    for user, item, score in zip(found.user.tolist(), found.item.tolist(), found.score.tolist(), strict=True):
        lists[str(user)].append((str(item), score))
    return list(lists.values())


@pytest.mark.parametrize("nearest", [0, 7])
def test_lists_of_new_items_are_those_of_recommend(client_of, model, features, nearest):
    client, users = client_of(model), [1, 30, 5]
    message = {"items": IDS, "features": sent(features), "nearest": nearest, "k": 3}
    lists = asked(client, "/items", {**message, "users": users})["lists"]
    found = recommend(model, users, 3, new_items=(IDS, features), nearest=nearest, candidates=IDS)
    assert [pairs(one) for one in lists] == wanted(found, users)
    assert [one["user"] for one in lists] == users and all(len(one["items"]) == 3 for one in lists)
    assert {type(item) for one in lists for item in one["items"]} <= {str, int}


def test_lists_of_new_items_for_new_users(client_of, data, features):
    model = trained(data, "svd")
    message = {"items": IDS, "features": sent(features), "histories": [[100, 101], [104], []]}
    lists = asked(client_of(model), "/items", message)["lists"]
    found = recommend(
        model, None, 20, histories={0: [100, 101], 1: [104], 2: []}, new_items=(IDS, features), candidates=IDS
    )
    assert [pairs(one) for one in lists] == wanted(found, range(3)) and lists[2]["scores"] == [0, 0, 0, 0]
    for unknown in ([[100, "gone"]],):
        error = asked(client_of(model), "/items", {**message, "histories": unknown}, 422)["error"]
        assert error == "histories[0][1]: the model has no item 'gone'; leave it out, or send skip_unknown"
        again = asked(client_of(model), "/items", {**message, "histories": unknown, "skip_unknown": True})["lists"]
        assert again == asked(client_of(model), "/items", {**message, "histories": [[100]]})["lists"]


def test_known_items_that_are_similar_to_new_ones(client_of, model, data, features):
    message = {"items": IDS, "features": sent(features), "similar": 5}
    answer = asked(client_of(model), "/items", message)
    assert answer["lists"] == [] and [one["item"] for one in answer["similar"]] == IDS
    known, fresh = (embed_both(model, each)[1].double().numpy() for each in (data.features, features))
    norms = np.linalg.norm(fresh, axis=1)[:, None] * np.linalg.norm(known, axis=1)
    cosines = fresh @ known.T / np.maximum(norms, 1e-12)
    for row, one in enumerate(answer["similar"]):
        np.testing.assert_allclose(one["cosines"], -np.sort(-cosines[row])[:5], rtol=1e-5)
        np.testing.assert_allclose(cosines[row][data.find_items(one["items"])], one["cosines"], rtol=1e-5)


def test_new_items_of_a_request_are_not_kept(client_of, data, features):
    client = client_of(trained(data, "svd"))
    before = asked(client, "/recommend", {"users": [1], "k": 50})
    for _ in range(2):
        asked(client, "/items", {"items": IDS, "features": sent(features), "users": [1]})
    assert asked(client, "/recommend", {"users": [1], "k": 50}) == before
    assert client.get("/health").json()["items"] == 120


@pytest.mark.parametrize(
    "change, says",
    [
        ({"items": []}, "items: is empty; give the id of at least one new item"),
        ({"items": ["a", "a", "b", "c"]}, "items[1]: the new item 'a' occurs twice; leave it out"),
        ({"items": ["a", 100, "b", "c"]}, "items[1]: the new item 100 is already an item of the model"),
        ({"items": ["a", 7, "7", "c"]}, "items[2]: the new item '7' occurs twice"),
        ({"items": ["a"]}, "features.'kind': has 4 rows for 1 new items"),
        ({"items": [f"a{n}" for n in range(9)]}, "items: has 9 entries, the maximum is 8"),
        ({"items": ["a", "", "b", "c"]}, "items[1]: the new item '' is no id; ids must have 1 to 200 characters"),
        ({"items": ["a", "b", "c\n", "d"]}, "items[2]: the new item 'c\\n' is no id"),
        ({"items": ["a", "b", "c", "d" * 201]}, "is no id; ids must have 1 to 200 characters, all printable"),
        ({"items": [10**200, "b", "c", "d"]}, "is no id"),
        ({"items": [None]}, "items[0]: an id must be a text or an integer"),
        ({"features": {"int": 5}}, "features.int: input should be a valid array"),
        ({"features": {}}, "features 'kind' are missing; the modalities of the model are kind, price"),
        ({"features": {"kind": [[0.0] * 4] * 4}}, "features 'price' are missing"),
        ({"features": {"kind": [[0.0] * 4] * 4, "price": [[0.0] * 2] * 4, "x": []}}, "features.'x': has 0 rows"),
        ({"features": {"kind": [[0.0] * 4] * 4, "price": [[0.0] * 3] * 4}}, "numbers of the shape [items, 2]"),
        ({"features": {"kind": [[0.0] * 4] * 4, "price": [[1.0, 2.0], [1.0]] * 2}}, "features.'price'[1]: has 1 num"),
        ({"features": {"kind": [[0.0] * 4] * 4, "price": [[]] * 4}}, "numbers of the shape [items, 2]"),
        ({"features": {"kind": [[1e300] * 4] * 4, "price": [[0.0] * 2] * 4}}, "features: row 0 contains values that"),
        ({"features": {"kind": [["1"] * 4] * 4, "price": [[0.0] * 2] * 4}}, "features.kind[0][0]: input should be a"),
        ({"features": [[1.0]]}, "features: input should be"),
        ({"users": ["nobody"]}, "users[0]: the model has no user 'nobody'"),
        ({"users": [1], "histories": [[100]]}, "give either users or histories, or neither"),
        ({"k": 0}, "k: is 0"),
        ({"nearest": -1}, "nearest: is -1, but must be from 0 to 60"),
        ({"nearest": 61}, "nearest: is 61, but must be from 0 to 60"),
        ({"nearest": 10**30}, "nearest: is too large"),
        ({"similar": 61}, "similar: is 61"),
        ({"path": "/etc/passwd"}, "'path': there is no such field"),
    ],
)
def test_wrong_new_items(client_of, data, features, change, says):
    client = client_of(trained(data, "svd"), Limits(lists=8, k=60))
    message = {"items": IDS, "features": sent(features), "users": [1], **change}
    error = asked(client, "/items", message, 422)["error"]
    assert says in error and "\n" not in error and len(error) < 700
    assert asked(client, "/items", {"items": IDS, "features": sent(features), "users": [1]})["lists"]


def test_the_number_of_nearest_items_is_limited(client_of, data, features):
    """One request would otherwise occupy the worker for as long as all others may wait."""
    message = {"items": IDS, "features": sent(features), "nearest": 101}
    error = asked(client_of(trained(data, "svd")), "/items", message, 422)["error"]
    assert error == "nearest: is 101, but must be from 0 to 100"


def test_more_nearest_items_than_there_are(client_of, data, features):
    message = {"items": IDS, "features": sent(features), "nearest": 100}
    error = asked(client_of(trained(data, "svd")), "/items", message, 422)["error"]
    assert error == "nearest = 100: must be between 0 and 60, the items with interactions"


@pytest.mark.parametrize("text", ["NaN", "Infinity", "-Infinity", "1e999", "null", "true", '"x"', "[1]"])
def test_features_that_are_no_numbers(client_of, data, text):
    client = client_of(trained(data, "svd"))
    rows = json.dumps([[0.5] * 4, ["HERE"] + [0.5] * 3]).replace('"HERE"', text)
    body = f'{{"items": ["a", "b"], "features": {{"kind": {rows}, "price": [[1, 2], [1, 2]]}}}}'
    response = client.post("/items", content=body)
    assert response.status_code == 422 and response.json()["error"].startswith("features.kind[1][0]: input should be a")


def test_a_system_without_features_says_why(client_of, data, features):
    client = client_of(trained(data, "lightgcn"))
    error = asked(client, "/items", {"items": IDS, "features": sent(features)}, 422)["error"]
    assert error.startswith("features: ") and "does not use features" in error
    error = asked(client, "/similar", {"items": [100], "by": "features"}, 422)["error"]
    assert error.startswith("items[0]: ") and "does not use features" in error


def test_a_wrong_request_does_not_disturb_those_beside_it(client_of, data, features):
    """It fails when its features are embedded, in the batch of others."""
    client = client_of(trained(data, "svd"))
    from concurrent.futures import ThreadPoolExecutor

    good = {"items": IDS, "features": sent(features), "users": [1]}
    wrong = {**good, "features": {**sent(features), "price": [[0.0] * 3] * 4}}
    want = asked(client, "/items", good)
    with ThreadPoolExecutor(8) as pool:
        answers = list(pool.map(lambda n: client.post("/items", json=wrong if n % 2 else good), range(40)))
    assert [answer.status_code for answer in answers] == [200, 422] * 20
    assert all(answer.json() == want for answer in answers[::2])


def test_similar_by_features_is_that_of_the_function(client_of, model):
    found = similar(model, [104, 219], 6, "features")
    lists = asked(client_of(model), "/similar", {"items": [104, "219"], "k": 6, "by": "features"})["lists"]
    assert [str(item) for one in lists for item in one["items"]] == list(map(str, found.similar.tolist()))
    np.testing.assert_allclose([c for one in lists for c in one["cosines"]], found.cosine, rtol=1e-6)
    assert "by: input should be" in asked(client_of(model), "/similar", {"items": [104], "by": "x"}, 422)["error"]


@pytest.mark.parametrize("diversity", [0.3, 1.0, 1])
def test_diverse_lists_are_those_of_recommend(client_of, data, diversity):
    model = trained(data, "svd")
    client, users = client_of(model), [1, 2, 3]
    few = [100 + n for n in range(0, 60, 2)]
    for more in ({}, {"candidates": few}):
        found = recommend(model, users, 8, diversity=diversity, **more)
        lists = asked(client, "/recommend", {"users": users, "k": 8, "diversity": diversity, **more})["lists"]
        assert [pairs(one) for one in lists] == wanted(found, users)
    plain = asked(client, "/recommend", {"users": users, "k": 8})["lists"]
    assert [one["items"] for one in plain] != [one["items"] for one in lists]


@pytest.mark.parametrize(
    "message, says",
    [
        ({"diversity": 1.1}, "diversity: input should be less than or equal to 1"),
        ({"diversity": -0.1}, "diversity: input should be greater than or equal to 0"),
        ({"diversity": "0.5"}, "diversity: input should be a valid number"),
        ({"diversity": 0.5, "k": 101}, "k: is 101, but must be from 1 to 100 with diversity"),
        ({"filters": {"kind": "lamps"}}, "filters: there is no column; start the service with --items and --filter-c"),
        ({"skip_unknown": 1}, "skip_unknown: input should be a valid boolean"),
        ({"candidates": ["x", "y"], "skip_unknown": True}, "candidates: none of them is an item of the model"),
        ({"candidates": [100, "y"]}, "candidates[1]: the model has no item 'y'; leave it out, or send skip_unknown"),
    ],
)
def test_wrong_requests(client_of, data, message, says):
    client = client_of(trained(data, "svd"))
    assert says in asked(client, "/recommend", {"users": [1], **message}, 422)["error"]


def test_unknown_ids_can_be_skipped(client_of, data):
    client = client_of(trained(data, "svd"))
    for name, ids in (("exclude", [100, 101]), ("candidates", [100, 101, 102, 140])):
        want = asked(client, "/recommend", {"users": [1], name: ids})
        assert asked(client, "/recommend", {"users": [1], name: [*ids, "x", 5], "skip_unknown": True}) == want
    want = asked(client, "/recommend", {"histories": [[100, 101], []]})
    assert asked(client, "/recommend", {"histories": [["x", 100, 101], [5]], "skip_unknown": True}) == want


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"))


@pytest.fixture
def filtered(client_of, data, table):
    model = trained(data, "svd")
    catalogue = Catalogue(model)
    catalogue.filters = Filters.read(table, ["kind", "price", "title"], catalogue.item_index)
    client = client_of(lambda: catalogue)
    return client, model


def test_filtered_lists_are_those_of_the_command_line(filtered, table):
    client, model = filtered
    prices = items(120)[3]
    kinds = ["lamps", "pots|home", "home"]
    for kind, price in itertools.product([[], kinds[:1], kinds[:2], kinds[2:]], [[], prices[8:40]]):
        conditions = [f"kind={one}" for one in kind] + [f"price={one}" for one in price]
        if not conditions:
            continue
        try:
            allowed = read_filtered(table, conditions)
        except InputError:
            continue
        filters = {name: own for name, own in (("kind", kind), ("price", [str(one) for one in price])) if own}
        for more in ({}, {"candidates": [*range(100, 130)]}):
            kept = [item for item in allowed if not more or int(item) in more["candidates"]]
            if kept:
                lists = asked(client, "/recommend", {"users": [1, 2], "k": 9, "filters": filters, **more})["lists"]
                found = recommend(model, [1, 2], 9, candidates=kept)
                assert [pairs(one) for one in lists] == wanted(found, [1, 2])


def test_one_value_or_several(filtered):
    client, _ = filtered
    one = asked(client, "/recommend", {"users": [1], "filters": {"kind": "lamps"}})
    assert one == asked(client, "/recommend", {"users": [1], "filters": {"kind": ["lamps", "sofas"]}})
    assert one["lists"][0]["items"] and {int(item) % 4 for item in one["lists"][0]["items"]} == {0}
    everything = asked(client, "/recommend", {"users": [1], "filters": {}})
    assert everything == asked(client, "/recommend", {"users": [1]})


@pytest.mark.parametrize(
    "filters, says",
    [
        ({"size": "L"}, "filters: there is no column 'size'; the columns are kind, price, title"),
        ({"picture": "100.png"}, "filters: there is no column 'picture'"),
        ({"kind": "sofas"}, "filters: no item has kind=sofas; check the spelling of the value"),
        ({"kind": []}, "filters: 'kind' has no values; give at least one, or leave it out"),
        ({"price": 1.5}, "filters.price: a value must be a text or an integer"),
        ({"kind": ["lamps", None]}, "filters.kind: a value must be a text or an integer"),
        ({"int": None}, "filters.int: a value must be a text or an integer"),
        ({"kind": "lamps", "price": 1}, "filters: no item has kind=lamps, price=1; check the spelling"),
        ({"kind": "a\nb\0" * 500}, "filters: no item has kind=a b"),
        ({"kind": None}, "filters.kind"),
        ({"kind": {"a": 1}}, "filters.kind"),
        ({"kind": [1.5]}, "filters.kind"),
        ({"kind": ["x"] * 41}, "filters.'kind': has 41 entries, the maximum is 40"),
        (["kind=lamps"], "filters: input should be"),
    ],
)
def test_wrong_filters(client_of, data, table, filters, says):
    catalogue = Catalogue(trained(data, "svd"))
    catalogue.filters = Filters.read(table, ["kind", "price", "title"], catalogue.item_index)
    client = client_of(lambda: catalogue, Limits(ids=40))
    error = asked(client, "/recommend", {"users": [1], "filters": filters}, 422)["error"]
    assert says in error and "\n" not in error and len(error) < 500


def test_candidates_that_the_filters_do_not_allow(filtered):
    client, _ = filtered
    message = {"users": [1], "filters": {"kind": "lamps"}, "candidates": [101]}
    error = asked(client, "/recommend", message, 422)["error"]
    assert error == "filters: no item is left to recommend; check the candidates and the filters"


def write_new(folder, features, ids=IDS):
    folder.mkdir()
    for name, rows in features.items():
        np.savez(folder / f"{name}_feat.npz", ids=np.array(list(map(str, ids))), features=rows.astype(np.float32))
    return folder


@pytest.mark.parametrize("nearest", [0, 5])
def test_new_items_that_the_service_starts_with(client_of, data, features, tmp_path, nearest):
    """They are ranked beside the others, and are known ids in every request."""
    model_file = write_model(tmp_path)
    new = write_new(tmp_path / "new", features)
    sources = Sources(model_file, new_items=[str(new)], nearest=nearest)
    client = client_of(sources.load)
    single = {name: rows.astype(np.float32) for name, rows in features.items()}
    extended = with_new_items(trained(data, "svd"), list(map(str, IDS)), single, nearest)
    found = recommend(extended, [1, 2], 124)
    lists = asked(client, "/recommend", {"users": [1, 2], "k": 124})["lists"]
    assert [pairs(one) for one in lists] == wanted(found, [1, 2])
    assert {"new 1", "9001"} <= set(lists[0]["items"]) and client.get("/health").json()["items"] == 124
    only = asked(client, "/recommend", {"users": [1], "candidates": IDS})["lists"][0]
    assert sorted(only["items"]) == sorted(map(str, IDS))
    with_new, without = (
        asked(client, "/recommend", {"histories": [history], "k": 120})["lists"][0]
        for history in (["104", "n2"], ["104"])
    )
    known = [pair for pair in pairs(without) if pair[0] != "n2"]
    assert [pair for pair in pairs(with_new) if pair in known][:50] == known[:50] and "n2" not in with_new["items"]
    answer = asked(client, "/similar", {"items": ["n2"], "k": 3, "by": "features"})["lists"][0]
    assert len(answer["items"]) == 3
    error = asked(client, "/items", {"items": ["n2"], "features": {}}, 422)["error"]
    assert "'n2' is already an item of the model" in error


def test_new_items_are_read_again_at_a_reload(client_of, features, tmp_path):
    new = write_new(tmp_path / "new", features)
    client = client_of(Sources(write_model(tmp_path), new_items=[str(new)]).load)
    assert client.get("/health").json()["items"] == 124
    for file in new.iterdir():
        file.unlink()
    new.rmdir()
    write_new(new, {name: rows[:2] for name, rows in features.items()}, IDS[:2])
    assert client.portal.call(client.service.reload) and client.get("/health").json()["items"] == 122
    (new / "kind_feat.npz").unlink()
    assert client.portal.call(client.service.reload) is False
    health = client.get("/health").json()
    assert health["items"] == 122 and "the features 'kind' of the new items are missing" in health["reload_error"]


def test_new_items_for_a_model_that_cannot_embed_them(tmp_path, capsys, features):
    new = write_new(tmp_path / "new", features)
    model = write_model(tmp_path, "lightgcn")
    fails(capsys, ["serve", str(model), "--port", "0", "--new-items", str(new)], "cannot embed an item by its features")


def test_features_that_are_too_large_for_float32(data):
    features = {"kind": np.full((1, 4), 1e300), "price": np.zeros((1, 2))}
    with pytest.raises(InputError, match="features: row 0 contains values that are too large"):
        embed_items(trained(data, "svd"), features)


def test_an_old_model_has_no_new_items(client_of):
    error = asked(client_of(made()), "/items", {"items": ["x"], "features": {}}, 422)["error"]
    assert error.startswith("features: ") and "train again" in error
