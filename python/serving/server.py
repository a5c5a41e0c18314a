"""The process of the service: its socket, the signals, and connections that are too slow."""

from __future__ import annotations

import asyncio
import gc
import math
import os
import signal
import socket
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

import httptools
import uvicorn
from pydantic_core import to_json
from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol

from ..errors import InputError
from .app import make_app
from .limits import Limits
from .logs import log, to_stderr
from .service import Service

BACKLOG = 2048
MOST_HEADER = 1 << 16  # bytes of the request line and the header


def run(make_service: Callable[[], Service], host: str, port: int) -> None:
    """Answer requests until SIGTERM or SIGINT. SIGHUP reloads the model, even one that comes while the model is loaded
    for the first time. Raises InputError if the address is in use."""
    listening = _listen(host, port)
    early: list[int] = []
    signal.signal(signal.SIGHUP, lambda number, frame: early.append(number))
    service = make_service()
    to_stderr()
    config = uvicorn.Config(
        make_app(service),
        http=protocol(service.limits),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,
        server_header=False,
        backlog=BACKLOG,
        timeout_keep_alive=60,
        timeout_graceful_shutdown=math.ceil(service.limits.seconds) + 1,
    )
    Server(config, service, early).run(sockets=[listening])


def _listen(host: str, port: int) -> socket.socket:
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except (OSError, OverflowError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(f"{host}:{port}: cannot be listened on ({reason}); choose another --host or --port") from None


class Server(uvicorn.Server):
    """uvicorn's server with a reload on SIGHUP. early: the signals that came before."""

    def __init__(self, config: uvicorn.Config, service: Service, early: Sequence[int] = ()) -> None:
        super().__init__(config)
        self.service, self.early = service, early
        self._reloads: set[asyncio.Task[bool]] = set()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        asyncio.get_running_loop().add_signal_handler(signal.SIGHUP, self._reload)
        _spare_the_garbage_collector()
        if self.early:
            self._reload()
        host, port = sockets[0].getsockname()[:2] if sockets else ("", 0)
        catalogue = self.service.catalogue
        log(
            "listening",
            address=f"http://[{host}]:{port}" if ":" in host else f"http://{host}:{port}",
            process=os.getpid(),
            model=catalogue.version,
            users=len(catalogue.user_ids),
            items=len(catalogue.item_ids),
        )

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        log("stopping", active=self.service.active)
        await super().shutdown(sockets)
        log("stopped")

    def _reload(self) -> None:
        if len(self._reloads) > 1:  # one is running, and the one that waits will load what is there now
            return
        task = asyncio.get_running_loop().create_task(self.service.reload())
        self._reloads.add(task)
        task.add_done_callback(self._reloaded)

    def _reloaded(self, task: asyncio.Task[bool]) -> None:
        self._reloads.discard(task)
        _spare_the_garbage_collector()


def _spare_the_garbage_collector() -> None:
    """Exclude what exists now from further garbage collections.

    The modules and the model are hundreds of thousands of objects that stay. Python would visit all of them about once
    a second under load, and answer no request for more than 100 ms. An earlier model is freed by its reference count.
    """
    gc.collect()
    gc.freeze()


def protocol(limits: Limits) -> type[HttpToolsProtocol]:
    """uvicorn's HTTP protocol with limits on connections, on the time until the header of a request is complete, and on
    the time in which a client reads its answer.

    Without them, clients that send a byte now and then, or do not read, would hold their connections for ever.
    """

    class Protocol(HttpToolsProtocol):
        _header: asyncio.TimerHandle | None = None
        _reading: asyncio.TimerHandle | None = None
        _running: Any = None  # the request that is being answered
        _header_size = 0  # bytes that were received since the first part of a header, which is not complete
        _complete = 0  # bytes of its complete lines, which may have come in one part
        _in_header = False

        def connection_made(self, transport: Any) -> None:
            super().connection_made(transport)
            if len(self.connections) > limits.connections:
                transport.write(
                    b"HTTP/1.1 503 Service Unavailable\r\nretry-after: 1\r\nconnection: close\r\n"
                    b"content-type: application/json\r\ncontent-length: 45\r\n\r\n"
                    b'{"error":"too many connections; try again"}\r\n'
                )
                transport.close()
            else:
                self._header = self.loop.call_later(limits.header_seconds, self._too_slow)

        def data_received(self, data: bytes) -> None:
            if self._header is None and (self.cycle is None or self.cycle.response_complete):
                self._header = self.loop.call_later(limits.header_seconds, self._too_slow)
            if self._in_header:
                self._header_size += len(data)
            self._feed(data)
            if self._in_header and self._header_size > MOST_HEADER and not self.transport.is_closing():
                self.send_400_response("")

        def eof_received(self) -> bool:  # type: ignore[override]
            """The client has closed its sending side, and may still read. Requests that are complete are answered, and
            then the connection is closed; one that is not never will be."""
            last = self.cycle
            if last is not None and last.more_body and not last.response_complete:
                self.pipeline = deque(one for one in self.pipeline if one[0] is not last)
                if self._running is last:
                    last.disconnected = True
                    last.message_event.set()
                    if not last.response_started and not self.transport.is_closing():
                        self._refuse("the request ends before its body is complete; send all of content-length")
                    return False
                last = self.pipeline[0][0] if self.pipeline else self._running
            if self.transport.is_closing() or last is None or last.response_complete:
                if self._in_header and not self.transport.is_closing():
                    self._refuse("the request ends before its header is complete; end it with an empty line")
                return False
            last.keep_alive = False
            return True

        def _feed(self, data: bytes) -> None:
            """As `data_received` of uvicorn, which loses the body of a request that offers to upgrade the protocol.
            Clients such as Java's HttpClient offer HTTP/2 in every request; a server may ignore it."""
            self._unset_keepalive_if_required()
            try:
                self.parser.feed_data(data)
            except httptools.HttpParserError:
                self.logger.warning("Invalid HTTP request received.")
                self.send_400_response("")
            except httptools.HttpParserUpgrade as upgrade:
                if self.parser.get_method() == b"CONNECT":
                    self.send_400_response("")
                else:
                    self._feed_again(data[upgrade.args[0] :])

        def _feed_again(self, rest: bytes) -> None:
            """Read a request again without the offer. rest: what was received after its header."""
            method, version = self.parser.get_method(), self.parser.get_http_version().encode()
            head = [method + b" " + self.url + b" HTTP/" + version]
            for name, value in self.headers:
                if name == b"connection":
                    tokens = (token.strip() for token in value.split(b","))
                    value = b", ".join(token for token in tokens if token.lower() != b"upgrade")
                if name != b"upgrade":
                    head.append(name + b": " + value)
            self.parser = httptools.HttpRequestParser(self)
            self.parser.set_dangerous_leniencies(lenient_data_after_close=True)
            self._feed(b"\r\n".join(head) + b"\r\n\r\n" + rest)

        def send_400_response(self, msg: str) -> None:
            self._refuse(f"the request is not valid HTTP/1.1, or its header exceeds {MOST_HEADER} bytes")

        def _refuse(self, sentence: str) -> None:
            text = to_json({"error": sentence})
            head = b"HTTP/1.1 400 Bad Request\r\nconnection: close\r\ncontent-type: application/json\r\n"
            self.transport.write(head + b"content-length: %d\r\n\r\n" % len(text) + text)
            self.transport.close()

        def on_message_begin(self) -> None:
            self._in_header, self._header_size, self._complete = True, 0, 0
            super().on_message_begin()

        def on_header(self, name: bytes, value: bytes) -> None:
            super().on_header(name, value)
            self._complete += len(name) + len(value) + 4
            if self._complete > MOST_HEADER:
                raise ValueError("the header is too large")

        def on_headers_complete(self) -> None:
            self._in_header = False
            if self.parser.should_upgrade():
                return  # it is read again
            self._stop_waiting()
            super().on_headers_complete()

        def on_message_complete(self) -> None:
            if not self.parser.should_upgrade():
                super().on_message_complete()

        def connection_lost(self, exc: Exception | None) -> None:
            self._stop_waiting()
            self._stop_reading()
            # uvicorn tells only the request that was received last. If requests were sent without waiting for answers,
            # an earlier one may be running, and would write to the closed connection.
            if self._running is not None:
                self._running.disconnected = True
            self.pipeline.clear()
            super().connection_lost(exc)

        def _start_asgi_task(self, cycle: Any, app: Any) -> None:
            self._running = cycle
            super()._start_asgi_task(cycle, app)

        def pause_writing(self) -> None:
            super().pause_writing()
            self._stop_reading()
            self._reading = self.loop.call_later(limits.seconds, self.transport.abort)

        def resume_writing(self) -> None:
            self._stop_reading()
            super().resume_writing()

        def _stop_reading(self) -> None:
            if self._reading is not None:
                self._reading.cancel()
                self._reading = None

        def _stop_waiting(self) -> None:
            if self._header is not None:
                self._header.cancel()
                self._header = None

        def _too_slow(self) -> None:
            self._header = None
            if not self.transport.is_closing():
                self.transport.close()

    return Protocol
