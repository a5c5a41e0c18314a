"""A client's mistake is answered with 4xx and one sentence; load that is too high with 503; nothing with 5xx else."""

import asyncio
import json
import threading
import time

import numpy as np
import pytest
import torch
from command_line import fails
from mmssl_trainer import InputError, save
from mmssl_trainer.serving.app import make_app
from mmssl_trainer.serving.batching import Batcher
from mmssl_trainer.serving.catalogue import Catalogue
from mmssl_trainer.serving.limits import Limits, Refusal
from mmssl_trainer.serving.service import Service
from safetensors.torch import load_file, save_file
from served_model import made

USER = "user 1, ä"
LIMITS = ["max-k", "max-lists", "max-ids", "max-body", "max-waiting", "max-requests", "max-connections"]


@pytest.fixture
def client(client_of):
    return client_of(made(), Limits(body=20_000, lists=4, k=50, ids=30))


@pytest.mark.parametrize(
    "message, says",
    [
        ({}, "give either users or histories"),
        ([], "the body: input should be an object"),
        ("text", "the body: input should be an object"),
        (None, "the body: input should be an object"),
        ({"users": [USER], "histories": []}, "give either users or histories"),
        ({"users": ["nobody"]}, "users[0]: the model has no user 'nobody'"),
        ({"users": [USER, 77]}, "users[1]: the model has no user 77"),
        ({"users": [USER, True]}, "users[1]: an id must be a text or an integer"),
        ({"users": [1.5]}, "users[0]: an id must be a text or an integer"),
        ({"users": [None]}, "users[0]: an id must be a text or an integer"),
        ({"users": [[USER]]}, "users[0]: an id must be a text or an integer"),
        ({"users": USER}, "users: input should be a valid array"),
        ({"users": {"a": 1}}, "users: input should be a valid array"),
        ({"users": [USER] * 5}, "users: has 5 entries, the maximum is 4; send several requests"),
        ({"users": [10**3000]}, "users[0]: the model has no user"),
        ({"users": ["x" * 5000]}, "users[0]: the model has no user 'xxx"),
        ({"users": ["../../etc/passwd\0\n"]}, "users[0]: the model has no user"),
        ({"users": [USER], "k": 0}, "k: is 0, but must be from 1 to 50"),
        ({"users": [USER], "k": -3}, "k: is -3"),
        ({"users": [USER], "k": 51}, "k: is 51"),
        ({"users": [USER], "k": 10**400}, "k: is too large"),
        ({"users": [USER], "k": "20"}, "k: input should be a valid integer"),
        ({"users": [USER], "k": 2.0}, "k: input should be a valid integer"),
        ({"users": [USER], "k": True}, "k: input should be a valid integer"),
        ({"users": [USER], "K": 20}, "'K': there is no such field; the fields are users, histories, k"),
        ({"users": [USER], "x" * 5000: 1}, "there is no such field"),
        ({"users": [USER], "exclude": ["i1", "none"]}, "exclude[1]: the model has no item 'none'"),
        ({"users": [USER], "exclude": ["i1"] * 31}, "exclude: has 31 entries, the maximum is 30; shorten it"),
        ({"users": [USER], "exclude": None}, "exclude: input should be a valid array"),
        ({"users": [USER], "candidates": ["none"]}, "candidates[0]: the model has no item 'none'"),
        ({"users": [USER], "candidates": ["i1"] * 31}, "candidates: has 31 entries"),
    ],
)
def test_wrong_messages(client, message, says):
    response = client.post("/recommend", content=json.dumps(message))
    assert response.status_code == 422 and says in response.json()["error"], response.text
    assert list(response.json()) == ["error"] and "\n" not in response.json()["error"]
    assert len(response.content) < 1000


@pytest.mark.parametrize(
    "message, says",
    [
        ({}, "items: field required"),
        ({"items": ["none"]}, "items[0]: the model has no item 'none'"),
        ({"items": ["i1", "none"]}, "items[1]: the model has no item 'none'"),
        ({"items": ["i1", "i11"]}, "items[1]: nothing is known about the item 'i11'"),
        ({"items": ["i1"] * 5}, "items: has 5 entries"),
        ({"items": ["i1"], "k": 51}, "k: is 51"),
    ],
)
def test_wrong_messages_to_similar(client, message, says):
    response = client.post("/similar", json=message)
    assert response.status_code == 422 and says in response.json()["error"], response.text


@pytest.mark.parametrize(
    "body",
    [
        b"",
        b"{",
        b"[1",
        b"\xff\xfe",
        b'{"users": ["\xff"]}',
        b'{"users": [NaN]}',
        b'{"users": [1,]}',
        b"users=1",
        b"[" * 9000,
        b'{"users": ["\\ud800"]}',
        b"\x00",
        b"1" * 5000,
        b'{"users": [' + b"1" * 5000 + b"]}",
    ],
)
def test_broken_json(client, body):
    response = client.post("/recommend", content=body)
    assert response.status_code in (400, 422) and list(response.json()) == ["error"], response.text
    assert len(response.content) < 1000


