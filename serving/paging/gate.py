"""The admission gate: the front end gives a request to the engine only when its adapter is in host memory.

`open_gate` wraps the methods by which requests and adapters enter vLLM's `AsyncLLM`. Until an adapter is in host memory
nothing of its request reaches the scheduler, so no step reads a disk; an adapter that cannot be loaded fails the
requests that wait for it, with the reason, and no others. What has entered is ended from here too: when its time is
over, when nobody waits for its answer any more, and when the engine is gone (`serving.paging.inflight`).
"""

import asyncio
import itertools
import json
import logging
import time
from collections import Counter
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, aclosing, asynccontextmanager, contextmanager
from contextvars import ContextVar
from http import HTTPStatus
from pathlib import Path
from typing import Any, NamedTuple

from vllm.exceptions import GracefulHTTPError
from vllm.lora.request import LoRARequest
from vllm.sampling_params import RequestOutputKind

from serving.access.account import counted
from serving.access.caller import caller
from serving.paging.caller_params import with_caller
from serving.paging.idle import is_idle_work
from serving.paging.inflight import Inflight, TimeLimits, exchange, parameters_of, seconds_allowed
from serving.paging.residency import Residency
from serving.paging.sockets import SCHEDULER, socket_path
from serving.paging.usage import Meter, Usage
from serving.tracing.replica import engine_run
from specs.errors import AdapterUnavailable, StartupError

logger = logging.getLogger("ray.serve")

LINE_LIMIT = 64 << 20
"""Largest message in bytes: a report names every adapter in host memory."""

LIMITS_LOOK_S = 1.0
"""Seconds between two looks for requests whose time is over. One look at all of them costs less than a timer for each
token, and limits are tens of seconds."""

WORKER_GONE = "the engine's worker is gone"
"""Reason for which an adapter cannot be loaded when the connection to a worker has ended."""

_held: ContextVar[str | None] = ContextVar("held_adapter", default=None)
"""Engine name of the adapter that the running task already holds a lease of (`AdapterGate.hold`), or None."""


class AdapterNotLoaded(AdapterUnavailable, GracefulHTTPError):
    """Raised when an adapter could not be loaded, for `reason`. vLLM's handlers, too, answer it with status 503."""

    def __init__(self, name: str, reason: str) -> None:
        self.reason = reason
        message = f"The adapter of {name!r} could not be loaded: {reason}"
        GracefulHTTPError.__init__(self, message, HTTPStatus.SERVICE_UNAVAILABLE)


class _Asked(NamedTuple):
    """A lease that was asked for, by its number on the connection."""

    number: int
    granted: asyncio.Future[str | None]
    """Resolves to None once the adapter is in memory, or to the reason why it never will be."""


class Peer:
    """A connection to one worker or to the scheduler; `note` is called with each report that comes."""

    def __init__(self, path: Path, note: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._note = path, note
        self._waiting: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = itertools.count(1)
        self._open = False
        self.answered = 0
        """Number of the last ping that was answered."""

    @property
    def name(self) -> str:
        """The peer's name: a worker's rank, or `SCHEDULER`."""
        return self._path.stem.rpartition("-")[2]

    @property
    def connected(self) -> bool:
        """Whether the connection stands."""
        return self._open

    def ping(self, number: int) -> None:
        """Asks the peer for a sign of life; `answered` is `number` once it has come."""
        self.send({"ping": number})

    async def connect(self) -> None:
        """Connects and returns once the first report has come.

        Raises:
            OSError: no process listens there.
        """
        reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_LIMIT)
        self._path.unlink()  # no other process is to connect, and an engine that is killed leaves no file behind
        self._open = True
        self._reported = asyncio.Event()
        self._reading = asyncio.create_task(self._read(reader))
        await self._reported.wait()

    def ask(self, request: LoRARequest) -> _Asked:
        """Asks the worker for a lease; `release` ends it, granted or not."""
        asked = _Asked(next(self._numbers), asyncio.get_running_loop().create_future())
        if self._open:
            self._waiting[asked.number] = asked.granted
            self.send(
                {
                    "lease": asked.number,
                    "name": request.lora_name,
                    "id": request.lora_int_id,
                    "path": request.lora_path,
                }
            )
        else:
            asked.granted.set_result(WORKER_GONE)
        return asked

    def release(self, asked: _Asked) -> None:
        """Gives a lease back."""
        self._waiting.pop(asked.number, None)
        self.send({"release": asked.number})

    def send(self, message: dict[str, Any]) -> None:
        """Sends a message; it is lost when the peer is gone."""
        if self._open:
            self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def close(self) -> None:
        """Ends the connection, which gives its leases back."""
        self._reading.cancel()
        self._writer.close()
        await asyncio.gather(self._reading, return_exceptions=True)

    async def _read(self, reader: asyncio.StreamReader) -> None:
        try:
            async for line in reader:
                message = json.loads(line)
                if "report" in message:
                    self._note(message["report"])
                    self._reported.set()
                    continue
                if "pong" in message:
                    self.answered = message["pong"]
                    continue
                granted = self._waiting.pop(message.get("ready", message.get("failed")), None)
                if granted is not None and not granted.done():
                    granted.set_result(message.get("reason"))
        except (OSError, ValueError) as error:
            logger.error("the connection to %s broke: %s", self._path.name, error)
        finally:
            self._open = False
            self._reported.set()
            for granted in self._waiting.values():
                if not granted.done():
                    granted.set_result(WORKER_GONE)
            self._waiting.clear()


