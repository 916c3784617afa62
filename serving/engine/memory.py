"""Keeps a worker's memory from growing with the variety of what it computes.

oneDNN keeps the code that it has generated for each shape of a product, 1,024 by default. On an engine the number of
tokens in a step is part of the shape, so nearly each new length of a batch adds some, up to hundreds of MiB. Few are
enough: vLLM's layers keep the ones they use (32 each), and all layers of a step ask for the same.

glibc keeps what was freed for the next allocation, and tensors of ever other sizes, log-probabilities of long prompts
among them, leave gaps that nothing fits. `malloc_trim` returns the gaps' pages, wherever they lie, in some
milliseconds.
"""

import ctypes
import os
import threading

PERIOD_S = 30.0
"""Seconds between two times that freed memory is given back."""
CAPACITY_VARIABLE = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
"""Environment variable that oneDNN reads when it makes its first product."""
CAPACITY = 32
"""Products whose code is kept besides those that layers keep: eight lengths of a batch of a model whose layers have
four shapes."""


def bound_generated_code() -> None:
    """Bounds the code that oneDNN keeps in this process, unless the operator's environment says how much; to be called
    before its first product."""
    os.environ.setdefault(CAPACITY_VARIABLE, str(CAPACITY))


def give_back() -> bool:
    """Returns freed pages to the system; returns whether there were any. Does nothing where the C library is another
    than glibc."""
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    return bool(trim is not None and trim(0))


def keep_giving_back(period_s: float = PERIOD_S) -> threading.Event:
    """Calls `give_back` every `period_s` seconds in a thread of its own, until the event that is returned is set."""
    stop = threading.Event()

    def run() -> None:
        while not stop.wait(period_s):
            give_back()

    threading.Thread(target=run, name="freed-memory", daemon=True).start()
    return stop
