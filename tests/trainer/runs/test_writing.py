"""Files and folders appear only when they are complete, also if the process is terminated."""

import signal
import subprocess
import sys

import pytest

TERMINATED = """
import os, signal, sys, time
from pathlib import Path
from mmssl_trainer.files import replacing, whole_folder

with {writer}(Path(sys.argv[1])) as temporary:
    written = temporary / "part" if temporary.is_dir() else temporary
    written.write_text("half of it")
    os.kill(os.getpid(), signal.SIGTERM)
    time.sleep(60)
"""


@pytest.mark.parametrize("writer", ["replacing", "whole_folder"])
def test_sigterm_removes_what_was_written_and_ends_the_process(tmp_path, writer):
    script = TERMINATED.format(writer=writer)
    process = subprocess.run([sys.executable, "-c", script, str(tmp_path / "out")], timeout=50, check=False)
    assert process.returncode == -signal.SIGTERM
    assert not list(tmp_path.iterdir())


def test_another_handler_of_sigterm_is_kept(tmp_path):
    from mmssl_trainer.files import write_text

    received = []
    before = signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    try:
        write_text(tmp_path / "a", "text")
        signal.raise_signal(signal.SIGTERM)
    finally:
        signal.signal(signal.SIGTERM, before)
    write_text(tmp_path / "b", "text")
    assert received == [signal.SIGTERM] and signal.getsignal(signal.SIGTERM) is before
