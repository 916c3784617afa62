"""`python -m serving.cli`: the console command without its script."""

import sys

from serving.cli.main import main

sys.exit(main())
