"""What the tests of hostile files share: Hypothesis settings, damaged files, a watch on memory."""

import os
import tracemalloc
from contextlib import contextmanager

from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from mmssl_trainer.data import InputError

FUZZ = settings(
    max_examples=int(os.environ.get("MMSSL_FAST_FUZZ", "150")),
    deadline=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
BYTES = st.binary(max_size=400)


@contextmanager
def within_64_mib():
    """Fails when Python and NumPy held more than 64 MiB at once."""
    tracemalloc.start()
    try:
        yield
        assert tracemalloc.get_traced_memory()[1] < 1 << 26
    finally:
        tracemalloc.stop()


def mutations(content):
    """The content with up to eight bytes changed and perhaps the end cut off."""

    def change(edits, cut):
        out = bytearray(content)
        for at, byte in edits:
            out[at % len(out)] = byte
        return bytes(out[: len(out) - cut % len(out)])

    places = st.tuples(st.integers(0, max(len(content) - 1, 0)), st.integers(0, 255))
    return st.builds(change, st.lists(places, max_size=8), st.just(0) | st.integers(0, len(content)))


def survives(read, path, content):
    """Whatever the content, the reader returns or raises InputError."""
    path.write_bytes(content)
    try:
        return read(path)
    except InputError as error:
        assert str(path.name) in str(error) and "\n" not in str(error)
        return None
