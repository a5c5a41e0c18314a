"""The service as a process: signals, load, and clients that misbehave."""

import http.client
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time

import pytest
from mmssl_trainer import recommend, save
from mmssl_trainer.serving.catalogue import Catalogue
from served_model import N_USERS, made

pytestmark = pytest.mark.processes
SEEDS = (5, 6)


@pytest.fixture(scope="module")
def models(tmp_path_factory):
    """{version: {user: items}} of two models, and the folder with their files 0.safetensors and 1.safetensors."""
    folder, lists = tmp_path_factory.mktemp("models"), {}
    for place, seed in enumerate(SEEDS):
        model = made("rows", seed)
        save(model, folder / f"{place}.safetensors")
        found = recommend(model, None, 10)
        own = {user: [] for user in range(N_USERS)}
        for user, item in zip(found.user.tolist(), found.item.tolist(), strict=True):
            own[user].append(item)
        lists[Catalogue(model).version] = own
    return folder, lists


class Process:
    """`mmssl-fast serve` on a port, with its log as parsed lines."""

    def __init__(self, model, log, port=0, *options):
        command = [sys.executable, "-P", "-m", "mmssl_trainer", "serve", str(model), "--port", str(port), *options]
        self.log_file = log
        environment = {**os.environ, "OMP_NUM_THREADS": "1"}
        with open(log, "a") as out:
            self.process = subprocess.Popen(command, stderr=out, stdout=out, env=environment)
        self.port = int(self.wait_for("listening")["address"].rpartition(":")[2])

    def log(self):
        return [json.loads(line) for line in self.log_file.read_text().splitlines()]

    def wait_for(self, event, count=1):
        deadline = time.monotonic() + 60
        while time.monotonic() < deadline:
            if self.log_file.exists():
                text = self.log_file.read_text()
                lines = [json.loads(line) for line in text.splitlines() if text.endswith("\n")]
                found = [line for line in lines if line["event"] == event and line.get("process") in (None, self.pid)]
                if len(found) >= count:
                    return found[-1]
            assert self.process.poll() is None, self.log_file.read_text()
            time.sleep(0.05)
        raise AssertionError(f"no event {event}: {self.log_file.read_text()}")

    @property
    def pid(self):
        return self.process.pid

    def stop(self):
        if self.process.poll() is None:
            self.process.terminate()
        return self.process.wait(30)


@pytest.fixture
def serve(tmp_path):
    processes = []

    def start(model, *options, port=0):
        processes.append(Process(model, tmp_path / f"{len(processes)}.log", port, *options))
        return processes[-1]

    yield start
    for process in processes:
        if process.process.poll() is None:
            process.process.kill()
        process.process.wait(30)


@pytest.fixture(scope="module")
def patient(models, tmp_path_factory):
    process = Process(models[0] / "0.safetensors", tmp_path_factory.mktemp("log") / "log", 0, "--timeout", "3")
    yield process
    process.stop()
    assert not [line for line in process.log() if "traceback" in line]


def ask(port, message=None, path="/recommend", timeout=20):
    connection = http.client.HTTPConnection("127.0.0.1", port, timeout=timeout)
    try:
        connection.request("POST" if message is not None else "GET", path, message and json.dumps(message))
        response = connection.getresponse()
        return response.status, json.loads(response.read())
    finally:
        connection.close()


class Load:
    """Threads that ask for lists until they are told to stop. wrong: answers that are not those of the named model."""

    def __init__(self, port, lists, threads=6):
        self.port, self.lists, self.going_on = port, lists, True
        self.right, self.wrong, self.broken, self.versions = 0, [], 0, set()
        self.threads = [threading.Thread(target=self.work, args=(n,)) for n in range(threads)]
        for thread in self.threads:
            thread.start()

    def work(self, user):
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=20)
        while self.going_on:
            user = (user + 7) % N_USERS
            try:
                connection.request("POST", "/recommend", json.dumps({"users": [user], "k": 10}))
                response = connection.getresponse()
                answer = json.loads(response.read())
            except (OSError, http.client.HTTPException):
                self.broken += 1
                connection.close()
                time.sleep(0.02)
                continue
            if response.status == 200 and answer["lists"][0]["items"] == self.lists[answer["model"]][user]:
                self.right += 1
                self.versions.add(answer["model"])
            else:
                self.wrong.append((response.status, answer))

    def reach(self, count):
        deadline = time.monotonic() + 60
        while self.right < count:
            assert time.monotonic() < deadline, (self.right, self.wrong[:3])
            time.sleep(0.01)

    def stop(self):
        self.going_on = False
        for thread in self.threads:
            thread.join()


