"""The watchdog of an engine replica: it notices an engine that hangs or is gone, and ends it for good.

vLLM 0.29 notices an engine core that exits. One that is stopped (SIGSTOP), or whose worker is, it does not: requests
wait for ever while the health check says that all is well. The watchdog pings the scheduler's and each worker's socket;
a thread answers there, so a long step is no hang. It also wants to see steps finished while requests are in the engine,
since a step itself can hang.

What it finds is final. The engine's processes are killed, which also works on stopped ones; all requests in flight end
at once; and the health check fails, so that Ray replaces the replica.
"""

import asyncio
import logging
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Any

import psutil

from serving.paging.gate import AdapterGate
from serving.paging.inflight import DeadEngine

logger = logging.getLogger("ray.serve")

PING_S = 1.5
"""Seconds between two pings."""
MISSES = 4
"""Pings in a row that a peer may leave unanswered: with `PING_S` it hangs for 6 to 7.5 s until that is noticed. They
are counted when the next one is due, not by the clock, so that a front end that was busy for as long blames nobody."""


class Watchdog:
    """The watchdog of one engine, in the event loop of its gate. `failure` says why the engine is given up."""

    def __init__(
        self,
        gate: AdapterGate,
        *,
        errored: Callable[[], bool],
        kill: Callable[[], None],
        stuck_step_s: float,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes a watchdog that does not run yet.

        Args:
            errored: returns whether vLLM itself has given the engine up.
            kill: kills the engine's processes.
            stuck_step_s: seconds without a finished step, while requests are in the engine, that count as a hang.
            clock: monotonic time in seconds.
        """
        self._gate = gate
        self._errored, self._kill = errored, kill
        self._stuck_step_s = stuck_step_s
        self._clock = clock
        self._found: str | None = None
        self._pings = 0
        self._steps: int | None = None
        self._progress_at = clock()
        self._task: asyncio.Task[None] | None = None

    def start(self) -> None:
        """Starts it in the running loop."""
        self._task = asyncio.create_task(self._watch())

    def stop(self) -> None:
        """Stops it, before the gate is closed on purpose."""
        if self._task is not None:
            self._task.cancel()

    @property
    def failure(self) -> str | None:
        """Why the engine cannot answer any more, None while it can."""
        if self._found is None and self._errored():
            return "it died"
        return self._found

    def check(self) -> None:
        """Raises DeadEngine when the engine cannot answer any more."""
        if self.failure is not None:
            raise DeadEngine(self.failure)

    async def _watch(self) -> None:
        while (found := self.look()) is None:  # noqa: ASYNC110 - nothing tells of silence but time
            await asyncio.sleep(PING_S)
        self._found = found
        logger.error("the engine is given up: %s; its processes are killed", found)
        self._gate.end_all(DeadEngine(found))
        await asyncio.to_thread(self._kill)

    def look(self) -> str | None:
        """Looks once, sends the next ping, and returns what is wrong with the engine, None when nothing is."""
        if self._errored():
            return "it died"
        for peer in self._gate.peers:
            if not peer.connected:
                return f"the connection to its {_named(peer.name)} ended"
            if self._pings - peer.answered >= MISSES:
                return f"its {_named(peer.name)} does not answer"
        if self._is_stuck():
            return f"it finished no step for {self._stuck_step_s:g} s"
        self._pings += 1
        for peer in self._gate.peers:
            peer.ping(self._pings)
        return None

    def _is_stuck(self) -> bool:
        """Returns whether no step was finished for too long; a scheduler that counts no steps is never stuck."""
        report = self._gate.residency.scheduler
        steps = None if report is None else report.get("steps")
        now = self._clock()
        if steps is None or steps != self._steps or not self._gate.entered:
            self._steps, self._progress_at = steps, now
        return now - self._progress_at > self._stuck_step_s


def _named(peer: str) -> str:
    return f"worker {peer}" if peer.isdigit() else peer


def kill_engine(engine_client: Any) -> None:
    """Kills the processes of an `AsyncLLM`'s engine core and all that they have started. Killing works on stopped
    processes too, which a termination signal does not reach."""
    for process in engine_client.engine_core.resources.engine_manager.processes:
        if process.exitcode is None:
            with suppress(psutil.NoSuchProcess):
                core = psutil.Process(process.pid)
                family = [*core.children(recursive=True), core]
                for one in family:
                    with suppress(psutil.NoSuchProcess):
                        one.kill()
