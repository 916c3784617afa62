"""Runs `python -m benchmarks.evaluation`."""

import sys

from benchmarks.evaluation.measure import main

sys.exit(main())
