"""mmssl-fast, in which rank 1 has another version or other data than rank 0.

different.py TORCH|VERSION|DATA ARGUMENTS
"""

import os
import sys
from dataclasses import replace

import torch
from mmssl_trainer.cli.main import main
from mmssl_trainer.runs import train
from mmssl_trainer.training import ranks

what, load_data = sys.argv.pop(1), train.load_data


def other_data(**options):
    data = load_data(**options)
    return replace(data.with_modalities(["text"]), features=data.features)


if os.environ["RANK"] == "1":
    if what == "TORCH":
        torch.__version__ = "2.11.0"
    elif what == "VERSION":
        ranks.__version__ = "0.1.9"
    else:
        train.load_data = other_data
sys.exit(main())
