"""`mmssl-fast serve` under load, beside a plain FastAPI service with a flat faiss index.

    python benchmarks/service.py --items 10000 --seconds 5 --rounds 3

Both services answer the same requests, with the unseen items of a known user, on the same model. Both run all the
time, and the load goes to one after the other: 64 connections in this process, each with one request at a time. The
processors are shared by the two services, the load and whatever else runs, so only the ratios mean something; the
processor time of a list depends least on the rest. Needs ".[export,serve]" and fastapi.
"""

import argparse
import asyncio
import gc
import json
import os
import socket
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np
import scipy.sparse as sp
import torch
import uvloop

N_USERS, DIM, SEEN, K = 20_000, 64, 20, 20


def make_model(path: Path, n_items: int) -> None:
    """A model with random embeddings, and users with 20 seen items."""
    from mmssl_trainer import Model, save
    from mmssl_trainer.data import Dataset

    rng = np.random.default_rng(0)
    columns = rng.integers(0, n_items, (N_USERS, SEEN)).ravel()
    rows = np.arange(N_USERS).repeat(SEEN)
    train = sp.csr_array((np.ones(len(rows), np.float32), (rows, columns)), shape=(N_USERS, n_items))
    train.sum_duplicates()
    train.data[:] = 1
    none = sp.csr_array(train.shape, dtype=np.float32)
    data = Dataset("random", "random", N_USERS, n_items, train, none, none, {})
    users, items = (torch.from_numpy(rng.standard_normal((n, DIM)).astype(np.float32)) for n in (N_USERS, n_items))
    save(Model(users, items, {}, data, {"format": "mmssl_fast model 1", "system": "mf", "data": "random"}), path)


def plain_app(path: Path):
    """The service to compare with, as FastAPI's and faiss' documentations suggest: a function that FastAPI runs in a
    thread, with a pydantic model for the request and the answer."""
    import faiss
    from fastapi import FastAPI, HTTPException
    from mmssl_trainer import load
    from pydantic import BaseModel

    model = load(path)
    users, seen = model.users.numpy(), model.interactions.train
    index = faiss.IndexFlatIP(DIM)
    index.add(model.items.numpy())
    app = FastAPI()

    class Request(BaseModel):
        user: int
        k: int = K

    class Answer(BaseModel):
        items: list[int]
        scores: list[float]

    @app.post("/recommend")
    def recommend(request: Request) -> Answer:
        if not 0 <= request.user < len(users):
            raise HTTPException(404, "unknown user")
        known = seen.indices[seen.indptr[request.user] : seen.indptr[request.user + 1]]
        scores, items = index.search(users[request.user : request.user + 1], request.k + len(known))
        left = ~np.isin(items[0], known)
        return Answer(items=items[0][left][: request.k].tolist(), scores=scores[0][left][: request.k].tolist())

    return app


def free_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as free:
        return free.getsockname()[1]


def start(command: list[str], port: int) -> subprocess.Popen:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    for _ in range(600):
        try:
            socket.create_connection(("127.0.0.1", port), 0.1).close()
            return process
        except OSError:
            if process.poll() is not None:
                raise SystemExit(f"{' '.join(command)}: ended with {process.returncode}") from None
            time.sleep(0.1)
    raise SystemExit(f"{' '.join(command)}: does not answer")


class Client(asyncio.Protocol):
    """One connection: sends a request, reads the answer by its content-length, and sends the next one."""

    def __init__(self, requests: list[bytes], first: int, until: float) -> None:
        self.requests, self.next, self.until = requests, first, until
        self.seconds: list[float] = []
        self.errors = 0
        self.done = asyncio.get_running_loop().create_future()
        self.data, self.length = b"", -1

    def connection_made(self, transport) -> None:
        self.transport = transport
        self.send()

    def send(self) -> None:
        self.sent = time.perf_counter()
        if self.sent >= self.until:
            self.transport.close()
            self.done.set_result(None)
            return
        self.data, self.length = b"", -1
        self.transport.write(self.requests[self.next % len(self.requests)])
        self.next += 1

    def data_received(self, data: bytes) -> None:
        self.data += data
        if self.length < 0 and (end := self.data.find(b"\r\n\r\n")) >= 0:
            head = self.data[:end].lower()
            at = head.index(b"content-length:") + 15
            self.length = end + 4 + int(head[at : head.find(b"\r\n", at) if b"\r\n" in head[at:] else len(head)])
        if self.length >= 0 and len(self.data) >= self.length:
            self.seconds.append(time.perf_counter() - self.sent)
            self.errors += not self.data.startswith(b"HTTP/1.1 200")
            self.send()

    def connection_lost(self, error) -> None:
        if not self.done.done():
            self.errors += 1
            self.done.set_result(None)


