"""The load generator against a small real HTTP server on a port of its own."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager

import pytest
from aiohttp import web

from benchmarks.common.load import LoadError, Request, closed_loop, open_loop

TOKENS, WAIT = 5, 0.02


class Server:
    """Streams `TOKENS` tokens, `WAIT` seconds before each, as vLLM does, and counts who is there at once."""

    def __init__(self) -> None:
        self.bodies: list[dict] = []
        self.now = self.most = 0
        self.status = 200
        self.chunks_left_out: set[str] = set()
        self.connections: set[tuple] = set()

    async def chat(self, request: web.Request) -> web.StreamResponse:
        body = await request.json()
        self.bodies.append(body)
        self.connections.add(request.transport.get_extra_info("peername"))
        if self.status != 200:
            return web.json_response({"error": {"message": "no"}}, status=self.status)
        self.now += 1
        self.most = max(self.most, self.now)
        response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "X-Learnware": "finance-tfns"})
        await response.prepare(request)

        async def send(kind: str, chunk: dict | str) -> None:
            if kind not in self.chunks_left_out:
                text = chunk if isinstance(chunk, str) else json.dumps({"model": "finance-tfns", **chunk})
                await response.write(f"data: {text}\n\n".encode())

        await send("role", {"choices": [{"delta": {"role": "assistant", "content": ""}}]})
        for i in range(TOKENS):
            await asyncio.sleep(WAIT)
            await send("token", {"choices": [{"delta": {"content": "" if i == 0 else f" {i}"}}]})
        await send("usage", {"choices": [], "usage": {"prompt_tokens": 7, "completion_tokens": TOKENS}})
        await send("done", "[DONE]")
        self.now -= 1
        return response


@asynccontextmanager
async def running(handler: Callable[[web.Request], Awaitable[web.StreamResponse]]) -> AsyncIterator[str]:
    app = web.Application()
    app.router.add_post("/v1/chat/completions", handler)
    runner = web.AppRunner(app)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


@pytest.fixture
async def served() -> AsyncIterator[tuple[Server, str]]:
    server = Server()
    async with running(server.chat) as url:
        yield server, url


def requests(count: int) -> list[Request]:
    return [Request("auto", f"prompt {i}", TOKENS) for i in range(count)]


async def test_an_answer_has_its_times_usage_model_and_headers(served):
    _, url = served
    (answer,) = (await closed_loop(url, requests(1), clients=1)).answers
    assert (answer.model, answer.headers["x-learnware"]) == ("finance-tfns", "finance-tfns")
    assert (answer.prompt_tokens, answer.completion_tokens, answer.text) == (7, TOKENS, " 1 2 3 4")
    assert WAIT * 0.9 < answer.ttft < WAIT * 4, "from sending to the first token, not to the role"
    assert answer.tpot == pytest.approx(WAIT, rel=0.9)


async def test_as_many_requests_run_at_once_as_there_are_clients(served):
    server, url = served
    measured = await closed_loop(url, requests(8), clients=4)
    assert server.most == 4
    assert len(server.connections) == 4, "a client keeps its connection"
    assert [body["messages"][0]["content"] for body in server.bodies[:4]] == [f"prompt {i}" for i in range(4)]
    assert measured.seconds > 2 * TOKENS * WAIT, "two waves of four"
    assert measured.throughput == pytest.approx(8 * TOKENS / measured.seconds)


async def test_answers_stand_in_the_order_of_the_requests(served):
    server, url = served
    measured = await closed_loop(url, requests(5), clients=2)
    sent = [answer.sent for answer in measured.answers]
    assert sent == sorted(sent)
    assert len(server.bodies) == len(measured.answers) == 5


async def test_every_request_asks_for_the_same_work(served):
    server, url = served
    await closed_loop(url, requests(1), clients=1)
    wanted = {"model": "auto", "max_tokens": TOKENS, "temperature": 0, "ignore_eos": True, "stream": True}
    assert wanted.items() <= server.bodies[0].items()


async def test_another_status_than_200_voids_the_load(served):
    server, url = served
    server.status = 503
    with pytest.raises(LoadError, match="answered 503"):
        await closed_loop(url, requests(3), clients=2)


@pytest.mark.parametrize(("left_out", "named"), [("token", "tokens"), ("usage", "usage"), ("done", "DONE")])
async def test_a_stream_that_lacks_a_part_voids_the_load(served, left_out, named):
    server, url = served
    server.chunks_left_out = {left_out}
    with pytest.raises(LoadError, match=named):
        await closed_loop(url, requests(1), clients=1)


async def test_a_server_that_is_not_there_voids_the_load(unused_tcp_port):
    with pytest.raises(LoadError, match=r"127\.0\.0\.1"):
        await closed_loop(f"http://127.0.0.1:{unused_tcp_port}", requests(1), clients=1)


async def test_an_error_in_the_stream_voids_the_load():
    async def broken(request: web.Request) -> web.StreamResponse:
        response = web.StreamResponse()
        await response.prepare(request)
        await response.write(b'data: {"error": {"message": "engine died"}}\n\n')
        return response

    async with running(broken) as url:
        with pytest.raises(LoadError, match="engine died"):
            await closed_loop(url, requests(1), clients=1)


async def test_open_loop_sends_on_time_whatever_is_still_running():
    server = Server()
    requests = [Request("auto", f"{i}", TOKENS) for i in range(6)]
    at = [0.0, 0.0, 0.0, 0.05, 0.05, 0.2]
    async with running(server.chat) as url:
        measured = await open_loop(url, requests, at)
    started = min(answer.sent for answer in measured.answers)
    # The first may be late itself, which makes the others look early; a busy machine makes any of them late.
    late = [answer.sent - started - planned for answer, planned in zip(measured.answers, at, strict=True)]
    assert min(late) > -0.04
    assert max(late) < 1.0
    assert server.most >= 5, "the second batch is sent while the first is being answered"
    assert all(len(answer.times) == TOKENS for answer in measured.answers)


async def test_open_loop_ends_at_the_first_failure():
    server = Server()
    server.status = 500
    async with running(server.chat) as url:
        with pytest.raises(LoadError, match="500"):
            await open_loop(url, [Request("auto", "x", TOKENS)] * 2, [0.0, 30.0])
