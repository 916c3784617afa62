"""Runs `python -m benchmarks.harm`."""

import sys

from benchmarks.harm.evaluate import main

sys.exit(main())
