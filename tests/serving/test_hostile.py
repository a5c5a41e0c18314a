"""Clients that are hostile, or that speak HTTP in a way that few do."""

import asyncio
import json
import socket
import time
from types import SimpleNamespace

import pytest
from mmssl_trainer import InputError
from mmssl_trainer.serving.limits import Limits, Refusal
from mmssl_trainer.serving.messages import RecommendRequest, parse
from mmssl_trainer.serving.server import MOST_HEADER, Server
from served_model import made
from test_process import Process, ask, models, received  # noqa: F401

BODY = b'{"users": [1], "k": 1}'
CLOSE = b"GET /health HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n"


@pytest.fixture(scope="module")
def process(models, tmp_path_factory):  # noqa: F811
    process = Process(models[0] / "0.safetensors", tmp_path_factory.mktemp("log") / "log", 0, "--timeout", "5")
    yield process
    process.stop()
    assert not [line for line in process.log() if "traceback" in line]


def parsed(text):
    """[(status, body)] of answers one after another."""
    found = []
    while text:
        head, _, text = text.partition(b"\r\n\r\n")
        length = int(head.lower().partition(b"content-length: ")[2].split(b"\r\n")[0])
        found.append((int(head.split()[1]), json.loads(text[:length])))
        text = text[length:]
    return found


def answers(process, *parts):
    """The status lines and bodies of the answers to these bytes."""
    with socket.create_connection(("127.0.0.1", process.port)) as connection:
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        return parsed(received(connection))


@pytest.mark.processes
@pytest.mark.parametrize("cut", [0, 30, 150])
def test_an_offer_of_http_2_is_ignored(process, cut):
    """As in every request of Java's HttpClient and of curl --http2."""
    post = (
        b"POST /recommend HTTP/1.1\r\nConnection: Upgrade, HTTP2-Settings\r\nHost: x\r\nHTTP2-Settings: AAEAAEAA\r\n"
        b"Upgrade: h2c\r\nContent-Length: %d\r\n\r\n%s" % (len(BODY), BODY)
    )
    found = answers(process, post[:cut] or post, post[cut:] if cut else b"", post, CLOSE)
    assert [status for status, _ in found] == [200, 200, 200]
    assert found[0] == found[1] and found[0][1]["lists"][0]["user"] == 1


