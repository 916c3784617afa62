"""Stops a stack in an order in which no running stream is cut and no process stays behind.

`serve.shutdown()` alone kills HAProxy first and with it every stream, waits for at most 30 s, and a stopped driver
leaves HAProxy holding its port (Ray 2.60). So new connections are refused first, running requests finish, then Ray
Serve and Ray are stopped, and remaining processes are ended.
"""

import asyncio
import signal
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from types import FrameType
from typing import Any

from serving.launch.haproxy_admin import refuse_new_connections, running_requests
from serving.launch.instance import Instance
from serving.launch.ports import end_processes, haproxies_of, ray_processes_of
from specs.errors import LearnwareError

_POLL_S = 0.2
"""Seconds between two looks at the running requests."""

_REPORT_S = 5.0
"""Seconds between two messages about how many requests are awaited."""

_CONFIRMATIONS = 2
"""Number of looks in a row that must find no running request: one whose router is being asked is counted in no backend
yet."""

SERVE_SHUTDOWN_S = 20.0
"""Seconds that Ray Serve may take to stop its replicas, which are idle by then. After that Ray is stopped, which ends
them."""

RAY_EXIT_S = 5.0
"""Seconds that Ray's processes may take to end by themselves after `ray.shutdown()`."""


class StopSignals:
    """SIGTERM and Ctrl-C as two events: the first signal asks to stop, any further one to hurry. To be used in the main
    thread."""

    def __init__(self) -> None:
        self.stop = threading.Event()
        self.hurry = threading.Event()

    def install(self) -> None:
        """Takes over both signals; Ray's own handlers would end the driver at once."""
        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, self._handle)

    def _handle(self, _number: int, _frame: FrameType | None) -> None:
        (self.hurry if self.stop.is_set() else self.stop).set()


def stop_stack(
    instance: Instance, *, say: Callable[[str], None], drain_seconds: float, hurry: threading.Event | None = None
) -> bool:
    """Stops the stack that this process started, even a half-started one, so that none of its processes is left.

    `drain_seconds` bounds how long running requests may go on; `hurry`, when set, ends that wait and every later one.
    Returns whether every request finished.
    """
    hurry = hurry or threading.Event()
    finished = drain(instance, say=say, drain_seconds=drain_seconds, hurry=hurry)
    say("Stopping Ray Serve and Ray")
    _shut_down_serve(SERVE_SHUTDOWN_S, hurry)
    _shut_down_ray()
    if not hurry.is_set():
        _wait_for_exit(instance, RAY_EXIT_S)
    if ended := end_processes([*haproxies_of(instance.folder), *ray_processes_of(instance.folder)]):
        say(f"Ended {len(ended)} processes that had not stopped by themselves")
    say("Stopped")
    return finished


def drain(instance: Instance, *, say: Callable[[str], None], drain_seconds: float, hurry: threading.Event) -> bool:
    """Refuses new connections and waits for running requests, at most `drain_seconds` or until `hurry` is set. Returns
    whether every one finished."""
    try:
        refuse_new_connections(instance)
    except OSError:
        return True  # HAProxy never came up, or is gone: there is nothing to wait for
    except LearnwareError as error:
        say(str(error))  # those that come meanwhile are waited for like the others
    deadline = time.monotonic() + drain_seconds
    next_report = 0.0
    quiet = 0
    while quiet < _CONFIRMATIONS:
        running = running_requests(instance)
        quiet = quiet + 1 if running == 0 else 0
        now = time.monotonic()
        if now >= deadline or hurry.is_set():
            if running:
                say(f"Not waiting any longer for {running} running request(s)")
            return running == 0
        if running and now >= next_report:
            say(f"No new requests; up to {deadline - now:.0f} s for {running} running one(s) to finish (Ctrl-C: now)")
            next_report = now + _REPORT_S
        hurry.wait(_POLL_S)
    return True


def _shut_down_serve(timeout_s: float, hurry: threading.Event) -> None:
    """Runs `serve.shutdown()` and gives it up when its time is over or the operator is impatient.

    It is given up and not left to a thread: a thread that is still in a call of Ray's when Ray is shut down ends this
    process.
    """
    import ray

    if ray.is_initialized():  # without a Ray, Ray Serve would start one
        _quietly(lambda: asyncio.run(_shut_down_serve_within(timeout_s, hurry)))


async def _shut_down_serve_within(timeout_s: float, hurry: threading.Event) -> None:
    from ray import serve

    shutdown = asyncio.ensure_future(serve.shutdown_async())
    deadline = time.monotonic() + timeout_s
    while not shutdown.done() and time.monotonic() < deadline and not hurry.is_set():
        await asyncio.wait([shutdown], timeout=_POLL_S)
    shutdown.cancel()
    await asyncio.gather(shutdown, return_exceptions=True)


def _shut_down_ray() -> None:
    import ray

    _quietly(ray.shutdown)


def _quietly(function: Callable[[], Any]) -> None:
    """Calls `function` and ignores its errors, because stopping goes on whatever is wrong with the stack."""
    with suppress(Exception):
        function()


def _wait_for_exit(instance: Instance, timeout_s: float) -> None:
    deadline = time.monotonic() + timeout_s
    while time.monotonic() < deadline and (haproxies_of(instance.folder) or ray_processes_of(instance.folder)):
        time.sleep(_POLL_S)
