"""A disk that is full: the operating system refuses to write beyond a size."""

import resource
from contextlib import contextmanager


@contextmanager
def full_disk(size):
    """Context manager: no file of this process can become larger than `size` bytes."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