@pytest.mark.processes
@pytest.mark.parametrize(
    "parts",
    [
        [b"GET /health HTTP/1.1\r\n" + b"x: y\r\n" * MOST_HEADER + b"\r\n"],
        [b"GET /health HTTP/1.1\r\nx: ", *[b"y" * (MOST_HEADER // 4)] * 5],
        [b"GET /", *[b"y" * (MOST_HEADER // 4)] * 5],
        [b"CONNECT x:80 HTTP/1.1\r\nhost: x\r\nupgrade: h2c\r\nconnection: upgrade\r\n\r\n"],
        [b"nonsense\r\n\r\n"],
    ],
    ids=["many lines", "long line", "long path", "connect", "nonsense"],
)
def test_large_headers_and_nonsense_are_refused_as_json(process, parts):
    with socket.create_connection(("127.0.0.1", process.port)) as connection:
        connection.settimeout(4)  # below the time limit of a header
        for part in parts:
            connection.sendall(part)
            time.sleep(0.05)
        answer = connection.recv(4096)
    assert answer.startswith(b"HTTP/1.1 400 ") and "error" in json.loads(answer.partition(b"\r\n\r\n")[2])
    assert ask(process.port, {"users": [1]})[0] == 200


def half_closed(process, *parts):
    """The statuses and bodies of the answers to a client that closes its sending side after these bytes."""
    with socket.create_connection(("127.0.0.1", process.port)) as connection:
        for part in parts[:-1]:
            connection.sendall(part)
            time.sleep(0.05)
        connection.sendall(parts[-1])
        connection.shutdown(socket.SHUT_WR)
        started, text = time.monotonic(), received(connection)
    assert time.monotonic() - started < 4  # the connection is closed as soon as everything is answered
    return parsed(text)


POST = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n%s" % (len(BODY), BODY)
CHUNKS = b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\n%x\r\n%s\r\n" % (len(BODY), BODY)
HALF_CLOSED = {
    "one request": ([POST], [200]),
    "in parts": ([POST[:40], POST[40:]], [200]),
    "three at once": ([POST * 3], [200, 200, 200]),
    "HTTP/1.0": ([b"GET /health HTTP/1.0\r\n\r\n"], [200]),
    "chunked": ([CHUNKS + b"0\r\n\r\n"], [200]),
    "unknown path": ([b"POST /nope HTTP/1.1\r\nhost: x\r\ncontent-length: 0\r\n\r\n"], [404]),
    "short body": ([POST[:-3]], [400]),
    "no last chunk": ([CHUNKS], [400]),
    "no header": ([POST[:20]], [400]),
    "nothing": ([b""], []),
}


@pytest.mark.processes
@pytest.mark.parametrize("name", HALF_CLOSED)
def test_a_client_that_closes_its_sending_side_is_answered(process, name):
    parts, statuses = HALF_CLOSED[name]
    found = half_closed(process, *parts)
    assert [status for status, _ in found] == statuses
    if statuses == [400]:
        assert found[0][1]["error"].startswith("the request ends before its ")
    assert ask(process.port, {"users": [1]})[0] == 200


@pytest.mark.processes
@pytest.mark.parametrize("end", [3, 70])
def test_a_request_that_is_answered_before_one_that_is_cut(process, end):
    """The second one is refused, or where the first is still being answered, only the connection is closed."""
    found = half_closed(process, POST + POST[:-end])
    assert [status for status, _ in found] in ([200], [200, 400]) and found[0][1]["lists"]


@pytest.mark.processes
def test_clients_that_vanish_leave_nothing_behind(process):
    for n in range(50):
        connection = socket.create_connection(("127.0.0.1", process.port))
        connection.sendall(POST[:-1] if n % 2 else POST)
        connection.close()
    deadline = time.monotonic() + 10
    while True:
        with socket.create_connection(("127.0.0.1", process.port)) as connection:
            connection.sendall(b"GET /metrics HTTP/1.1\r\nhost: x\r\nconnection: close\r\n\r\n")
            text = received(connection)
        if b"mmssl_active_requests 1.0" in text and b"mmssl_waiting_lists 0.0" in text:
            break
        assert time.monotonic() < deadline, text
        time.sleep(0.1)


@pytest.mark.processes
def test_a_client_that_sends_too_much_reads_why(process):
    """A closed connection would reset it before it reads the answer."""
    large = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 3000000\r\n\r\n" + b" " * 3_000_000
    assert [status for status, _ in answers(process, large, CLOSE)] == [413, 200]


@pytest.mark.parametrize("host", ["elsewhere.example", "localhost"])
@pytest.mark.parametrize("path", ["/recommend/", "/health/", "/recommend%2f"])
def test_no_path_is_redirected(client_of, path, host):
    client = client_of(made("rows"))
    response = client.post(path, content=BODY, headers={"host": host}, follow_redirects=False)
    assert response.status_code == 404 and "location" not in response.headers


def test_unknown_paths_are_logged(client_of, caplog):
    caplog.set_level("INFO", "mmssl_fast.service")
    client_of(made("rows")).get("/nope")
    assert any(getattr(record, "fields", {}).get("status") == 404 for record in caplog.records)


@pytest.mark.parametrize("field", ["users", "histories", "exclude", "candidates"])
@pytest.mark.parametrize("entry", [None, [None]])
def test_only_the_first_error_of_a_request_is_collected(field, entry):
    body = json.dumps({field: [entry] * 100_000}).encode()
    started = time.process_time()
    with pytest.raises(Refusal, match=rf"^{field}\[0\]"):
        parse(RecommendRequest, body)
    first = time.process_time() - started
    started = time.process_time()
    for _ in range(10):
        json.loads(body)
    assert first < time.process_time() - started


@pytest.mark.parametrize("name, option", [("seconds", "--timeout"), ("header_seconds", "--timeout"), ("k", "--max-k")])
def test_infinite_limits(name, option):
    with pytest.raises(InputError, match=f"^{option} inf: must be above 0 and finite"):
        Limits(**{name: float("inf")})


def test_many_signals_are_two_reloads():
    async def reloads():
        count, lock = 0, asyncio.Lock()

        async def reload():
            nonlocal count
            async with lock:
                await asyncio.sleep(0.01)
                count += 1

        server = object.__new__(Server)
        server.service, server._reloads = SimpleNamespace(reload=reload), set()
        for _ in range(50):
            server._reload()
        await asyncio.gather(*server._reloads)
        return count

    assert asyncio.run(reloads()) == 2
