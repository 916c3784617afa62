"""Ends a process of an engine when the one that started it is gone.

vLLM 0.29's engine core has no tie to its front end: when that is killed, the core stays, with its memory and its
device. A worker notices that its core is gone, but may take a minute to end.
"""

import logging
import os
import signal
import threading
import time

logger = logging.getLogger(__name__)

LOOK_S = 1.0
"""Seconds between two looks at whether the parent lives. (Linux could send a signal instead, `PR_SET_PDEATHSIG`, but
does so when the *thread* that started the child ends.)"""


def end_with_parent() -> None:
    """Kills this process, from a thread, once it has another parent than now."""
    threading.Thread(target=_watch, args=(os.getppid(),), name="parent-watch", daemon=True).start()


def _watch(parent: int) -> None:
    while os.getppid() == parent:
        time.sleep(LOOK_S)
    logger.error("the process that started this one is gone; it ends too")
    os.kill(os.getpid(), signal.SIGKILL)
