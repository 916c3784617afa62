"""Requests whose outcome is told whatever it is: answered, refused, broken off with or without an error event.

`benchmarks.common.load` ends a measurement at the first failure; here failures are what is measured. One process holds
thousands of requests on one core; `Lag` says how late its own event loop was, so that a figure can be told from the
load generator's limit.
"""

import asyncio
import io
import itertools
import json
import random
import time
from collections.abc import AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from enum import StrEnum
from typing import Any, NamedTuple, Self

import aiohttp

from benchmarks.common.prompts import KINDS, text_of

CHAT = "/v1/chat/completions"
AUTO = "auto"
NAMED_SHARE = 0.3
"""Share of a mix's requests that name their learnware."""
LAG_TICK_S = 0.02
CONNECTIONS_PER_SOURCE = 400
"""Connections from one loopback address: well below `http.max_connections_per_source`, so that a large load is not
taken for one source's attack."""


class End(StrEnum):
    """Ends of a request."""

    DONE = "done"
    """The whole answer came: a body with status 200, or a stream with its last event."""
    REFUSED = "refused"
    """429 or 503 with Retry-After."""
    ERROR = "error"
    """Another status than 200, or a refusal that does not say when to come again."""
    ERROR_EVENT = "error event"
    """A stream that had begun ended with an error object."""
    CUT = "cut"
    """The connection ended within a stream or body, without a word."""
    NO_ANSWER = "no answer"
    """The connection was refused, or ended before a status."""
    TIMEOUT = "timeout"
    CANCELLED = "cancelled"
    """This client hung up on purpose."""


class Outcome(NamedTuple):
    """A request that has ended; times are seconds of `time.monotonic`."""

    sent: float
    ended: float
    end: End
    status: int | None
    tokens: Sequence[float] = ()
    """The time at which each chunk with text came."""
    reason: str = ""
    """The answer's `x-learnware-reason`."""
    retry_after: str = ""
    streamed: bool = True
    large: bool = False
    """The body does not fit the edge's buffer, so that the edge cannot send it a second time."""
    detail: str = ""

    @property
    def seconds(self) -> float:
        return self.ended - self.sent

    @property
    def ttft(self) -> float | None:
        return self.tokens[0] - self.sent if self.tokens else None

    @property
    def longest_silence(self) -> float:
        """The longest time without a token of a stream that had begun, to its end; 0 of one that had not."""
        times = [*self.tokens, self.ended]
        return max((later - earlier for earlier, later in itertools.pairwise(times)), default=0.0)


class Ask(NamedTuple):
    """A request to be sent: path, body and headers beside the key."""

    body: Mapping[str, Any]
    path: str = CHAT
    headers: Mapping[str, str] = {}
    padding: int = 0
    """Spaces after the JSON, which make a body large and mean nothing."""

    @property
    def data(self) -> bytes:
        return json.dumps(self.body).encode() + b" " * self.padding


def chat(
    seed: int, max_tokens: int, *, model: str = AUTO, stream: bool = True, words: int = 40, **fields: object
) -> Ask:
    """Returns a chat request with a prompt that no other seed has, which generates exactly `max_tokens` tokens."""
    content = text_of(KINDS[seed % len(KINDS)], words, seed)
    body = {"model": model, "messages": [{"role": "user", "content": content}], "max_tokens": max_tokens}
    return Ask(body | {"temperature": 0, "ignore_eos": True, "stream": stream} | fields)


def mixed(seed: int, tokens: tuple[int, int] = (8, 24), stream: bool = True) -> Ask:
    """Returns a request of the mix: lengths are uniform, most leave the choice to the router, the others name the
    learnware."""
    drawn = random.Random(seed)
    named = drawn.random() < NAMED_SHARE
    model = KINDS[seed % len(KINDS)].learnware if named else AUTO
    return chat(seed, drawn.randint(*tokens), model=model, stream=stream)


