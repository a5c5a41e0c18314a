"""`mmssl-fast report`: the report page and its templates."""