@pytest.mark.parametrize("how", ["rename", "copy"])
def test_reloads_amid_load_lose_no_request_and_mix_no_models(serve, models, tmp_path, how):
    """Also where the new model is copied over the file that is in use."""
    folder, lists = models
    used = tmp_path / "model.safetensors"
    shutil.copyfile(folder / "0.safetensors", used)
    process = serve(used)
    load = Load(process.port, lists)
    for turn in range(1, 7):
        load.reach(load.right + 30)
        if how == "rename":
            shutil.copyfile(folder / f"{turn % 2}.safetensors", tmp_path / "new")
            os.replace(tmp_path / "new", used)
        else:
            shutil.copyfile(folder / f"{turn % 2}.safetensors", used)
        load.reach(load.right + 30)
        os.kill(process.pid, signal.SIGHUP)
        process.wait_for("reloaded", turn)
    load.reach(load.right + 30)
    load.stop()
    assert (load.wrong, load.broken, load.versions) == ([], 0, set(lists))
    assert not [line for line in process.log() if line["level"] != "info"]


def test_a_failed_reload_amid_load_keeps_the_model(serve, models, tmp_path):
    folder, lists = models
    used = tmp_path / "model.safetensors"
    shutil.copyfile(folder / "0.safetensors", used)
    process = serve(used)
    load = Load(process.port, lists)
    load.reach(30)
    used.write_bytes(b"")
    os.kill(process.pid, signal.SIGHUP)
    error = process.wait_for("reload failed")["error"]
    load.reach(load.right + 30)
    load.stop()
    assert (load.wrong, load.broken, len(load.versions)) == ([], 0, 1) and str(used) in error
    assert ask(process.port, path="/health")[1]["reload_error"] == error


def test_killed_and_restarted_amid_load(serve, models):
    folder, lists = models
    process = serve(folder / "0.safetensors")
    load = Load(process.port, lists)
    load.reach(50)
    process.process.kill()
    process.process.wait(30)
    before = load.right
    serve(folder / "1.safetensors", port=process.port)
    load.reach(before + 50)
    load.stop()
    assert load.wrong == [] and load.broken > 0 and load.versions == set(lists)


def test_terminated_amid_load_answers_what_it_has_read(serve, models):
    folder, lists = models
    process = serve(folder / "0.safetensors")
    load = Load(process.port, lists)
    load.reach(50)
    process.process.terminate()
    assert process.process.wait(30) in (0, -signal.SIGTERM, 128 + signal.SIGTERM)
    load.stop()
    assert load.wrong == [] and process.log()[-1]["event"] == "stopped"
    assert not [line for line in process.log() if line["level"] != "info"]


def test_a_reload_that_is_asked_for_while_the_service_starts(models, tmp_path):
    folder, _ = models
    log = tmp_path / "log"
    command = [sys.executable, "-P", "-m", "mmssl_trainer", "serve", str(folder / "0.safetensors"), "--port", "0"]
    with open(log, "w") as out:
        process = subprocess.Popen(command, stderr=out, env={**os.environ, "OMP_NUM_THREADS": "1"})
    try:
        until_listening = time.monotonic() + 60
        while not _handles_hangup(process.pid):  # the command itself has not started yet
            time.sleep(0.02)
        while "listening" not in log.read_text():
            assert process.poll() is None and time.monotonic() < until_listening, log.read_text()
            os.kill(process.pid, signal.SIGHUP)
            time.sleep(0.1)
        assert process.poll() is None
    finally:
        process.kill()
        process.wait(30)


