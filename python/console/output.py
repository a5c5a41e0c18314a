"""The consoles for stdout and stderr."""

from rich.console import Console

OUT = Console(highlight=False, soft_wrap=True)
ERR = Console(stderr=True, highlight=False, soft_wrap=True)


quiet = False  # of a process that works for another


def draw_no_bars() -> None:
    """For a process whose stderr is another's terminal: neither bars nor a line an epoch."""
    global ERR, quiet
    quiet = True
    ERR = Console(stderr=True, highlight=False, soft_wrap=True, force_terminal=False)
