"""The ASGI application: routes, limits on reading and time, errors as JSON, and the OpenAPI description."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager

from pydantic_core import to_json
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route
from starlette.types import Receive, Scope, Send

from .limits import Refusal
from .logs import log
from .openapi import description
from .page.answers import HEADERS as PAGE_HEADERS
from .page.answers import Page
from .page.answers import files as page_files
from .service import Service

JSON, TEXT = b"application/json", b"text/plain; version=0.0.4; charset=utf-8"
# From the body, or for a query the query string, to the payload, and its media type where it is not always the same.
Answer = Callable[[bytes], Awaitable[bytes | tuple[bytes, bytes]]]


def make_app(service: Service) -> Starlette:
    """The application that answers for a service."""
    openapi = to_json(description())

    async def openapi_json(body: bytes) -> bytes:
        return openapi

    routes = [
        _route(service, "/recommend", "POST", service.recommend),
        _route(service, "/similar", "POST", service.similar),
        _route(service, "/items", "POST", service.items),
        _route(service, "/health", "GET", service.health),
        _route(service, "/metrics", "GET", service.measured, TEXT),
        _route(service, "/openapi.json", "GET", openapi_json),
    ]
    if service.catalogue.page is not None:
        routes += _page_routes(service)

    @asynccontextmanager
    async def lifespan(app: Starlette) -> AsyncIterator[None]:
        service.batcher.start()
        yield
        await service.batcher.stop()

    async def not_found(request: Request, error: Exception) -> Response:
        status = error.status_code if isinstance(error, HTTPException) else 500
        headers = error.headers if isinstance(error, HTTPException) else None
        paths = ", ".join(route.path for route in routes)
        allowed = (headers or {}).get("Allow", "another method")
        text = {
            404: f"there is no such path; the paths are {paths}",
            405: f"this path has another method; use {allowed}",
        }
        sentence = text.get(status, "the request cannot be answered")
        service.metrics.answered("other", status, 0.0)
        log("request", path="other", status=status, seconds=0.0, error=sentence)
        return Response(to_json({"error": sentence}), status, headers, JSON.decode())

    app = Starlette(routes=routes, lifespan=lifespan, exception_handlers={HTTPException: not_found})
    app.router.redirect_slashes = False  # it would answer /recommend/ with a redirect to the host that the client names
    return app


def _route(service: Service, path: str, method: str, answer: Answer, kind: bytes = JSON) -> Route:
    return Route(path, Endpoint(service, path, answer, kind), methods=[method])


def _page_routes(service: Service) -> list[Route]:
    page, files = Page(service), page_files()

    def static(name: str) -> Answer:
        async def answer(body: bytes) -> tuple[bytes, bytes]:
            return files[name]

        return answer

    routes = [_page_route(service, "/", "GET", static("page.html"))]
    routes += [_page_route(service, f"/page/{name}", "GET", static(name)) for name in files if name != "page.html"]
    routes += [
        _page_route(service, f"/page/{name}", method, answer, query=name == "picture")
        for name, method, answer in (
            ("start", "GET", page.start),
            ("map", "GET", page.map),
            ("picture", "GET", page.picture),
            ("find", "POST", page.find),
            ("person", "POST", page.person),
            ("item", "POST", page.item),
            ("cold", "POST", page.cold),
        )
    ]
    return routes


def _page_route(service: Service, path: str, method: str, answer: Answer, query: bool = False) -> Route:
    endpoint = Endpoint(service, path, answer, JSON, PAGE_HEADERS, query)
    return Route(path, endpoint, methods=[method])


class Endpoint:
    """Reads the body of a request, answers, and turns every error into an answer.

    It speaks ASGI directly, because Request and Response objects take longer than the ranking of a small catalogue.
    """

    def __init__(
        self,
        service: Service,
        path: str,
        answer: Answer,
        kind: bytes,
        headers: Sequence[tuple[bytes, bytes]] = (),
        query: bool = False,
    ) -> None:
        self.service, self.path, self.answer, self.kind = service, path, answer, kind
        self.headers, self.query = list(headers), query

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        service, started = self.service, time.perf_counter()
        status, kind, sent, error = 200, self.kind, False, None
        headers: list[tuple[bytes, bytes]] = []
        service.active += 1
        try:
            async with asyncio.timeout(service.limits.seconds):
                try:
                    if service.active > service.limits.requests and self.path not in ("/health", "/metrics"):
                        raise Refusal(503, "too many requests at the same time; try again", retry=True, close=True)
                    body = await self._body(scope, receive)
                    found = await self.answer(scope["query_string"] if self.query else body)
                    payload, kind = found if isinstance(found, tuple) else (found, kind)
                except Refusal as refusal:
                    status, kind, headers, error = refusal.status, JSON, refusal.headers, refusal.sentence
                    payload = to_json({"error": error})
                sent = True
                await _send(send, status, kind, [*headers, *self.headers], payload)
        except TimeoutError:
            error = f"the request took longer than {service.limits.seconds:g} seconds"
            if sent:
                status, error = 499, "the client did not read the answer"  # the server closes the connection
            else:
                status = 503
                headers = Refusal(status, error, retry=True, close=True).headers
                await _send(send, status, JSON, headers, to_json({"error": f"{error}; try again"}))
        except ClientGone:
            status, error = 499, "the client closed the connection"
        except Exception as failure:
            if sent:  # the server has closed the connection, because the client did not read an earlier answer
                status, error = 499, "the client closed the connection"
            else:
                status, error = 500, "unexpected error"
                log("error", logging.ERROR, failure, path=self.path)
                text = {"error": "the service has failed to answer; its log has the reason"}
                await _send(send, status, JSON, [], to_json(text))
        finally:
            service.active -= 1
            seconds = time.perf_counter() - started
            service.metrics.answered(self.path, status, seconds)
            if error is not None or service.log_requests:
                level = logging.INFO if status < 500 else logging.WARNING
                log("request", level, path=self.path, status=status, seconds=round(seconds, 6), error=error)

    async def _body(self, scope: Scope, receive: Receive) -> bytes:
        """The body. Raises Refusal as soon as it is too large, and ClientGone."""
        most = self.service.limits.body
        for name, value in scope["headers"]:
            if name == b"content-length" and value.isdigit() and int(value) > most:
                raise self._too_large(most)
        parts, size, more = [], 0, True
        while more:
            message = await receive()
            if message["type"] == "http.disconnect":
                raise ClientGone
            part = message.get("body", b"")
            size += len(part)
            if size > most:
                raise self._too_large(most)
            parts.append(part)
            more = message.get("more_body", False)
        return b"".join(parts)

    @staticmethod
    def _too_large(most: int) -> Refusal:
        return Refusal(413, f"the body is larger than {most} bytes; send several requests")


class ClientGone(Exception):
    """The client has closed the connection before its request was complete."""


async def _send(send: Send, status: int, kind: bytes, headers: list[tuple[bytes, bytes]], payload: bytes) -> None:
    headers = [(b"content-type", kind), (b"content-length", str(len(payload)).encode()), *headers]
    await send({"type": "http.response.start", "status": status, "headers": headers})
    await send({"type": "http.response.body", "body": payload})