def _handles_hangup(pid):
    with open(f"/proc/{pid}/status") as status:
        sets = {name: value.strip() for name, _, value in (line.partition(":") for line in status)}
    return (int(sets["SigIgn"], 16) | int(sets["SigCgt"], 16)) >> (signal.SIGHUP - 1) & 1


def received(connection, seconds=15):
    """What the server sends until it closes the connection."""
    connection.settimeout(seconds)
    parts = []
    while part := connection.recv(1 << 16):
        parts.append(part)
    return b"".join(parts)


def test_slow_clients_are_cut_off_and_others_are_served(patient, models):
    process, (_, lists) = patient, models
    silent, header, body = (socket.create_connection(("127.0.0.1", process.port)) for _ in range(3))
    header.sendall(b"POST /recommend HTTP/1.1\r\nhost: x\r\n")
    body.sendall(b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: 50\r\n\r\n{")
    started = time.monotonic()
    load = Load(process.port, lists, 2)
    load.reach(20)
    answer = received(body)
    assert answer.startswith(b"HTTP/1.1 503") and b"longer than 3 seconds" in answer
    assert received(silent) == received(header) == b""
    assert time.monotonic() - started > 2
    with socket.create_connection(("127.0.0.1", process.port)) as again:  # a second request of a connection
        again.sendall(b"GET /health HTTP/1.1\r\nhost: x\r\n\r\n")
        answer = b""
        while not answer.endswith(b"}"):
            answer += again.recv(4096)
        assert answer.startswith(b"HTTP/1.1 200")
        again.sendall(b"GET /health HTTP/1.1\r\nhos")
        assert received(again) == b""
    load.reach(load.right + 20)
    load.stop()
    assert load.wrong == [] and load.broken == 0
    for connection in (silent, header, body):
        connection.close()


def test_a_client_that_does_not_read_is_cut_off(patient):
    process = patient
    deaf = socket.socket()
    deaf.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    deaf.connect(("127.0.0.1", process.port))
    message = json.dumps({"users": list(range(N_USERS)) * 2, "k": 300}).encode()
    head = b"POST /recommend HTTP/1.1\r\nhost: x\r\ncontent-length: %d\r\n\r\n" % len(message)
    deaf.settimeout(0.5)
    try:
        for _ in range(40):
            deaf.sendall(head + message)
    except OSError:
        pass
    time.sleep(6)
    assert ask(process.port, path="/health")[0] == 200
    with pytest.raises(OSError):
        deaf.settimeout(5)
        while deaf.recv(1 << 16):
            pass
        raise ConnectionResetError
    deaf.close()
    assert ask(process.port, {"users": [1]})[0] == 200


def test_too_many_connections(serve, models):
    folder, _ = models
    process = serve(folder / "0.safetensors", "--max-connections", "4")
    held = [socket.create_connection(("127.0.0.1", process.port)) for _ in range(4)]
    time.sleep(0.3)
    with socket.create_connection(("127.0.0.1", process.port)) as more:
        answer = received(more)
    assert answer.startswith(b"HTTP/1.1 503") and b"retry-after: 1" in answer
    assert json.loads(answer.partition(b"\r\n\r\n")[2]) == {"error": "too many connections; try again"}
    for connection in held:
        connection.close()
    time.sleep(0.3)
    assert ask(process.port, {"users": [1]})[0] == 200


@pytest.mark.parametrize(
    "request_bytes",
    [
        b"\x16\x03\x01\x02\x00\x01",
        b"GET / HTTP/9\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\ncontent-length: x\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\ncontent-length: -5\r\n\r\n",
        b"\r\n" * 50 + b"nonsense\r\n\r\n",
        b"POST /recommend HTTP/1.1\r\nhost: x\r\ntransfer-encoding: chunked\r\n\r\nzz\r\n",
    ],
)
def test_what_is_no_http(patient, request_bytes):
    with socket.create_connection(("127.0.0.1", patient.port)) as connection:
        connection.sendall(request_bytes)
        answer = received(connection)
    assert answer == b"" or b" 400 " in answer.partition(b"\r\n")[0]
    assert ask(patient.port, {"users": [1]})[0] == 200
