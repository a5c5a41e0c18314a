"""Commands in a child process, and shell scripts that stand in for programs."""

import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]


def run(*command, check=True, cwd=ROOT, **environment):
    environment = {**os.environ, "OMP_NUM_THREADS": "1", **environment}
    result = subprocess.run(command, cwd=cwd, env=environment, capture_output=True, text=True)
    assert not check or result.returncode == 0, result.stdout + result.stderr
    return result


def python(code, **options):
    """Runs code against the installed package: without PYTHONSAFEPATH the source tree would come first."""
    return run(sys.executable, "-c", code, PYTHONSAFEPATH="1", **options)


def script(path, *lines):
    """Writes an executable shell script."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("\n".join(["#!/bin/sh", *lines, ""]))
    path.chmod(0o755)
