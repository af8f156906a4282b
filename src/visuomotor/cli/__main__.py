"""`python -m visuomotor.cli` is `visuomotor`."""

import sys

from visuomotor.cli import main

if __name__ == "__main__":  # not in the worker processes that are spawned from here
    sys.exit(main())
