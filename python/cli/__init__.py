"""The command mmssl-fast, one file a command. Serves people at a terminal; from Python there is api.py."""
