"""The trainer behind the command ``mmssl-fast``."""