async def load(port: int, bodies: list[bytes], connections: int, seconds: float) -> tuple[list[float], int, float]:
    """(seconds of every answer, errors, lists per second)."""
    head = (
        b"POST /recommend HTTP/1.1\r\nhost: localhost\r\ncontent-type: application/json\r\ncontent-length: %d\r\n\r\n"
    )
    requests = [head % len(body) + body for body in bodies]
    started = time.perf_counter()
    clients = []
    for n in range(connections):
        first = n * len(requests) // connections
        make = lambda first=first: Client(requests, first, started + seconds)  # noqa: E731
        clients.append((await asyncio.get_running_loop().create_connection(make, "127.0.0.1", port))[1])
    await asyncio.gather(*(client.done for client in clients))
    times = [one for client in clients for one in client.seconds]
    return times, sum(client.errors for client in clients), len(times) / (time.perf_counter() - started)


def same_lists(ports: dict[str, int], users: list[int]) -> None:
    """Both services answer with the same items."""
    from http.client import HTTPConnection

    def post(port: int, message: dict) -> dict:
        connection = HTTPConnection("127.0.0.1", port)
        connection.request("POST", "/recommend", json.dumps(message), {"content-type": "application/json"})
        return json.loads(connection.getresponse().read())

    for user in users:
        ours = post(ports["mmssl-fast"], {"users": [user], "k": K})["lists"][0]
        plain = post(ports["plain"], {"user": user, "k": K})
        assert np.allclose(ours["scores"], plain["scores"], rtol=1e-5), user
        assert len(set(ours["items"]) ^ set(plain["items"])) <= 2, user  # the last ones may differ by rounding


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--items", type=int, default=10_000)
    parser.add_argument("--seconds", type=float, default=5)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--connections", type=int, default=64)
    parser.add_argument("--serve-plain", nargs=2, metavar=("MODEL", "PORT"), help=argparse.SUPPRESS)
    options = parser.parse_args()
    if options.serve_plain:
        import uvicorn

        model, port = options.serve_plain
        uvicorn.run(plain_app(Path(model)), port=int(port), log_level="warning", access_log=False)
        return
    users = np.random.default_rng(1).integers(0, N_USERS, 5000).tolist()
    bodies = {
        "mmssl-fast": [json.dumps({"users": [user], "k": K}).encode() for user in users],
        "plain": [json.dumps({"user": user, "k": K}).encode() for user in users],
    }
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder) / "model.safetensors"
        make_model(model, options.items)
        ports = {name: free_port() for name in bodies}
        ours = [sys.executable, "-m", "mmssl_trainer", "serve", str(model), "--port", str(ports["mmssl-fast"])]
        plain = [sys.executable, __file__, "--serve-plain", str(model), str(ports["plain"])]
        processes = []
        try:
            for command, port in ((ours, ports["mmssl-fast"]), (plain, ports["plain"])):
                processes.append(start(command, port))
            same_lists(ports, users[:50])
            measure(options, ports, {name: one.pid for name, one in zip(ports, processes, strict=True)}, bodies)
        finally:
            for process in processes:
                process.terminate()
                process.wait(30)


def processor_seconds(pid: int) -> float:
    """User and system time of a process."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def measure(options: argparse.Namespace, ports: dict[str, int], pids: dict[str, int], bodies: dict[str, list[bytes]]):
    gc.collect()
    gc.freeze()  # a collection in this process would delay all connections, and be taken for the service's time
    print(f"{options.items:,} items, {options.connections} connections, {options.seconds:g} s a run")
    found: dict[str, list[tuple[float, ...]]] = {name: [] for name in ports}
    for _ in range(options.rounds):
        for name, port in ports.items():
            before = processor_seconds(pids[name])
            times, errors, rate = uvloop.run(load(port, bodies[name], options.connections, options.seconds))
            p50, p99 = np.percentile(times, [50, 99]) * 1000
            used = (processor_seconds(pids[name]) - before) / len(times) * 1000
            found[name].append((rate, p50, p99, used))
            busy = os.getloadavg()[0]
            print(
                f"{name:11} {rate:8.0f} lists/s  p50 {p50:7.1f} ms  p99 {p99:7.1f} ms  processor {used:6.3f} ms/list  "
                f"errors {errors}  load {busy:.1f}"
            )
    rows = zip(found["mmssl-fast"], found["plain"], strict=True)
    ratios = [[ours / plain for ours, plain in zip(*row, strict=True)] for row in rows]
    rate, p50, p99, used = (statistics.median(column) for column in zip(*ratios, strict=True))
    print(f"median ratios, mmssl-fast / plain: lists/s {rate:.2f}, p50 {p50:.2f}, p99 {p99:.2f}, processor {used:.2f}")


if __name__ == "__main__":
    main()
