"""Runs the console command without its script: `python -m serving.cli`."""

import sys

from serving.cli.main import main

sys.exit(main())
