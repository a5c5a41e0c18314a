"""What the service answers: the lists of `mmssl-fast recommend`, whatever else is asked at the same time."""

import threading

import numpy as np
import pytest
import torch
from mmssl_trainer import fit, load, recommend, save, similar
from mmssl_trainer.ranking import Ranking
from mmssl_trainer.runs.recommend import recommend as in_chunks
from mmssl_trainer.serving.catalogue import Catalogue, Query
from mmssl_trainer.serving.limits import Limits
from served_model import DIM, N_ITEMS, N_USERS, made
from training_cases import configured, small_catalogue


def asked(client, path="/recommend", status=200, **message):
    response = client.post(path, json=message)
    assert response.status_code == status, response.text
    return response.json()


def expected(model, users=None, k=20, exclude="train"):
    """{user: (items, scores)} of `mmssl-fast recommend`."""
    lists = {}
    found = recommend(model, users, k, exclude)
    for user, item, score in zip(found.user.tolist(), found.item.tolist(), found.score.tolist(), strict=True):
        items, scores = lists.setdefault(user, ([], []))
        items.append(item)
        scores.append(score)
    return lists


def ids(model):
    data = model.interactions
    return data.original_users(np.arange(N_USERS)).tolist(), data.original_items(np.arange(N_ITEMS)).tolist()


@pytest.mark.parametrize("exclude", ["train", "all"])
@pytest.mark.parametrize("k", [1, 20, 300])
def test_lists_equal_those_of_recommend_alone_and_together(model, client_of, k, exclude):
    client = client_of(model, exclude=exclude)
    users, _ = ids(model)
    want = expected(model, None, k, exclude)
    together = asked(client, users=users, k=k)["lists"]
    assert [one["user"] for one in together] == users
    for user, one in zip(users, together, strict=True):
        assert (one["items"], one["scores"]) == want.get(user, ([], []))
    for user in users[::11] + users[7:9]:
        assert asked(client, users=[user], k=k)["lists"][0] == together[users.index(user)]


def test_an_integer_and_its_text_are_the_same_id(client_of):
    model = made("numbers")
    client, (users, items) = client_of(model), ids(model)
    lists = asked(client, users=[users[3], str(users[3])], exclude=[items[0], str(items[1])])["lists"]
    assert lists[0] == lists[1] and lists[0]["user"] == users[3] > 2**53
    assert not {items[0], items[1]} & set(lists[0]["items"])


def test_excluded_items_leave_the_rest_as_it_was(model, client_of):
    client, (users, items) = client_of(model), ids(model)
    out = [*items[5:120:3], items[11], items[20]]
    whole = expected(model, None, N_ITEMS)
    lists = asked(client, users=users, k=40, exclude=out)["lists"]
    for user, one in zip(users, lists, strict=True):
        left = [(i, s) for i, s in zip(*whole.get(user, ([], [])), strict=True) if i not in set(out)][:40]
        assert list(zip(one["items"], one["scores"], strict=True)) == left


def test_everything_excluded_gives_an_empty_list(client_of):
    model = made()
    client, (users, items) = client_of(model), ids(model)
    for one in asked(client, users=users[:9], exclude=items)["lists"]:
        assert one["items"] == one["scores"] == []


def test_candidates_are_ranked_as_in_the_whole_list(model, client_of):
    client, (users, items) = client_of(model), ids(model)
    whole = expected(model, None, N_ITEMS)
    chosen = [*items[8:60:2], items[12], items[20], items[21], items[22], items[8]]
    lists = asked(client, users=users, k=9, candidates=chosen, exclude=[items[10]])["lists"]
    for user, one in zip(users, lists, strict=True):
        left = set(chosen) - {items[10]}
        want = [(i, s) for i, s in zip(*whole.get(user, ([], [])), strict=True) if i in left][:9]
        assert list(zip(one["items"], one["scores"], strict=True)) == want
    assert asked(client, users=users[:1], candidates=[])["lists"][0]["items"] == []


@pytest.fixture(scope="module", params=["lightgcn", "svd", "mmssl", "popularity"])
def trained(request, tmp_path_factory):
    """A trained model, as it is read from its file."""
    path = tmp_path_factory.mktemp("trained") / "model.safetensors"
    save(fit(small_catalogue(), configured(request.param, train__epochs=1)), path)
    return load(path)


