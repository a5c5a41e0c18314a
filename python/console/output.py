"""The consoles for stdout and stderr."""

from rich.console import Console

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


def disable_progress_bars() -> None:
    """Treat stderr as no terminal. For a worker process, whose bars would overwrite those of its parent."""
    global ERR
    ERR = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=False)
