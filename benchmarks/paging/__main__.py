"""Runs `python -m benchmarks.paging`."""

import sys

from benchmarks.paging.measure import main

sys.exit(main())
