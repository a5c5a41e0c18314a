"""Runs one nvcc command with -Xptxas -v, prints a line a kernel, and fails when a kernel spills registers.

    python ptxas_gate.py nvcc -c x.cu -o x.o -arch=sm_90 -Xptxas -v ...

A spill goes to local memory, which is device memory: a kernel that spills is slower than one with smaller tiles.
"""

import re
import subprocess
import sys
from pathlib import Path

KERNEL = re.compile(r"Compiling entry function '(\S+)' for '(\S+)'")
SPILLS = re.compile(r"(\d+) bytes spill stores, (\d+) bytes spill loads")
REGISTERS = re.compile(r"Used (\d+) registers")


def kernels(report):
    """(name, architecture, registers, bytes spilled) of every kernel in what ptxas -v printed."""
    found = []
    for line in report.splitlines():
        if match := KERNEL.search(line):
            found.append([match[1], match[2], None, 0])
        elif found and (match := SPILLS.search(line)):
            found[-1][3] += int(match[1]) + int(match[2])
        elif found and (match := REGISTERS.search(line)):
            found[-1][2] = int(match[1])
    return found


def main(command):
    result = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    if result.returncode != 0:
        sys.exit(result.stdout)
    print("\n".join(line for line in result.stdout.splitlines() if "warning" in line))
    spilled = False
    for name, arch, registers, spill in kernels(result.stdout):
        print(f"{arch} {registers:3d} registers {spill:4d} bytes spilled  {name}")
        spilled = spilled or spill > 0
    if spilled:
        Path(command[command.index("-o") + 1]).unlink(missing_ok=True)
        sys.exit("CUDA gate: a kernel spills registers; use smaller tiles or __launch_bounds__")


if __name__ == "__main__":
    main(sys.argv[1:])
