"""How a request ended is told from what a real server did, and the loads that are sent are what they say."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable

import pytest
from aiohttp import web

from benchmarks.chaos.client import (
    AUTO,
    End,
    Flight,
    Lag,
    Outcome,
    chat,
    clients,
    closed_loop,
    endless,
    mixed,
)

ROLE = b'data: {"choices": [{"delta": {"role": "assistant", "content": ""}}]}\n\n'
TOKEN = b'data: {"choices": [{"delta": {"content": "a"}}]}\n\n'
ERROR = b'data: {"error": {"message": "the engine died"}}\n\n'
DONE = b"data: [DONE]\n\n"


async def stream(request: web.Request, *events: bytes, ends: bool = True) -> web.StreamResponse:
    response = web.StreamResponse(headers={"Content-Type": "text/event-stream", "x-learnware-reason": "matched"})
    await response.prepare(request)
    for event in events:
        await response.write(event)
    if not ends:
        assert request.transport is not None
        request.transport.abort()
    return response


async def hang(request: web.Request) -> web.StreamResponse:
    await asyncio.sleep(30)
    return web.Response()


async def drop(request: web.Request) -> web.StreamResponse:
    assert request.transport is not None
    request.transport.abort()
    return web.Response()


Handler = Callable[[web.Request], Awaitable[web.StreamResponse]]


async def answered(status: int, **headers: str) -> web.StreamResponse:
    return web.json_response({}, status=status, headers=headers)


CASES: dict[str, tuple[Handler, End, int | None, int]] = {
    "a whole stream": (lambda request: stream(request, ROLE, TOKEN, TOKEN, DONE), End.DONE, 200, 2),
    "an error event": (lambda request: stream(request, ROLE, TOKEN, ERROR), End.ERROR_EVENT, 200, 1),
    "an error event at once": (lambda request: stream(request, ERROR), End.ERROR_EVENT, 200, 0),
    "an end without a word": (lambda request: stream(request, ROLE, TOKEN), End.CUT, 200, 1),
    "a connection cut": (lambda request: stream(request, ROLE, TOKEN, ends=False), End.CUT, 200, 1),
    "an event that is cut": (lambda request: stream(request, ROLE, b"data: {\n\n"), End.CUT, 200, 0),
    "a refusal": (lambda _: answered(429, **{"Retry-After": "2"}), End.REFUSED, 429, 0),
    "a refusal without a time": (lambda _: answered(503), End.ERROR, 503, 0),
    "an error": (lambda _: answered(500, **{"Retry-After": "2"}), End.ERROR, 500, 0),
    "no answer": (drop, End.NO_ANSWER, None, 0),
    "a hang": (hang, End.TIMEOUT, None, 0),
}


@pytest.fixture
async def serve() -> AsyncIterator[Callable[[Handler], Awaitable[str]]]:
    runners: list[web.AppRunner] = []

    async def start(handler: Handler) -> str:
        app = web.Application()

        async def handle(request: web.Request) -> web.StreamResponse:
            return await handler(request)

        app.router.add_post("/v1/chat/completions", handle)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        runners.append(runner)
        site = web.TCPSite(runner, "127.0.0.1", 0)
        await site.start()
        return f"http://127.0.0.1:{runner.addresses[0][1]}"

    yield start
    for runner in runners:
        await runner.cleanup()


@pytest.mark.parametrize("case", CASES)
async def test_an_outcome_is_what_the_server_did(serve, case: str):
    handler, end, status, tokens = CASES[case]
    async with clients(await serve(handler), {}, timeout_s=0.5) as sessions:
        outcome = await sessions.send(chat(1, 4))
    assert (outcome.end, outcome.status, len(outcome.tokens)) == (end, status, tokens)


async def test_a_client_that_hangs_up_leaves_no_outcome_but_what_it_had_read(serve):
    async def endless_stream(request: web.Request) -> web.StreamResponse:
        await stream(request, ROLE, TOKEN)
        return await hang(request)

    async with clients(await serve(endless_stream), {}) as sessions:
        flight = Flight(chat(1, 4))
        task = asyncio.create_task(sessions.fly(flight))
        await asyncio.wait_for(flight.began.wait(), 5)
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task
    assert len(flight.tokens) == 1


async def test_clients_come_from_several_addresses_with_their_tenants_key(serve):
    seen: set[tuple[str, str]] = set()

    async def note(request: web.Request) -> web.StreamResponse:
        seen.add((str(request.remote), request.headers["Authorization"]))
        return await stream(request, TOKEN, DONE)

    headers = {"Authorization": "Bearer a"}
    async with clients(await serve(note), headers, sources=2, first_source=3) as sessions:
        await asyncio.gather(*(sessions.send(chat(number, 1)) for number in range(4)))
    assert seen == {("127.0.0.3", "Bearer a"), ("127.0.0.4", "Bearer a")}


async def test_a_closed_loop_has_so_many_in_flight_and_ends_at_its_deadline(serve):
    now = most = 0

    async def slow(request: web.Request) -> web.StreamResponse:
        nonlocal now, most
        now += 1
        most = max(most, now)
        await asyncio.sleep(0.02)
        now -= 1
        return await stream(request, TOKEN, DONE)

    async with clients(await serve(slow), {}) as sessions:
        loop = asyncio.get_running_loop()
        outcomes = await closed_loop(sessions, endless(mixed, 0), 3, loop.time() + 0.3)
    assert most == 3
    assert 9 <= len(outcomes) <= 60


async def test_a_body_is_padded_with_what_means_nothing(serve):
    async def length(request: web.Request) -> web.StreamResponse:
        assert (await request.json())["model"] == AUTO
        return await answered(200, size=str(request.content_length))

    async with clients(await serve(length), {}) as sessions:
        outcome = await sessions.send(chat(1, 1, stream=False)._replace(padding=5_000))
    assert outcome.end is End.DONE
    assert outcome.large


async def test_a_blocked_loop_is_told():
    import time

    async with Lag() as lag:
        await asyncio.sleep(0.05)
        time.sleep(0.2)  # noqa: ASYNC251 - that is what is measured
        await asyncio.sleep(0.05)
    assert max(lag.late) > 0.15
    assert min(lag.late) < 0.05


def test_the_longest_silence_is_between_tokens_and_to_the_end():
    outcome = Outcome(0.0, 9.0, End.CUT, 200, (1.0, 2.0, 5.0))
    assert outcome.longest_silence == 4.0
    assert outcome.ttft == 1.0
    assert Outcome(0.0, 9.0, End.CUT, 200).longest_silence == 0


def test_the_mix_is_the_same_for_a_seed_and_no_two_prompts_are_alike():
    asks = [mixed(seed) for seed in range(60)]
    assert asks == [mixed(seed) for seed in range(60)]
    assert len({ask.body["messages"][0]["content"] for ask in asks}) == 60
    named = sum(ask.body["model"] != AUTO for ask in asks)
    assert 5 <= named <= 35
