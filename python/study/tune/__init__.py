"""`mmssl-fast tune`: search spaces, the hyper-parameter search, and its record."""