class AdapterGate:
    """The leases that one front end has with all workers of its engine, and the newest reports of workers and
    scheduler."""

    def __init__(self, instance: str, ranks: int, limits: TimeLimits | None = None) -> None:
        """Makes a gate that is not connected yet; `instance` is vLLM's `instance_id`, `ranks` the number of its
        workers, `limits` what a request may take (None: any time)."""
        self.residency = Residency(ranks)
        self._limits = limits or TimeLimits()
        self._inflight: set[Inflight] = set()
        self._looking: asyncio.Task[None] | None = None
        self.waiting = 0
        """Number of requests whose adapter is on its way into host memory."""
        self.entered = 0
        """Number of requests that were given to the engine and are not done. Here and above, idle work is none."""
        self.idle = 0
        """Number of runs of idle work (`serving.paging.idle`) that were given to the engine and are not done."""
        self.adapters: Counter[str] = Counter()
        """Number of requests in the engine by the engine name of their adapter, idle work among them."""
        self.on_entry: Callable[[], object] = _nothing
        """Called when a request is given to the engine, which idle work may be in the way of."""
        self._workers = [
            Peer(socket_path(instance, str(rank)), lambda report, rank=rank: self.residency.note_worker(rank, report))  # type: ignore[misc]
            for rank in range(ranks)
        ]
        self._scheduler = Peer(socket_path(instance, SCHEDULER), self.residency.note_scheduler)
        self.peers: list[Peer] = []
        """The connections to the workers and the scheduler."""
        self._prefetches: dict[str, asyncio.Task[None]] = {}
        self.on_usage: Callable[[Usage], object] = lambda _: None
        """Called with what each client's request took, when it has ended; a replica's own trials are none."""

    async def connect(self, *, paged: bool) -> None:
        """Connects to the workers and, if the engine runs this project's scheduler (`paged`), to the scheduler.

        Raises:
            OSError: a process of the engine does not listen on this machine.
        """
        for peer in [*self._workers, *([self._scheduler] if paged else [])]:
            await peer.connect()
            self.peers.append(peer)
        self._looking = asyncio.create_task(self._look_for_late_ones())

    async def close(self) -> None:
        """Cancels prefetches and ends the connections."""
        if self._looking is not None:
            self._looking.cancel()
        for task in self._prefetches.values():
            task.cancel()
        for peer in self.peers:
            await peer.close()

    @asynccontextmanager
    async def lease(self, request: LoRARequest) -> AsyncIterator[None]:
        """Leases the adapter: inside the context it is in the host memory of every worker. A task that holds it already
        (`hold`) gets no second lease.

        Raises:
            AdapterUnavailable: the adapter cannot be loaded.
        """
        if _held.get() == request.lora_name:
            yield
            return
        asked = [(peer, peer.ask(request)) for peer in self._workers]
        counts = not is_idle_work()
        try:
            self.waiting += counts
            try:
                for _, one in asked:
                    reason = await one.granted
                    if reason is not None:
                        raise AdapterNotLoaded(request.lora_name, reason)
            finally:
                self.waiting -= counts
            yield
        finally:
            for peer, one in asked:
                peer.release(one)

    @asynccontextmanager
    async def hold(self, request: LoRARequest) -> AsyncIterator[None]:
        """Leases the adapter once for everything that the task gives to the engine inside the context; to be used in
        one task.

        Raises:
            AdapterUnavailable: the adapter cannot be loaded.
        """
        async with self.lease(request):
            before = _held.set(request.lora_name)
            try:
                yield
            finally:
                _held.reset(before)
                # before the lease is given back: what nobody waits for any more still uses the adapter
                if (running := exchange.get()) is not None:
                    await running.abandon()

    def prefetch(self, request: LoRARequest) -> None:
        """Starts reading an adapter into host memory, if it is not there, for a request that is still to come."""
        if request.lora_name in self._prefetches or request.lora_name in self.residency.tiers:
            return
        task = self._prefetches[request.lora_name] = asyncio.create_task(self._prefetch(request))
        task.add_done_callback(lambda _: self._prefetches.pop(request.lora_name, None))

    async def _prefetch(self, request: LoRARequest) -> None:
        try:
            async with self.lease(request):
                pass
        except AdapterUnavailable as error:
            logger.warning("%s", error)  # the request itself will fail with the reason

    async def add_lora(self, request: LoRARequest) -> bool:
        """Replaces `AsyncLLM.add_lora`, which would read the adapter between two steps and evict another: the adapter
        is read and checked beside the steps, and gets a slot when a batch needs it.

        Raises:
            RuntimeError: the adapter cannot be loaded, with the reason.
        """
        try:
            async with self.lease(request):
                return True
        except AdapterNotLoaded as error:
            raise RuntimeError(error.reason) from None

    def removing(self, remove: Callable[[int], Any]) -> Callable[[int], Any]:
        """Wraps `remove` (`AsyncLLM.remove_lora`) so that the scheduler is told of each removal."""

        async def remove_lora(number: int) -> bool:
            removed: bool = await remove(number)
            self._scheduler.send({"forget": number})
            return removed

        return remove_lora

    def around(self, enter: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncGenerator[Any, None]]:
        """Wraps `enter` (`AsyncLLM.generate` or `encode`) so that the adapter is leased while the request runs, the
        request enters as its tenant may give it (`serving.paging.caller_params`), and it can be ended from outside."""

        async def entered(*args: Any, lora_request: LoRARequest | None = None, **kwargs: Any) -> Any:
            args, kwargs = with_caller(args, kwargs)
            name = lora_request.lora_name if lora_request is not None else None
            meter = Meter(name, caller.get().name, _is_incremental(args, kwargs))
            idle = is_idle_work()
            async with AsyncExitStack() as stack:
                if exchange.get() is not None and not idle:
                    stack.callback(lambda: self.on_usage(meter.usage()))
                limits = TimeLimits() if idle else self._limits
                inflight = stack.enter_context(self._in_flight(stack, limits, args, kwargs))
                if lora_request is not None:
                    await stack.enter_async_context(self.lease(lora_request))
                stack.enter_context(self._inside(name, idle))
                meter.enters()
                # closed before the lease is given back: a client that hangs up ends its request in the engine first
                outputs = await stack.enter_async_context(aclosing(enter(*args, lora_request=lora_request, **kwargs)))
                count = stack.enter_context(counted(meter.tokens))
                trace = stack.enter_context(engine_run(meter.tokens))
                async for output in outputs:
                    inflight.puts_out()
                    count(output)
                    meter.note_output(output)
                    trace(output)
                    yield output
                    inflight.resumes()

        return entered

    def _in_flight(
        self, stack: AsyncExitStack, limits: TimeLimits, args: tuple[Any, ...], kwargs: dict[str, Any]
    ) -> Inflight:
        first_s = seconds_allowed(limits, parameters_of(args, kwargs))
        return Inflight(self._inflight, stack, first_s, limits.between_tokens_s, exchange.get())

    def end_all(self, reason: Exception) -> None:
        """Ends every request in flight: whoever waits for one gets `reason`."""
        for one in tuple(self._inflight):
            one.end(reason)

    async def _look_for_late_ones(self) -> None:
        while True:
            await asyncio.sleep(LIMITS_LOOK_S)
            now = time.monotonic()
            for one in tuple(self._inflight):
                one.expire(now)

    @contextmanager
    def _inside(self, engine_name: str | None, idle: bool) -> Iterator[None]:
        """Counts a request, or a run of idle work, while it is in the engine."""
        self.entered += not idle
        self.idle += idle
        if engine_name is not None:
            self.adapters[engine_name] += 1
        if not idle:
            self.on_entry()
        try:
            yield
        finally:
            self.entered -= not idle
            self.idle -= idle
            if engine_name is not None:
                self.adapters[engine_name] -= 1
                if not self.adapters[engine_name]:
                    del self.adapters[engine_name]


