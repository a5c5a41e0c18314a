"""Starts commands as one or several ranks."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

HERE = Path(__file__).parent


def torchrun(n: int, *command: object, seconds: float = 90) -> subprocess.CompletedProcess:
    """Run `command` as n ranks with one thread each on the loopback interface. It is terminated after `seconds`."""
    start = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", str(n)]
    return run([*start, *map(str, command)], seconds)


def environment() -> dict[str, str]:
    """One thread a rank, the loopback interface, the installed package wherever the tests are started from, and an
    error for what torch.distributed is about to drop."""
    return os.environ | {
        "OMP_NUM_THREADS": "1",
        "GLOO_SOCKET_IFNAME": "lo",
        "PYTHONPATH": os.pathsep.join(filter(None, (str(HERE), os.environ.get("PYTHONPATH")))),
        "PYTHONSAFEPATH": "1",
        "PYTHONWARNINGS": "error::FutureWarning",
    }


def run(
    command: list[str], seconds: float = 90, variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess:
    """A command that starts ranks, with further environment variables."""
    environ = environment() | dict(variables or {})
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environ)
    try:
        out, err = process.communicate(timeout=seconds)
    except subprocess.TimeoutExpired:
        process.terminate()  # torchrun passes it on
        out, err = process.communicate(timeout=40)
    return subprocess.CompletedProcess(command, process.returncode, out, err)


def with_fault(fault: str, *arguments: str) -> subprocess.CompletedProcess:
    """`mmssl-fast` with these arguments on two ranks, with a fault of faulty.py. Prints what `launch` returns."""
    start = "import sys; from mmssl_fast.distributed.ranks import launch; print(launch(2, sys.argv[1:]))"
    return run([sys.executable, "-c", start, sys.executable, str(HERE / "faulty.py"), fault, *arguments])
