"""Makes ``python -m mmssl_trainer`` the same command as ``mmssl-fast``."""

import sys

from .cli.main import main

sys.exit(main())