def test_histories_get_the_lists_of_recommend(trained, client_of):
    client, rng = client_of(trained), np.random.default_rng(2)
    histories = {n: rng.integers(0, 80, int(size)).tolist() for n, size in enumerate([1, 3, 7, 40, 0, 2])}
    candidates, out = [*range(5, 60), 79], [7, 8, 9]
    for more in ({}, {"candidates": candidates}, {"exclude": out}, {"candidates": candidates, "exclude": out}):
        found = recommend(
            trained,
            None,
            10,
            histories=histories,
            candidates=more.get("candidates"),
            excluded=[(user, item) for user in histories for item in more.get("exclude", [])],
        )
        want = {user: ([], []) for user in histories}
        for user, item, score in zip(found.user.tolist(), found.item.tolist(), found.score.tolist(), strict=True):
            want[user][0].append(item)
            want[user][1].append(score)
        lists = asked(client, histories=list(histories.values()), k=10, **more)["lists"]
        assert [(one["items"], one["scores"]) for one in lists] == list(want.values())
        assert {one["user"] for one in lists} == {None}
        assert len(lists[3]["items"]) == 10 and not set(lists[3]["items"]) & set(histories[3])


def test_similar_items_equal_those_of_the_function(trained, client_of):
    client = client_of(trained)
    known = np.flatnonzero((trained.items != 0).any(1)).tolist()[:5]
    found = similar(trained, known, 6)
    lists = asked(client, "/similar", items=known, k=6)["lists"]
    assert [item for one in lists for item in one["items"]] == found.similar.tolist()
    assert [cosine for one in lists for cosine in one["cosines"]] == found.cosine.tolist()
    by_default = asked(client, "/similar", items=known[:1])["lists"][0]
    assert by_default["items"] == similar(trained, known[:1]).similar.tolist() and len(by_default["items"]) == 20


def test_a_system_that_cannot_embed_histories_says_why(client_of):
    client = client_of(fit(small_catalogue(), configured("mf", train__epochs=1)))
    error = asked(client, histories=[[1]], status=422)["error"]
    assert error.startswith("histories: ") and "cannot embed a user by a history" in error
    assert len(asked(client, users=[1])["lists"][0]["items"]) == 20
    old = client_of(made())
    assert "histories: " in asked(old, histories=[["i1"]], status=422)["error"]


def test_wrong_histories_are_refused(trained, client_of):
    client = client_of(trained, Limits(lists=3, ids=5))
    for histories, says in (
        ([[1], [2, "none"]], "histories[1][1]: the model has no item 'none'"),
        ([[1]] * 4, "histories: has 4 entries, the maximum is 3"),
        ([[1], list(range(6))], "histories[1]: has 6 entries, the maximum is 5"),
        ([1], "histories[0]: input should be a valid array"),
        ([[[1]]], "histories[0][0]: an id must be a text or an integer"),
    ):
        assert says in asked(client, histories=histories, status=422)["error"]


def test_similar_items_have_the_highest_cosines(model, client_of):
    client, (_, items) = client_of(model), ids(model)
    given = [items[3], items[20], items[299]]
    table = model.items.numpy().astype(np.float64)
    unit = table / np.maximum(np.linalg.norm(table, axis=1, keepdims=True), 1e-12)
    for item, one in zip(given, asked(client, "/similar", items=given, k=30)["lists"], strict=True):
        row = items.index(item)
        cosines = unit @ unit[row]
        cosines[[row, 11, 12]] = -np.inf
        assert one["item"] == item and len(one["items"]) == 30
        np.testing.assert_allclose(one["cosines"], -np.sort(-cosines)[:30], rtol=1e-5)
        np.testing.assert_allclose([cosines[items.index(other)] for other in one["items"]], one["cosines"], rtol=1e-5)
    assert len(asked(client, "/similar", items=[items[3]], k=1000)["lists"][0]["items"]) == N_ITEMS - 3


