"""The consoles for stdout and stderr."""

from rich.console import Console

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


quiet = False  # True in a worker process


def disable_progress_bars() -> None:
    """Show neither progress bars nor lines per epoch. For worker processes, whose output would mix with that of the
    parent."""
    global ERR, quiet
    quiet = True
    ERR = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=False)