def test_no_users_and_no_items_give_no_lists(client):
    assert client.post("/recommend", json={"users": []}).json()["lists"] == []
    assert client.post("/similar", json={"items": []}).json()["lists"] == []


def test_a_body_that_is_too_large_is_refused_before_it_is_read(client):
    response = client.post("/recommend", content=b" " * 20_001)
    assert response.status_code == 413 and "larger than 20000 bytes" in response.json()["error"]

    def pieces():  # chunked, without content-length
        for _ in range(3):
            yield b" " * 10_000

    assert client.post("/recommend", content=pieces()).status_code == 413


def test_other_paths_and_methods(client):
    assert client.get("/../model.safetensors").status_code == 404
    response = client.post("/reload")
    assert response.status_code == 404 and "/recommend" in response.json()["error"]
    response = client.get("/recommend")
    assert response.status_code == 405 and response.headers["allow"] == "POST"
    assert "use POST" in response.json()["error"]


class Slow:
    """A catalogue whose ranking waits until it is let go."""

    def __init__(self, model):
        self.inner, self.go, self.sizes = Catalogue(model), threading.Event(), []

    def __getattr__(self, name):
        return getattr(self.inner, name)

    def rank(self, queries):
        self.go.wait(20)
        self.sizes.append(len(queries))
        return self.inner.rank(queries)


def in_threads(call, count):
    answers = []
    threads = [threading.Thread(target=lambda: answers.append(call())) for _ in range(count)]
    for thread in threads:
        thread.start()
    return threads, answers


def until(condition):
    deadline = time.monotonic() + 10
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.01)


def test_a_full_queue_is_refused_and_drains_in_one_batch(client_of):
    slow = Slow(made())
    client = client_of(lambda: slow, Limits(waiting=12, lists=64))
    threads, answers = in_threads(lambda: client.post("/recommend", json={"users": [USER] * 2}), 6)
    until(lambda: client.service.batcher.waiting == 12)
    refused = client.post("/recommend", json={"users": [USER]})
    assert refused.status_code == 503 and refused.headers["retry-after"] == "1"
    assert "12 lists are waiting" in refused.json()["error"]
    slow.go.set()
    for thread in threads:
        thread.join()
    assert [answer.status_code for answer in answers] == [200] * 6 and sum(slow.sizes) == 12 and len(slow.sizes) <= 3
    assert client.post("/recommend", json={"users": [USER]}).status_code == 200


def test_too_many_requests_are_refused_and_health_answers(client_of):
    slow = Slow(made())
    client = client_of(lambda: slow, Limits(requests=3))
    threads, answers = in_threads(lambda: client.post("/recommend", json={"users": [USER]}), 3)
    until(lambda: client.service.active == 3)
    refused = client.post("/recommend", json={"users": [USER]})
    assert refused.status_code == 503 and "retry-after" in refused.headers
    assert client.get("/health").status_code == client.get("/metrics").status_code == 200
    slow.go.set()
    for thread in threads:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}


def test_what_takes_too_long_is_refused_and_frees_its_place(client_of):
    slow = Slow(made())
    client = client_of(lambda: slow, Limits(seconds=0.3))
    refused = client.post("/recommend", json={"users": [USER]})
    assert refused.status_code == 503 and "longer than 0.3 seconds" in refused.json()["error"]
    slow.go.set()
    until(lambda: client.service.batcher.waiting == 0)
    assert client.post("/recommend", json={"users": [USER]}).status_code == 200
    assert client.service.active == 0


def test_an_unexpected_error_affects_one_request_of_a_batch(client_of, caplog):
    class Broken(Slow):
        def rank(self, queries):
            self.go.wait(20)
            if any(query.k == 13 for query in queries):
                raise RuntimeError("a bug")
            return self.inner.rank(queries)

    broken = Broken(made())
    client = client_of(lambda: broken)
    threads, answers = in_threads(lambda: client.post("/recommend", json={"users": [USER]}), 3)
    more, failed = in_threads(lambda: client.post("/recommend", json={"users": [USER], "k": 13}), 1)
    until(lambda: client.service.batcher.waiting == 4)
    broken.go.set()
    for thread in threads + more:
        thread.join()
    assert {answer.status_code for answer in answers} == {200}
    assert failed[0].status_code == 500 and "a bug" not in failed[0].text  # that is for the log
    assert any(record.exc_info and "a bug" in str(record.exc_info[1]) for record in caplog.records)


