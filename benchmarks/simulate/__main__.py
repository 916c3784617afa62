"""Runs `python -m benchmarks.simulate`."""

import sys

from benchmarks.simulate.study import main

sys.exit(main())
