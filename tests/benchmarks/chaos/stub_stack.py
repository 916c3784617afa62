"""A small server that answers as a stack does, with seats, a line and metrics, well or badly as it is told."""

import asyncio
import contextlib
import json
from collections import defaultdict
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager

from aiohttp import web

from benchmarks.chaos.target import Target

TOKEN = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'


class StubStack:
    """Generates one token each `token_s` for whoever has a seat. It refuses who would be the `most_waiting`-th in the
    line; with `is_fair`, each tenant has seats of its own; with `aborts`, a hang-up frees its seat."""

    def __init__(
        self,
        seats: int = 4,
        token_s: float = 0.002,
        *,
        most_waiting: int | None = None,
        is_fair: bool = True,
        aborts: bool = True,
    ) -> None:
        self._token_s, self._most_waiting, self._is_fair, self._aborts = token_s, most_waiting, is_fair, aborts
        self._seats: dict[str, asyncio.Semaphore] = defaultdict(lambda: asyncio.Semaphore(seats))
        self._tasks: set[asyncio.Task[None]] = set()
        self.held = self.waiting = self.generated = 0
        self.learnwares = {"finance-tfns"}
        self.market_status, self.is_honest = 200, True
        self.answer_body: Callable[[bytes], int] = lambda data: 200 if is_chat(data) else 400

    async def chat(self, request: web.Request) -> web.StreamResponse:
        data = await request.read()
        status = self.answer_body(data)
        if status != 200:
            return web.json_response({"error": {"message": "no"}}, status=status)
        if self._most_waiting is not None and self.waiting >= self._most_waiting:
            return web.json_response({"error": {}}, status=429, headers={"Retry-After": "1"})
        asked = json.loads(data).get("max_tokens")
        count = asked if isinstance(asked, int) and 0 < asked <= 200 else 1
        tokens: asyncio.Queue[bool] = asyncio.Queue()
        tenant = request.headers.get("Authorization", "") if self._is_fair else ""
        task = asyncio.create_task(self._generate(tenant, count, tokens))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        try:
            return await self._stream(request, tokens)
        finally:
            if self._aborts:
                task.cancel()  # what is done stays done

    async def _generate(self, tenant: str, count: int, tokens: "asyncio.Queue[bool]") -> None:
        self.held += 1
        self.waiting += 1
        is_waiting = True
        try:
            async with self._seats[tenant]:
                self.waiting -= 1
                is_waiting = False
                for _ in range(count):
                    await asyncio.sleep(self._token_s)
                    self.generated += 1
                    tokens.put_nowait(True)
                tokens.put_nowait(False)
        finally:
            self.held -= 1
            self.waiting -= is_waiting

    @staticmethod
    async def _stream(request: web.Request, tokens: "asyncio.Queue[bool]") -> web.StreamResponse:
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-learnware-reason": "matched"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while await tokens.get():
                await response.write(TOKEN)
            await response.write(b"data: [DONE]\n\n")
        return response

    async def metrics(self, _: web.Request) -> web.Response:
        lines = [
            f"vllm:num_requests_running {self.held - self.waiting}",
            f"vllm:num_requests_waiting {self.waiting}",
            f"vllm:generation_tokens_total {self.generated}",
        ]
        return web.Response(text="\n".join(lines) + "\n")

    async def listed(self, _: web.Request) -> web.Response:
        return web.json_response({"data": [{"id": one} for one in sorted(self.learnwares)]})

    async def submitted(self, request: web.Request) -> web.Response:
        content = await request.read()
        if self.market_status != 200:
            return web.Response(status=self.market_status, text='{"error": {}}' if self.is_honest else "no")
        if not content.startswith(b"PK") or b"chaos-" not in content:
            return web.json_response({"error": {}}, status=400)
        self.learnwares.add("chaos-0")
        return web.json_response({}, status=201)

    async def removed(self, request: web.Request) -> web.Response:
        self.learnwares.discard(request.match_info["id"])
        return web.json_response({})

    async def other(self, request: web.Request) -> web.Response:
        return web.json_response({"error": {}}, status=404)


def is_chat(data: bytes) -> bool:
    try:
        return isinstance(json.loads(data)["messages"][0]["content"], str)
    except (ValueError, RecursionError, LookupError, TypeError):
        return False


@asynccontextmanager
async def serving(stub: StubStack) -> AsyncIterator[Target]:
    app = web.Application(client_max_size=8 << 20)
    app.add_routes(
        [
            web.post("/v1/chat/completions", stub.chat),
            web.get("/metrics", stub.metrics),
            web.get("/v1/learnwares", stub.listed),
            web.post("/v1/learnwares", stub.submitted),
            web.delete("/v1/learnwares/{id}", stub.removed),
            web.route("*", "/{path:.*}", stub.other),
        ]
    )
    runner = web.AppRunner(app, handler_cancellation=True, shutdown_timeout=0.2, auto_decompress=False)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0, backlog=2048).start()
    try:
        yield Target(f"http://127.0.0.1:{runner.addresses[0][1]}", {"chaos-one": "a", "chaos-two": "b"}, "admin")
    finally:
        await runner.cleanup()
