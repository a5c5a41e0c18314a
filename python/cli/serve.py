"""mmssl-fast serve: recommendations over HTTP."""

from __future__ import annotations

import signal
from pathlib import Path
from typing import Annotated, Literal

import typer

from .options import NearestOption, NewItemsOption, RunPath, SpreadOption


def serve(
    run: RunPath,
    host: Annotated[str, typer.Option(help="Address to listen on.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(min=0, max=65535, help="Port to listen on; 0 chooses a free one.")] = 8000,
    exclude: Annotated[
        Literal["train", "all"],
        typer.Option(help="Interactions to exclude: train, or all (training, validation and test)."),
    ] = "train",
    new_items: NewItemsOption = None,
    nearest: NearestOption = 0,
    spread: SpreadOption = 1.0,
    items: Annotated[
        Path | None, typer.Option(help="Table with a column item, for --filter-column and --page.")
    ] = None,
    filter_columns: Annotated[
        list[str] | None,
        typer.Option(
            "--filter-column",
            metavar="COLUMN",
            help="Column of --items by whose values requests may choose items. May be given several times.",
        ),
    ] = None,
    page: Annotated[
        bool, typer.Option("--page", help="Also show a page, at /, with histories, lists and a map of the items.")
    ] = False,
    title: Annotated[str | None, typer.Option(help="Column of --items with titles, for the page.")] = None,
    image: Annotated[str | None, typer.Option(help="Column of --items with file names of pictures.")] = None,
    images: Annotated[Path | None, typer.Option(help="Folder of the pictures.")] = None,
    colour: Annotated[str | None, typer.Option(help="Column of --items that colours the map.")] = None,
    threads: Annotated[
        int | None,
        typer.Option(
            min=1, max=1024, help="CPU threads of the ranking. [default: all processors but one]", show_default=False
        ),
    ] = None,
    max_k: Annotated[int, typer.Option(help="Maximum length of a list.")] = 1000,
    max_lists: Annotated[int, typer.Option(help="Maximum number of lists in a request.")] = 256,
    max_ids: Annotated[
        int,
        typer.Option(
            help="Maximum number of ids in a history, in exclude and in candidates, and of values of a filter."
        ),
    ] = 10_000,
    max_body: Annotated[int, typer.Option(help="Maximum size of a request in bytes.")] = 1 << 20,
    max_waiting: Annotated[
        int, typer.Option(help="Maximum number of waiting lists; more are refused with 503.")
    ] = 4096,
    max_requests: Annotated[
        int, typer.Option(help="Maximum number of requests that are answered at the same time.")
    ] = 1024,
    max_connections: Annotated[int, typer.Option(help="Maximum number of open connections.")] = 4096,
    timeout: Annotated[
        float,
        typer.Option(
            help="Seconds for a header to arrive, for a request to be answered, and for an answer to be read."
        ),
    ] = 10.0,
    log_requests: Annotated[bool, typer.Option(help="Log every request, not only those with an error.")] = False,
) -> None:
    """Answer requests for recommendations and similar items over HTTP, until the process is terminated. SIGHUP loads
    the model again."""
    signal.signal(signal.SIGHUP, signal.SIG_IGN)  # until the server can reload; the model has not been read yet
    from ..errors import InputError, needed

    for name in ("starlette", "uvicorn", "httptools", "prometheus_client"):
        needed(name, "serve")
    import torch

    from ..serving.limits import Limits
    from ..serving.page.content import PageOptions
    from ..serving.server import run as run_server
    from ..serving.service import Service
    from ..serving.sources import Sources
    from ..threads import available

    limits = Limits(
        max_body, max_lists, max_k, max_ids, max_waiting, max_requests, max_connections, timeout, header_seconds=timeout
    )
    torch.set_num_threads(threads or max(1, available() - 1))
    shown = {"--title": title, "--image": image, "--images": images, "--colour": colour}
    for name, value in shown.items():
        if value is not None and not page:
            raise InputError(f"{name} is for --page; give both")
    sources = Sources(
        Path(run),
        exclude,
        tuple(new_items or ()),
        nearest,
        spread,
        items,
        tuple(filter_columns or ()),
        PageOptions(items, title, image, images, colour) if page else None,
    )
    run_server(lambda: Service(sources.load, limits, log_requests), host, port)
