"""What a run needs of memory, reckoned before it starts, and what happens where that was not enough. Serves training/
and the commands that plan."""
