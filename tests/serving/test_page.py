"""The page's data and files: they are those of the service, and no request names a file."""

import json
import os

import numpy as np
import pytest
import torch
from command_line import fails
from mmssl_trainer import InputError, recommend, similar
from mmssl_trainer.serving.page import pictures
from mmssl_trainer.serving.page.content import PageOptions
from mmssl_trainer.serving.page.groups import grouped
from mmssl_trainer.serving.page.map import STEPS, projected
from mmssl_trainer.serving.page.parts import Parts
from served_model import made
from shop import HOSTILE, png
from shop_model import COLD, N_ITEMS, page_of, shop_data, trained, write_model, write_table

HEADED = ("/page/start", "/page/map", "/page/picture?item=102", "/page/picture?item=no")
FILES = ("/", "/page/page.css", "/page/page.js", "/page/parts.js", "/page/map.js", "/page/icon.svg")


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return shop_data(tmp_path_factory.mktemp("data") / "shop")


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    return write_table(tmp_path_factory.mktemp("table"), missing=[101])


@pytest.fixture(scope="module")
def model(data):
    return trained(data)


@pytest.fixture
def client(client_of, model, table):
    options = PageOptions(table, "title", "picture", table.parent / "pictures", "kind")
    catalogue = page_of(model, options)
    return client_of(lambda: catalogue)


def asked(client, path, message, status=200):
    response = client.post(f"/page/{path}", json=message)
    assert response.status_code == status, response.text
    return response.json()


