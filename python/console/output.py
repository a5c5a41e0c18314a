"""The consoles for stdout and stderr."""

from rich.console import Console

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


quiet = False  # True in a worker process


def disable_progress_bars() -> None:
    """Treat stderr as no terminal, and print no line for each epoch. For a worker process, whose bars and lines would
    overwrite those of its parent."""
    global ERR, quiet
    quiet = True
    ERR = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=False)
