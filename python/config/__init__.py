"""What a run is made of, as sections of keys: defaults, checks, TOML. Serves every room above it."""
