"""The configuration of a run: sections, defaults, validation, and reading and writing TOML."""
