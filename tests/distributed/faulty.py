"""mmssl-fast, in which something happens to rank 1 in step 12, in the second epoch, unless the ranks were restarted.

faulty.py KILL|MEMORY|DISK ARGUMENTS      KILL: SIGKILL. MEMORY: an op raises torch's out-of-memory error. DISK: no file
can become larger than 4 KiB, as on a full disk.
"""

import os
import resource
import signal
import sys

import torch
from mmssl_trainer.cli.main import main
from mmssl_trainer.systems.base import ModuleSystem

fault = sys.argv.pop(1)
step, taken = ModuleSystem.step, [0]


def faulty(self, batch):
    taken[0] += 1
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], taken[0]) == ("1", "0", 13):
        if fault == "KILL":
            os.kill(os.getpid(), signal.SIGKILL)
        if fault == "DISK":
            resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096))
            return step(self, batch)
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 9.00 GiB")
    return step(self, batch)


ModuleSystem.step = faulty
sys.exit(main())
