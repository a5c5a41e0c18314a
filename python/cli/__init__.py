"""The command mmssl-fast, with one file for each command. app.py lists the commands; options.py has shared options."""
