"""Gives memory that a process has freed back to the system.

glibc keeps what was freed for the next allocation. An engine allocates tensors of ever other sizes, among them the
log-probabilities of long prompts (tens of MiB), and leaves gaps that nothing fits: the process grows with each
learnware that is tried. `malloc_trim` returns the gaps' pages, wherever they lie, in some milliseconds.
"""

import ctypes
import threading

PERIOD_S = 30.0
"""Seconds between two times."""


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
