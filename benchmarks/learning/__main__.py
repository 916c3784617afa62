"""Runs `python -m benchmarks.learning`."""

import sys

from benchmarks.learning.evaluate import main

sys.exit(main())
