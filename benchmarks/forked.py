"""Ranks that are forked from the process of a benchmark, so that the libraries are imported once."""

from __future__ import annotations

import json
import os
import socket
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any


def result_of_ranks(size: int, work: Callable[[Path], None]) -> Any:
    """Call work(file) in `size` processes that mmssl_fast.distributed.start connects on this machine.

    Returns what the first of them has written to the file, as JSON. Ends this process, naming the rank, if one failed.
    """
    with tempfile.TemporaryDirectory() as folder, socket.create_server(("127.0.0.1", 0)) as server:
        out, port = Path(folder, "found.json"), server.getsockname()[1]
        server.close()
        ranks: list[int] = []
        for rank in range(size):
            if process := os.fork():
                ranks.append(process)
                continue
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": str(size), "LOCAL_RANK": str(rank)}
            os.environ |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
            try:
                work(out)
            except BaseException:
                traceback.print_exc()
                os._exit(1)
            os._exit(0)
        failed = [rank for rank, process in enumerate(ranks) if os.waitpid(process, 0)[1]]
        if failed:
            raise SystemExit(f"rank {failed[0]} of {size} failed")
        return json.loads(out.read_text())
