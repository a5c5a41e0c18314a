"""python benchmarks/clients/run.py CLIENT CHECKOUT [options]: see driver.py; CLIENT is a file of this folder."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))

from driver import main

if __name__ == "__main__":
    main()