def test_no_page_unless_it_is_asked_for(client_of):
    client = client_of(made())
    for path in (*FILES, "/page/start", "/page/picture?item=i1"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize("path", [*FILES, *HEADED])
def test_every_answer_of_the_page_has_the_headers(client, path):
    response = client.get(path)
    policy = dict(part.strip().split(" ", 1) for part in response.headers["content-security-policy"].split(";"))
    assert policy["default-src"] == policy["frame-ancestors"] == policy["base-uri"] == "'none'"
    assert policy["script-src"] == policy["style-src"] == policy["img-src"] == policy["connect-src"] == "'self'"
    assert response.headers["x-content-type-options"] == "nosniff"


def test_the_files_name_nothing_from_elsewhere_and_nothing_inline(client):
    text = client.get("/").text
    assert "<style" not in text and " style=" not in text and " onclick" not in text
    assert text.count("<script") == text.count('<script type="module" src="page/page.js">') == 1
    for path in FILES:
        body = client.get(path).text.replace("http://www.w3.org/2000/svg", "")
        assert "http:" not in body and "https:" not in body and "innerHTML" not in body and "@import" not in body


def test_start(client, data):
    facts = client.get("/page/start").json()
    assert facts["parts"] == ["interactions", "kind", "price"] and facts["no_parts"] == ""
    assert facts["cold"] == COLD and facts["items"] == N_ITEMS and facts["interactions"] == data.train.nnz
    assert [group["size"] for group in facts["groups"]] == [N_ITEMS // 4] * 4 and not facts["ordered"]
    assert facts["examples"]


def test_a_persons_lists_are_those_of_recommend(client, model, data):
    cold = [data.original_items(np.array([n])).tolist()[0] for n in np.flatnonzero(data.train.sum(0) == 0)]
    for user in (1, 7, "30"):
        answer = asked(client, "person", {"user": user, "k": 15})
        want = recommend(model, [user], 15)
        assert [item["id"] for item in answer["items"]] == list(map(str, want.item.tolist()))
        assert [item["score"] for item in answer["items"]] == want.score.tolist()
        want = recommend(model, [user], 12, candidates=cold)
        assert [item["id"] for item in answer["cold"]] == list(map(str, want.item.tolist()))
        row = data.find_users([user])[0]
        seen = data.original_items(data.train[[row]].indices).tolist()
        assert sorted(item["id"] for item in answer["history"]) == sorted(map(str, seen))
        assert answer["history_size"] == len(seen)


def test_history_is_in_the_order_of_its_scores(client, model, data):
    answer = asked(client, "person", {"user": 3})
    rows = data.find_items([item["id"] for item in answer["history"]])
    scores = (model.items[rows] @ model.users[data.find_users([3])[0]]).numpy()
    assert (np.diff(scores) <= 1e-6).all() and len(scores) > 5


def test_a_new_person_by_a_history(client, model):
    answer = asked(client, "person", {"history": [100, "104", 108]})
    want = recommend(model, None, 20, histories={"x": [100, 104, 108]})
    assert [item["id"] for item in answer["items"]] == list(map(str, want.item.tolist()))
    assert answer["user"] is None and answer["history_size"] == 3 and answer["known"]
    assert not {"100", "104", "108"} & {item["id"] for item in answer["items"] + answer["cold"]}


@pytest.mark.parametrize("system", ["svd", "mmssl", "grcn", "vbpr", "lightgcn_m", "mmgcn", "clcrec", "slmrec", "mmgcl"])
def test_parts_of_a_score_add_up_to_it(data, system):
    catalogue = page_of(trained(data, system))
    parts, vector, rows = catalogue.page.parts, catalogue.user_vector(5), np.array([3, 50, 70, 119])
    separate = system in ("svd", "mmssl", "grcn")
    assert parts.names == ["interactions", "kind", "price"] if separate else ["interactions", "kind and price"]
    found = torch.tensor(parts.of(vector, rows))
    scores = catalogue.item_vectors(rows) @ vector
    torch.testing.assert_close(found.sum(1).float(), scores, rtol=1e-4, atol=1e-5)
    cold = np.array([n for n in rows if n in set(catalogue.page.cold.tolist())])
    assert len(cold) == 2
    for own in parts.of(vector, cold):
        assert abs(own[0]) < 1e-4 * max(1, *map(abs, own))  # nobody chose them: only the features say something
    assert abs(found[:, 1:]).sum() > 0


def test_the_parts_of_modalities_depend_on_their_features_alone(data):
    """With the price of every item set to that of the first, the part of the kind stays."""
    catalogue = page_of(trained(data, "svd"))
    tower, content = catalogue.item_tower, catalogue.content
    kind, price = tower.by_modality(content)
    torch.testing.assert_close(kind + price, tower.cold(content))
    other = torch.cat([content[:, :4], content[:1, 4:].expand(len(content), -1)], 1)
    assert torch.equal(tower.by_modality(other)[0], kind) and not torch.equal(tower.by_modality(other)[1], price)


def test_a_system_without_features_says_why_there_are_no_parts(client_of, data):
    catalogue = page_of(trained(data, "lightgcn"))
    client = client_of(lambda: catalogue)
    facts = client.get("/page/start").json()
    assert facts["parts"] == [] and "does not use features" in facts["no_parts"]
    answer = asked(client, "person", {"user": 1})
    assert answer["cold"] == [] and "does not use features" in answer["no_cold"] and answer["items"][0]["parts"] == []
    found = asked(client, "item", {"item": 100})
    assert found["all"]["items"] and found["features"] == {"items": [], "reason": facts["no_parts"]}
    assert "nothing is known" in asked(client, "item", {"item": 219})["all"]["reason"]


def test_an_old_model_has_a_page(client_of):
    catalogue = page_of(made())
    client = client_of(lambda: catalogue)
    assert client.get("/page/start").json()["parts"] == []
    answer = asked(client, "person", {"user": "user 7, ä"})
    assert answer["known"] is False and len(answer["items"]) == 20 and answer["history"] == []


def test_similar_items_are_those_of_the_function(client, model):
    answer = asked(client, "item", {"item": 104, "k": 9})
    for by in ("all", "features"):
        want = similar(model, [104], 9, by)
        assert [item["id"] for item in answer[by]["items"]] == list(map(str, want.similar.tolist()))
        np.testing.assert_allclose([item["cosine"] for item in answer[by]["items"]], want.cosine, rtol=1e-6)
    assert answer["item"]["note"].startswith(("lamps", "chairs", "pots", "blankets")) and answer["item"]["picture"]


def test_finding(client):
    found = asked(client, "find", {"kind": "users", "text": "1"})["found"]
    assert found[0]["id"] == "1" and len(found) == 12 and all("1" in user["id"] for user in found)
    assert asked(client, "find", {"kind": "users", "text": "nobody"})["found"] == []
    found = asked(client, "find", {"kind": "items", "text": "LAMP"})["found"]
    assert len(found) == 12 and all("lamp" in item["title"].lower() for item in found)
    assert asked(client, "find", {"kind": "items", "text": "205"})["found"][0]["id"] == "205"
    assert asked(client, "find", {"kind": "items", "text": HOSTILE[:9]})["found"][0]["title"] == HOSTILE


def test_cold_items_in_pieces(client):
    first, second = (asked(client, "cold", {"start": start, "k": 48}) for start in (0, 48))
    assert first["total"] == COLD and len(first["items"]) == 48 and len(second["items"]) == COLD - 48
    both = [item["id"] for item in first["items"] + second["items"]]
    assert len(set(both)) == COLD and all(item["count"] == 0 for item in first["items"] + second["items"])
    assert asked(client, "cold", {"start": 10**6})["items"] == []


@pytest.mark.parametrize(
    "path, message, says",
    [
        ("person", {}, "give either a user or a history"),
        ("person", {"user": 1, "history": []}, "give either a user or a history"),
        ("person", {"user": "nobody"}, "user: the model has no user 'nobody'"),
        ("person", {"user": 1, "k": 101}, "k: must be from 1 to 100"),
        ("person", {"history": [100, 5]}, "history[1]: the model has no item 5"),
        ("person", {"history": [100] * 501}, "history: has 501 items, the maximum is 500"),
        ("item", {"item": "x"}, "item: the model has no item 'x'"),
        ("item", {}, "item: field required"),
        ("item", {"item": 100, "path": "/etc/passwd"}, "'path': there is no such field"),
        ("find", {"kind": "files", "text": ""}, "kind: "),
        ("find", {"kind": "items", "text": "x" * 201}, "text: has 201 characters, the maximum is 200"),
        ("find", {"kind": "items", "text": 3}, "text: input should be a valid string"),
        ("cold", {"start": -1}, "start: must be from 0"),
        ("cold", {"k": 0}, "k: must be from 1 to 100"),
    ],
)
def test_wrong_requests_of_the_page(client, path, message, says):
    assert says in asked(client, path, message, 422)["error"]


def test_the_page_is_of_the_model_that_answers(client_of, data, table):
    """After a reload, too."""
    options = PageOptions(table, "title")
    catalogues = [page_of(trained(data), options), page_of(trained(data, svd__content=0.1), options)]
    client = client_of(lambda: catalogues.pop(0))
    before = client.get("/page/start").json()["model"]
    assert client.portal.call(client.service.reload)
    after = client.get("/page/start").json()["model"]
    assert before != after == asked(client, "person", {"user": 1})["model"]


def test_pictures_are_the_files_of_the_table(client, table):
    response = client.get("/page/picture?item=102")
    assert response.content == (table.parent / "pictures" / "102.png").read_bytes()
    assert response.headers["content-type"] == "image/png"
    assert client.get("/page/picture?item=101").status_code == 404  # there is no such file
    assert client.get("/page/picture?item=100").status_code == 404  # the table names none
    for query in ("", "?item=", "?item=../items.csv", "?item=/etc/passwd", "?item=102.png", "?item=%00", "?a=1&" * 9):
        response = client.get(f"/page/picture{query}")
        assert response.status_code == 422 and list(response.json()) == ["error"]
    for path in ("/page/picture/102", "/page/../items.csv", "/page/%2e%2e/items.csv", "/pictures/102.png"):
        assert client.get(path).status_code == 404


@pytest.mark.parametrize(
    "name, says",
    [
        ("../items.csv", "must be a file below the folder"),
        ("/etc/passwd.png", "must be a file below the folder"),
        ("a/../../b.png", "must be a file below the folder"),
        ("..\\b.png", "must be a file below the folder"),
        ("https://shop.example/1.png", "is an address"),
        ("items.csv", "is of no known kind"),
        ("drawing.svg", "is of no known kind"),
        ("page.html", "is of no known kind"),
    ],
)
def test_a_table_that_names_other_files_is_refused(model, tmp_path, name, says):
    (tmp_path / "items.csv").write_text(f"item,picture\n100,ok.png\n101,{name}\n")
    with pytest.raises(InputError, match=r"items\.csv: the picture .* of the item '101'") as refused:
        page_of(model, PageOptions(tmp_path / "items.csv", None, "picture", tmp_path))
    assert says in str(refused.value)


def test_what_is_no_picture_below_the_folder_is_not_read(tmp_path):
    folder, outside = tmp_path / "pictures", tmp_path / "secret.png"
    folder.mkdir()
    outside.write_bytes(b"secret")
    (folder / "link.png").symlink_to(outside)
    (folder / "around.png").symlink_to(folder / "around.png")
    (folder / "folder.png").mkdir()
    os.mkfifo(folder / "pipe.png")
    (folder / "large.png").write_bytes(bytes(pictures.MOST + 1))
    (folder / "good.png").write_bytes(png(1, 2, 3))
    (folder / "inside.png").symlink_to(folder / "good.png")
    for name in ("link.png", "around.png", "folder.png", "pipe.png", "large.png", "none.png", "x" * 300 + ".png"):
        assert pictures.read(folder.resolve(), name) is None
    for name in ("good.png", "inside.png"):
        assert pictures.read(folder.resolve(), name) == (png(1, 2, 3), b"image/png")


def test_groups():
    groups = grouped(["b|x", "a", "b", "", "c|b"])
    assert groups.names == ["b", "a", "c", "no value"] and groups.of.tolist() == [0, 1, 0, 3, 2] and groups.rest
    many = grouped([str(chr(97 + n)) for n in range(12) for _ in range(20 - n)])
    assert many.names == [*"abcdefgh", "others"] and many.described()[-1]["size"] == sum(20 - n for n in range(8, 12))
    years = grouped([str(1950 + n % 60) for n in range(600)] + [""])
    assert (
        years.ordered and len(years.names) == 7 and years.names[0] == "1950 to 1959" and years.names[-1] == "no value"
    )
    assert [group["size"] for group in years.described()[:-1]] == [100] * 6
    assert grouped(["1", "2", "1"]).names == ["1", "2"] and not grouped(["1", "2", "1"]).rest
    assert grouped(["", ""]).names == ["no value"]
    assert (
        grouped(["nan", "x"]).names == ["nan", "x"] and grouped([str(n) for n in range(9)] + ["inf"]).ordered is False
    )


def test_the_projection_has_the_leading_components():
    rng = np.random.default_rng(0)
    rows = torch.from_numpy(rng.standard_normal((300, 20)) * np.array([9, 5] + [0.1] * 18))
    places, share = projected(rows)
    assert share > 0.99 and places.min() >= 0 and places.max() <= STEPS
    exact = np.linalg.svd((rows - rows.mean(0)).numpy(), full_matrices=False)[2][:2] @ (rows - rows.mean(0)).numpy().T
    for axis in (0, 1):
        assert abs(np.corrcoef(exact[axis], places[:, axis])[0, 1]) > 0.995
    state = torch.random.get_rng_state()
    assert np.array_equal(projected(rows)[0], places) and torch.equal(torch.random.get_rng_state(), state)
    assert projected(torch.ones(5, 3))[0].shape == (5, 2) and projected(rows[:, :1])[0].shape == (300, 2)


def test_the_map_has_titles_groups_and_the_items_with_an_embedding(client, client_of):
    found = client.get("/page/map").json()
    assert len(found["ids"]) == len(found["x"]) == len(found["titles"]) == len(found["groups"]) == N_ITEMS
    assert HOSTILE in found["titles"] and set(found["groups"]) == {0, 1, 2, 3} and 0 < found["share"] <= 1
    catalogue = page_of(made())
    assert "i11" not in client_of(lambda: catalogue).get("/page/map").json()["ids"]


def test_large_ids_are_texts(client_of):
    catalogue = page_of(made("numbers"))
    client = client_of(lambda: catalogue)
    found = asked(client, "find", {"kind": "users", "text": str(2**53 + 30)})["found"]
    assert found[0]["id"] == str(2**53 + 30)
    assert json.loads(client.get("/page/map").text)["ids"][0].lstrip("-").isdigit()


@pytest.mark.parametrize(
    "options, says",
    [
        (["--title", "title"], "--title is for --page; give both"),
        (["--page", "--title", "title"], "--title is a column of the table --items; give both"),
        (["--page", "--items", "TABLE", "--image", "picture"], "--image and --images belong together"),
        (["--page", "--items", "TABLE", "--title", "name"], "has no column name; its columns are item, title"),
        (["--page", "--items", "TABLE", "--image", "picture", "--images", "NONE"], "NONE: is not a folder"),
        (["--items", "TABLE"], "--items is for --filter-column and --page"),
        (["--filter-column", "kind"], "--filter-column is a column of the table --items"),
        (["--items", "TABLE", "--filter-column", "size"], "has no column size"),
        (["--nearest", "3"], "--nearest is for --new-items"),
        (["--page", "--items", "NONE", "--title", "x"], "NONE"),
    ],
)
def test_the_command_refuses_wrong_options_of_the_page(tmp_path_factory, table, capsys, options, says):
    model = write_model(tmp_path_factory.mktemp("model"))
    given = [{"TABLE": str(table), "NONE": str(table.parent / "NONE")}.get(one, one) for one in options]
    fails(capsys, ["serve", str(model), "--port", "0", *given], says)


def test_parts_need_no_table(model):
    assert Parts(page_of(model)).names == ["interactions", "kind", "price"]
