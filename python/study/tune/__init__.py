"""`mmssl-fast tune`: the space that is searched, the search, and its record."""
