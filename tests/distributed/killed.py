"""mmssl-fast, in which rank 1 is killed in the second epoch unless it has been restarted."""

import os
import signal
import sys

from mmssl_trainer.cli.main import main
from mmssl_trainer.training.checkpoints import Checkpoints

visit = Checkpoints.visit


def killed(self, system, fit, position, epoch_ended=False):
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], fit.step) == ("1", "0", 12):
        os.kill(os.getpid(), signal.SIGKILL)
    visit(self, system, fit, position, epoch_ended)


Checkpoints.visit = killed
sys.exit(main())