def test_a_reload_switches_the_model_and_a_failed_one_does_not(client_of, model_file):
    client = client_of(lambda: Catalogue.load(model_file))
    first = client.get("/health").json()["model"]
    save(made(seed=6), model_file)
    assert client.portal.call(client.service.reload) is True
    second = client.get("/health").json()
    assert second["model"] != first == Catalogue(made()).version and second["model"] == Catalogue(made(seed=6)).version
    model_file.write_bytes(b"no model")
    assert client.portal.call(client.service.reload) is False
    third = client.get("/health").json()
    assert third["model"] == second["model"] and "model.safetensors" in third["reload_error"]
    assert client.post("/recommend", json={"users": [USER]}).json()["model"] == second["model"]
    metrics = client.get("/metrics").text
    assert 'mmssl_reloads_total{result="done"} 1.0' in metrics and 'mmssl_reloads_total{result="failed"} 1.0' in metrics
    assert f'mmssl_model_info{{version="{second["model"]}"}} 1.0' in metrics and first not in metrics


def test_a_request_that_was_read_before_a_reload_is_answered_by_its_model(client_of):
    old, new = Slow(made()), made(seed=6)
    models = [lambda: old, lambda: Catalogue(new)]
    client = client_of(lambda: models.pop(0)())
    threads, answers = in_threads(lambda: client.post("/recommend", json={"users": [USER]}), 2)
    until(lambda: client.service.batcher.waiting == 2)
    assert client.portal.call(client.service.reload)
    more, later = in_threads(lambda: client.post("/recommend", json={"users": [USER]}), 1)
    until(lambda: client.service.batcher.waiting == 3)
    old.go.set()
    for thread in threads + more:
        thread.join()
    assert {answer.json()["model"] for answer in answers} == {old.version}
    assert later[0].json()["model"] == Catalogue(new).version
    assert answers[0].json()["lists"] != later[0].json()["lists"]


def test_the_batcher_refuses_before_it_queues():
    async def check():
        batcher = Batcher(waiting=3)
        batcher.start()
        with pytest.raises(Refusal) as refused:
            await batcher.submit(None, [None] * 4)
        assert refused.value.status == 503 and batcher.waiting == 0
        await batcher.stop()

    asyncio.run(check())


def damaged(path, change):
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path, {"header": json.dumps({"format": "mmssl_fast model 1", "system": "lightgcn"})})


@pytest.mark.parametrize(
    "change, says",
    [
        (lambda t: t.pop("embedding.items"), "'embedding.items' is missing"),
        (lambda t: t.pop("train.indptr"), "'train.indptr' is missing"),
        (lambda t: t.__setitem__("embedding.items", torch.full((300, 13), torch.nan)), "not finite"),
        (lambda t: t.__setitem__("embedding.users", t["embedding.users"][:, :4].contiguous()), "4 columns"),
    ],
)
def test_a_model_with_missing_parts_is_refused_with_what_it_lacks(model_file, capsys, change, says):
    damaged(model_file, change)
    with pytest.raises(InputError, match=r"model\.safetensors: ") as refused:
        Service(lambda: Catalogue.load(model_file))
    assert says in str(refused.value)
    fails(capsys, ["serve", str(model_file), "--port", "0"], says)


def test_a_model_of_another_version_is_refused(model_file, capsys):
    save_file(load_file(model_file), model_file, {"header": json.dumps({"format": "mmssl_fast model 9"})})
    fails(capsys, ["serve", str(model_file), "--port", "0"], "'mmssl_fast model 9'", "this version reads")


@pytest.mark.parametrize(
    "arguments, says",
    [
        *(([f"--{name}", "0"], f"--{name} 0: must be above 0") for name in LIMITS),
        (["--timeout", "-1"], "--timeout -1.0: must be above 0"),
        (["--timeout", "inf"], "--timeout inf: must be above 0 and finite"),
        (["--port", "70000"], "--port"),
        (["--threads", "1000000"], "--threads"),
    ],
)
def test_the_command_refuses(model_file, capsys, arguments, says):
    fails(capsys, ["serve", str(model_file), *arguments], says)


def test_an_address_in_use_is_refused(model_file, capsys):
    import socket

    with socket.create_server(("127.0.0.1", 0)) as used:
        port = str(used.getsockname()[1])
        fails(capsys, ["serve", str(model_file), "--port", port], f"127.0.0.1:{port}", "another --host or --port")


def test_limits_are_not_in_the_way_of_what_they_allow(client_of):
    client = client_of(made(), Limits(k=50, ids=30, lists=4))
    message = {"users": [USER] * 4, "k": 50, "exclude": ["i1"] * 30, "candidates": [f"i{n}" for n in range(30)]}
    lists = client.post("/recommend", json=message).json()["lists"]
    assert len(lists) == 4 and all(0 < len(one["items"]) < 30 for one in lists)


def test_an_app_is_a_plain_asgi_application():
    app = make_app(Service(lambda: Catalogue(made())))
    paths = ["/recommend", "/similar", "/items", "/health", "/metrics", "/openapi.json"]
    assert [route.path for route in app.routes] == paths
    assert np.isfinite(app.routes[0].endpoint.service.limits.seconds)
