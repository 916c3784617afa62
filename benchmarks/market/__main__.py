"""Runs `python -m benchmarks.market`."""

import sys

from benchmarks.market.evaluate import main

sys.exit(main())
