"""Runs `python -m benchmarks.privacy`."""

import sys

from benchmarks.privacy.measure import main

sys.exit(main())