def test_a_query_has_the_same_list_in_every_batch():
    catalogue, rng = Catalogue(made()), np.random.default_rng(0)
    queries = [
        Query(int(rng.integers(N_USERS)), int(rng.integers(1, 50)), exclude=np.unique(rng.integers(0, N_ITEMS, 9)))
        if n % 3
        else Query(-1, 7, item=30 + n)
        if n % 2
        else Query(n, 12, candidates=np.unique(rng.integers(0, N_ITEMS, 60)))
        for n in range(60)
    ]
    alone = [catalogue.rank([query])[0] for query in queries]
    for size in (2, 7, 60):
        batches = [catalogue.rank(queries[first : first + size]) for first in range(0, 60, size)]
        assert [one for batch in batches for one in batch] == alone


def test_a_new_users_vector_and_no_seen_items():
    model = made()
    catalogue = Catalogue(model)
    vector = torch.randn(DIM, generator=torch.Generator().manual_seed(1))
    history = np.array([3, 4, 20])
    items, scores = catalogue.rank([Query(-1, N_ITEMS, vector, exclude=history)])[0]
    want = vector.numpy() @ model.items.numpy().T
    assert len(items) == N_ITEMS - 3 and items[-2:] in (["i11", "i12"], ["i12", "i11"])
    kept = np.delete(want, [3, 4, 20, 11, 12])
    np.testing.assert_allclose(scores[:-2], -np.sort(-kept), rtol=1e-5, atol=1e-6)


def test_excluded_pairs_of_a_ranking_equal_seen_items():
    """Ranking.best with pairs equals a Ranking whose seen items have them."""
    model, generator = made(), torch.Generator().manual_seed(3)
    rows = torch.randint(0, N_USERS, (4000,), generator=generator)
    items = torch.randint(0, N_ITEMS, (4000,), generator=generator)
    data = model.interactions
    seen = data.train.tolil()
    for row, item in zip(rows.tolist(), items.tolist(), strict=True):
        seen[row, item] = 1
    from mmssl_fast import InteractionGraph

    users = torch.arange(N_USERS)
    plain = Ranking(model.items, None, InteractionGraph.from_scipy(data.train))
    other = Ranking(model.items, None, InteractionGraph.from_scipy(seen.tocsr()))
    unseen = Ranking(model.items)
    for k in (5, N_ITEMS):
        want = other.best(model.users, users, k)
        got = plain.best(model.users, users, k, (rows, items))
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])
        all_rows, all_items = (torch.from_numpy(part.astype(np.int64)) for part in seen.tocsr().nonzero())
        got = unseen.best(model.users, users, k, (all_rows, all_items))
        assert torch.equal(got[0], want[0]) and torch.equal(got[1], want[1])


def test_requests_at_the_same_time_get_their_own_answers(client_of):
    model = made()
    client, (users, items) = client_of(model), ids(model)
    want = {user: expected(model, [user], 15)[user][0] for user in users if user != users[8]}
    wrong = []

    def ask(first):
        for user in users[first::8]:
            if user in want:
                got = asked(client, users=[user], k=15)["lists"][0]
                wrong.extend([user] if (got["user"], got["items"]) != (user, want[user]) else [])
            got = asked(client, "/similar", items=[items[40 + first]], k=3)["lists"][0]
            wrong.extend([user] if got["item"] != items[40 + first] else [])

    threads = [threading.Thread(target=ask, args=(first,)) for first in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert wrong == []
    text = client.get("/metrics").text
    assert f'mmssl_requests_total{{path="/recommend",status="200"}} {len(want)}.0' in text
    assert "mmssl_waiting_lists 0.0" in text and f"mmssl_lists_total {len(want) + N_USERS}.0" in text


def test_health_and_openapi(client_of):
    client = client_of(made())
    health = client.get("/health").json()
    assert health["status"] == "ok" and health["users"] == N_USERS and health["items"] == N_ITEMS
    assert health["model"] == asked(client, users=["user 1, ä"])["model"] and health["reload_error"] is None
    api = client.get("/openapi.json").json()
    assert api["openapi"] == "3.1.0" and set(api["paths"]) == {
        "/recommend",
        "/similar",
        "/items",
        "/health",
        "/metrics",
    }
    names = set(api["components"]["schemas"])
    text = client.get("/openapi.json").text
    assert {part.split('"')[0] for part in text.split("#/components/schemas/")[1:]} <= names


def test_lists_by_chunks_are_those_of_the_function(model):
    """in_chunks is what the command line uses."""
    whole = [row for chunk in in_chunks(model, None, 5) for row in chunk.item.tolist()]
    assert whole == recommend(model, None, 5).item.tolist()
