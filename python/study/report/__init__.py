"""The page of `mmssl-fast report`."""
