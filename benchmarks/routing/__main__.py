"""Runs `python -m benchmarks.routing`, with one thread in every thread pool."""

import os
import sys

THREAD_LIMITS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "RAYON_NUM_THREADS")

if any(os.environ.get(name) != "1" for name in THREAD_LIMITS):
    # Thread pools read these when numpy and the tokenizer are imported: start anew, before that.
    limited = os.environ | dict.fromkeys(THREAD_LIMITS, "1")
    os.execve(sys.executable, [sys.executable, "-m", "benchmarks.routing", *sys.argv[1:]], limited)  # noqa: S606 (itself)

from benchmarks.routing.measure import main  # noqa: E402 (only now)

sys.exit(main())
