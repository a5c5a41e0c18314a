"""What a client may ask for, and how a request is refused."""

from __future__ import annotations

import math
from dataclasses import dataclass, fields

from ..errors import InputError


@dataclass(frozen=True)
class Limits:
    """Limits of the service, which the options of `serve` set.

    body: bytes of a request. lists: lists that a request may ask for. k: items of a list. ids: ids in a history, in
    `exclude` and in `candidates`. waiting: lists that wait for the worker; more are refused. requests: requests that
    are answered at the same time. connections: open connections. seconds: time for a request to be read, computed and
    sent. header_seconds: time for a connection to send the header of a request.
    """

    body: int = 1 << 20
    lists: int = 256
    k: int = 1000
    ids: int = 10_000
    waiting: int = 4096
    requests: int = 1024
    connections: int = 4096
    seconds: float = 10.0
    header_seconds: float = 10.0

    def __post_init__(self) -> None:
        for field in fields(self):
            value = getattr(self, field.name)
            if not value > 0 or math.isinf(value):
                raise InputError(f"{option(field.name)} {value}: must be above 0 and finite")


def option(limit: str) -> str:
    """The option of `serve` that sets a limit, for messages."""
    return "--timeout" if limit in ("seconds", "header_seconds") else f"--max-{limit}"


class Refusal(Exception):
    """A request that is answered with an error. status: HTTP status. sentence: what is wrong, and what to do."""

    def __init__(self, status: int, sentence: str, retry: bool = False, close: bool = False) -> None:
        super().__init__(sentence)
        self.status, self.sentence = status, sentence
        self.headers: list[tuple[bytes, bytes]] = []
        if retry:
            self.headers.append((b"retry-after", b"1"))
        if close:  # the rest of the request is not read
            self.headers.append((b"connection", b"close"))
