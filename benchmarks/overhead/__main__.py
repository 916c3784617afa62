"""Runs `python -m benchmarks.overhead`."""

import sys

from benchmarks.common.load import LoadError
from benchmarks.overhead.compare import main

try:
    sys.exit(main())
except LoadError as error:
    sys.exit(f"the measurement is void: {error}")