class Flight:
    """A request in flight: `tokens` grows while it runs."""

    def __init__(self, ask: Ask) -> None:
        self.ask = ask
        self.sent = time.monotonic()
        self.tokens: list[float] = []
        self.status: int | None = None
        self.reason = self.retry_after = ""
        self.began = asyncio.Event()
        """Set with the first token."""

    def outcome(self, end: End, detail: str = "") -> Outcome:
        ask = self.ask
        return Outcome(
            self.sent,
            time.monotonic(),
            end,
            self.status,
            tuple(self.tokens),
            self.reason,
            self.retry_after,
            bool(ask.body.get("stream")),
            bool(ask.padding),
            detail[:300],
        )

    async def fly(self, session: aiohttp.ClientSession, url: str, timeout_s: float) -> Outcome:
        """Sends the request and reads its answer to the end, whatever it is; raises only when it is cancelled."""
        headers = {"Content-Type": "application/json", **self.ask.headers}
        data = io.BytesIO(self.ask.data)
        try:
            async with asyncio.timeout(timeout_s):
                async with session.post(url + self.ask.path, data=data, headers=headers) as response:
                    return await self._read(response)
        except TimeoutError:
            return self.outcome(End.TIMEOUT)
        except (aiohttp.ClientError, ConnectionError) as error:
            return self.outcome(End.NO_ANSWER if self.status is None else End.CUT, repr(error))

    async def _read(self, response: aiohttp.ClientResponse) -> Outcome:
        self.status = response.status
        self.reason = response.headers.get("x-learnware-reason", "")
        self.retry_after = response.headers.get("retry-after", "")
        if response.status != 200:
            said = (await response.read()).decode(errors="replace")
            polite = response.status in (429, 503) and self.retry_after.isdigit()
            return self.outcome(End.REFUSED if polite else End.ERROR, said)
        if not self.ask.body.get("stream"):
            await response.read()
            return self.outcome(End.DONE)
        async for raw in response.content:
            line = raw.decode(errors="replace").strip()
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                return self.outcome(End.DONE)
            try:
                chunk = json.loads(data)
            except ValueError:
                return self.outcome(End.CUT, f"an event that is no JSON: {data}")
            if "error" in chunk:
                return self.outcome(End.ERROR_EVENT, data)
            if _has_token(chunk):
                self.tokens.append(time.monotonic())
                self.began.set()
        return self.outcome(End.CUT, "the stream ended without [DONE]")


def _has_token(chunk: Mapping[str, Any]) -> bool:
    """Tells whether a chunk carries a token; the first one of a chat carries the role alone."""
    for choice in chunk.get("choices", ()):
        delta = choice.get("delta") or {"content": choice.get("text")}
        if "role" not in delta or delta.get("content"):
            return True
    return False


class Clients:
    """Sessions from several loopback addresses, taken in turns, with one tenant's headers."""

    def __init__(self, url: str, sessions: Sequence[aiohttp.ClientSession], timeout_s: float) -> None:
        self.url, self._sessions, self._timeout_s = url, sessions, timeout_s
        self._next = 0

    def session(self) -> aiohttp.ClientSession:
        self._next = (self._next + 1) % len(self._sessions)
        return self._sessions[self._next]

    async def send(self, ask: Ask) -> Outcome:
        return await Flight(ask).fly(self.session(), self.url, self._timeout_s)

    async def fly(self, flight: Flight) -> Outcome:
        return await flight.fly(self.session(), self.url, self._timeout_s)


@asynccontextmanager
async def clients(
    url: str, headers: Mapping[str, str], *, sources: int = 1, first_source: int = 1, timeout_s: float = 120
) -> AsyncIterator[Clients]:
    """Opens sessions from `sources` addresses of 127.0.0.0/8, 127.0.0.1 the first of them."""
    async with AsyncExitStack() as stack:
        sessions = []
        for number in range(first_source, first_source + sources):
            # no name is looked up: the target is a loopback address
            connector = aiohttp.TCPConnector(limit=CONNECTIONS_PER_SOURCE, local_addr=(f"127.0.0.{number}", 0))
            timeout = aiohttp.ClientTimeout(total=None)
            session = aiohttp.ClientSession(connector=connector, timeout=timeout, headers=dict(headers))
            sessions.append(await stack.enter_async_context(session))
        yield Clients(url, sessions, timeout_s)


class Lag:
    """Measures how late this event loop wakes up, in seconds: the load generator's own part in every latency."""

    def __init__(self) -> None:
        self.late: list[float] = []
        self._task: asyncio.Task[None] | None = None

    async def _tick(self) -> None:
        while True:
            before = time.monotonic()
            await asyncio.sleep(LAG_TICK_S)
            self.late.append(time.monotonic() - before - LAG_TICK_S)

    async def __aenter__(self) -> Self:
        self._task = asyncio.create_task(self._tick())
        return self

    async def __aexit__(self, *_: object) -> None:
        assert self._task is not None
        self._task.cancel()


async def closed_loop(
    clients_: Clients, asks: Iterator[Ask], count: int, deadline: float, patience_s: float = 0.0
) -> list[Outcome]:
    """Lets `count` clients send the asks one after the other, each its next one when its last one is answered, until
    none is left or the clock (`time.monotonic`) has passed `deadline`. One that is refused waits for `patience_s`."""
    outcomes: list[Outcome] = []

    async def client() -> None:
        for ask in asks:
            outcome = await clients_.send(ask)
            outcomes.append(outcome)
            if outcome.end != End.DONE and patience_s:
                await asyncio.sleep(patience_s)
            if time.monotonic() > deadline:
                return

    async with asyncio.TaskGroup() as group:
        for _ in range(count):
            group.create_task(client())
    return outcomes


def endless(make: Callable[[int], Ask], first_seed: int) -> Iterator[Ask]:
    """Returns a row of asks that several clients may share, each made with a seed of its own."""
    return map(make, itertools.count(first_seed))
