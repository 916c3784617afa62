"""Runs `python -m benchmarks.selection`."""

import sys

from benchmarks.selection.evaluate import main

sys.exit(main())
