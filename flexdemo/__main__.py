"""`python -m flexdemo`: hands over to the command line."""

import os
import sys

os.environ.setdefault("GOMP_SPINCOUNT", "1000")  # as in app.py, before torch is imported

from .cli.main import main

if __name__ == "__main__":
    sys.exit(main())
