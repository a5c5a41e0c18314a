"""The command mmssl-fast: one file for each command, app.py with their table, options.py with what several take."""