def _nothing() -> None:
    """Does nothing."""


def _is_incremental(args: tuple[Any, ...], kwargs: dict[str, Any]) -> bool:
    """Whether the outputs of `AsyncLLM.generate`, called with these arguments, hold new tokens only."""
    return getattr(parameters_of(args, kwargs), "output_kind", None) is RequestOutputKind.DELTA


async def open_gate(engine_client: Any, limits: TimeLimits | None = None) -> AdapterGate:
    """Puts a gate before an `AsyncLLM` whose workers are this project's, with these time limits. The gate belongs to
    the running event loop.

    Raises:
        StartupError: a process of the engine does not listen on this machine.
    """
    config = engine_client.vllm_config
    gate = AdapterGate(config.instance_id, config.parallel_config.world_size, limits)
    scheduler = config.scheduler_config.scheduler_cls
    try:
        await gate.connect(paged=isinstance(scheduler, str) and scheduler.startswith("serving.paging."))
    except OSError as error:
        raise StartupError(f"the engine's workers must be this project's, and on this machine: {error}") from None
    for method in ("generate", "encode"):
        setattr(engine_client, method, gate.around(getattr(engine_client, method)))
    engine_client.add_lora = gate.add_lora
    engine_client.remove_lora = gate.removing(engine_client.remove_lora)
    return gate
