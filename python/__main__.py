"""``python -m mmssl_trainer`` is the command ``mmssl-fast``."""

import sys

from .cli.main import main

sys.exit(main())
