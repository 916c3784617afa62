"""The front end's side of adapter paging: a request is given to the engine when its adapter is in host memory.

`open_gate` wraps the two methods by which requests enter vLLM's `AsyncLLM` (`generate`, `encode`). Until an adapter is
there nothing of its request reaches the scheduler, so no step reads a disk; an adapter that cannot be loaded fails the
requests that wait for it, with the reason, and no others.
"""

import asyncio
import itertools
import json
import logging
from collections.abc import AsyncGenerator, AsyncIterator, Callable
from contextlib import AsyncExitStack, aclosing, asynccontextmanager
from http import HTTPStatus
from pathlib import Path
from typing import Any

from vllm.exceptions import GracefulHTTPError
from vllm.lora.request import LoRARequest

from serving.paging.residency import Residency
from serving.paging.sockets import SCHEDULER, socket_path

logger = logging.getLogger(__name__)

LINE_LIMIT = 64 << 20
"""Bytes of one message: a report names every adapter in host memory."""


class AdapterUnavailable(GracefulHTTPError):
    """An adapter could not be loaded; the message has the reason. vLLM's handlers answer with the status it carries."""

    def __init__(self, name: str, reason: str) -> None:
        super().__init__(f"the adapter of {name!r} could not be loaded: {reason}", HTTPStatus.SERVICE_UNAVAILABLE)


class Peer:
    """A connection to one worker or to the scheduler; remembers its newest report."""

    def __init__(self, path: Path, note: Callable[[dict[str, Any]], None]) -> None:
        self._path, self._note = path, note
        self._granted: dict[int, asyncio.Future[str | None]] = {}
        self._numbers = itertools.count(1)

    async def connect(self) -> None:
        """Raises OSError when nobody listens there."""
        reader, self._writer = await asyncio.open_unix_connection(str(self._path), limit=LINE_LIMIT)
        self._reading = asyncio.create_task(self._read(reader))

    async def lease(self, request: LoRARequest) -> int:
        """Waits until the adapter is in this worker's host memory; returns the lease's number.

        Raises:
            AdapterUnavailable: it cannot be loaded.
        """
        number = next(self._numbers)
        granted = self._granted[number] = asyncio.get_running_loop().create_future()
        self._send({"lease": number, "name": request.lora_name, "id": request.lora_int_id, "path": request.lora_path})
        try:
            reason = await granted
        except asyncio.CancelledError:
            self.release(number)
            raise
        finally:
            del self._granted[number]
        if reason is not None:
            raise AdapterUnavailable(request.lora_name, reason)
        return number

    def release(self, number: int) -> None:
        """Gives a lease back, granted or not."""
        self._send({"release": number})

    def _send(self, message: dict[str, Any]) -> None:
        self._writer.write(json.dumps(message, separators=(",", ":")).encode() + b"\n")

    async def _read(self, reader: asyncio.StreamReader) -> None:
        async for line in reader:
            message = json.loads(line)
            if "report" in message:
                self._note(message["report"])
                continue
            number = message.get("ready", message.get("failed"))
            granted = self._granted.get(number)
            if granted is not None and not granted.done():
                granted.set_result(message.get("reason"))
        for granted in self._granted.values():
            if not granted.done():
                granted.set_result("the engine's worker is gone")


class AdapterGate:
    """The leases of one front end with all workers of its engine, and what they and the scheduler report."""

    def __init__(self, instance: str, ranks: int) -> None:
        self.residency = Residency(ranks)
        self._workers = [
            Peer(socket_path(instance, str(rank)), lambda report, rank=rank: self.residency.note_worker(rank, report))  # type: ignore[misc]
            for rank in range(ranks)
        ]
        self._scheduler = Peer(socket_path(instance, SCHEDULER), self.residency.note_scheduler)

    async def connect(self, *, paged: bool) -> None:
        """`paged`: the engine runs our scheduler, which reports too.

        Raises:
            OSError: a process of the engine does not listen on this machine.
        """
        for peer in [*self._workers, *([self._scheduler] if paged else [])]:
            await peer.connect()

    @asynccontextmanager
    async def lease(self, request: LoRARequest) -> AsyncIterator[None]:
        """Inside, the adapter is in the host memory of every worker.

        Raises:
            AdapterUnavailable: it cannot be loaded.
        """
        held: list[tuple[Peer, int]] = []
        try:
            waits = await asyncio.gather(*(peer.lease(request) for peer in self._workers), return_exceptions=True)
            held = [(peer, one) for peer, one in zip(self._workers, waits, strict=True) if isinstance(one, int)]
            for one in waits:
                if isinstance(one, BaseException):
                    raise one
            yield
        finally:
            for peer, number in held:
                peer.release(number)

    def around(self, enter: Callable[..., AsyncGenerator[Any, None]]) -> Callable[..., AsyncGenerator[Any, None]]:
        """`enter` (`AsyncLLM.generate` or `encode`), with the adapter leased while the request runs."""

        async def entered(*args: Any, lora_request: LoRARequest | None = None, **kwargs: Any) -> Any:
            async with AsyncExitStack() as stack:
                if lora_request is not None:
                    await stack.enter_async_context(self.lease(lora_request))
                # closed before the lease is given back: a client that hangs up ends its request in the engine first
                outputs = await stack.enter_async_context(aclosing(enter(*args, lora_request=lora_request, **kwargs)))
                async for output in outputs:
                    yield output

        return entered


async def open_gate(engine_client: Any) -> AdapterGate:
    """Puts a gate before an `AsyncLLM` whose workers are ours.

    Raises:
        OSError: a process of the engine does not listen on this machine.
    """
    config = engine_client.vllm_config
    gate = AdapterGate(config.instance_id, config.parallel_config.world_size)
    scheduler = config.scheduler_config.scheduler_cls
    await gate.connect(paged=isinstance(scheduler, str) and scheduler.startswith("serving.paging."))
    for method in ("generate", "encode"):
        setattr(engine_client, method, gate.around(getattr(engine_client, method)))
    return gate
