"""Load for OpenAI endpoints. In a closed loop each of N clients sends its next request when its last one is answered;
in an open loop requests are sent at given times, whatever became of earlier ones.

Streams, and takes the times that a user sees: TTFT (time to first token), TPOT (time per output token after the first),
throughput. Usage, response model and headers come along, so that a benchmark can check who answered.
"""

import asyncio
import json
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import aiohttp

TIMEOUT_S = 600.0


class LoadError(Exception):
    """A request was not answered as it must be, so the measurement is void."""


@dataclass(frozen=True)
class Request:
    """A chat request, or, for a prompt of token ids, a completion; `expected` is the learnware that has to answer,
    None where anyone may."""

    model: str
    prompt: str | Sequence[int]
    max_tokens: int
    expected: str | None = None


@dataclass(frozen=True)
class TimedAnswer:
    """An answer with the times of its chunks, in seconds on one clock (`time.perf_counter`)."""

    model: str
    headers: Mapping[str, str]
    prompt_tokens: int
    completion_tokens: int
    text: str
    sent: float
    times: Sequence[float]
    """The time at which each chunk with text came; tokens of one engine step come together."""

    @property
    def first(self) -> float:
        return self.times[0]

    @property
    def last(self) -> float:
        return self.times[-1]

    @property
    def ttft(self) -> float:
        return self.first - self.sent

    @property
    def tpot(self) -> float:
        """Returns the mean seconds for each token after the first; 0 when there was only one."""
        return (self.last - self.first) / max(self.completion_tokens - 1, 1)


@dataclass(frozen=True)
class MeasuredLoad:
    """A finished load: its answers in the order of the requests, and the seconds from the first request sent to the
    last token."""

    answers: Sequence[TimedAnswer]
    seconds: float
    clients: int = field(default=1)

    @property
    def throughput(self) -> float:
        """Returns output tokens per second, all clients together."""
        return sum(answer.completion_tokens for answer in self.answers) / self.seconds

    @property
    def ttft_p50(self) -> float:
        return median(answer.ttft for answer in self.answers)

    @property
    def tpot_p50(self) -> float:
        return median(answer.tpot for answer in self.answers)


def body(request: Request) -> dict[str, Any]:
    """Returns a request's body: greedy and of fixed length, so that both sides of a comparison do the same work."""
    if isinstance(request.prompt, str):
        prompt: dict[str, Any] = {"messages": [{"role": "user", "content": request.prompt}]}
    else:
        prompt = {"prompt": list(request.prompt)}
    return {
        "model": request.model,
        **prompt,
        "max_tokens": request.max_tokens,
        "temperature": 0,
        "ignore_eos": True,
        "stream": True,
        "stream_options": {"include_usage": True},
    }


async def ask(session: aiohttp.ClientSession, url: str, request: Request) -> TimedAnswer:
    """Sends a request and reads its streamed answer.

    Raises:
        LoadError: another status than 200, a stream without tokens, usage or end.
    """
    sent = time.perf_counter()
    times: list[float] = []
    model, usage, done, text = "", None, False, []
    path = "/v1/chat/completions" if isinstance(request.prompt, str) else "/v1/completions"
    async with session.post(url + path, json=body(request)) as response:
        if response.status != 200:
            raise LoadError(f"{url} answered {response.status}: {(await response.text())[:300]}")
        headers = {name.lower(): value for name, value in response.headers.items()}
        async for raw in response.content:
            line = raw.decode().strip()
            if not line.startswith("data:"):
                continue
            data = line.removeprefix("data:").strip()
            if data == "[DONE]":
                done = True
                break
            chunk = json.loads(data)
            if "error" in chunk:
                raise LoadError(f"{url} broke off: {chunk['error']}")
            model, usage = chunk.get("model", model), chunk.get("usage") or usage
            for choice in chunk.get("choices", ()):
                delta = choice.get("delta") or {"content": choice.get("text")}
                # The first chunk of a chat carries the role alone. A token whose bytes do not yet make a character
                # comes as empty text, so what counts is that the chunk is not the one with the role.
                if "role" in delta and not delta.get("content"):
                    continue
                times.append(time.perf_counter())
                text.append(delta.get("content") or "")
    if not times or usage is None or not done:
        raise LoadError(f"{url} ended the stream without {'tokens' if not times else 'usage' if done else '[DONE]'}")
    return TimedAnswer(model, headers, usage["prompt_tokens"], usage["completion_tokens"], "".join(text), sent, times)


async def closed_loop(
    url: str, requests: Sequence[Request], clients: int, headers: Mapping[str, str] | None = None
) -> MeasuredLoad:
    """Sends `requests` in order from `clients` clients at once, each with `headers`; every client keeps its connection.

    Raises:
        LoadError: as `ask`; the first failure ends the load.
    """
    answers: list[TimedAnswer | None] = [None] * len(requests)
    queue: Iterator[tuple[int, Request]] = iter(enumerate(requests))
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)

    async def client() -> None:
        connector = aiohttp.TCPConnector(limit=1)
        async with aiohttp.ClientSession(connector=connector, timeout=timeout, headers=headers) as session:
            for i, request in queue:
                answers[i] = await ask(session, url, request)

    started = time.perf_counter()
    try:
        async with asyncio.TaskGroup() as group:
            for _ in range(min(clients, len(requests))):
                group.create_task(client())
    except* LoadError as failed:
        raise LoadError(str(failed.exceptions[0])) from None
    except* aiohttp.ClientError as failed:
        raise LoadError(f"{url}: {failed.exceptions[0]!r}") from None
    done = [answer for answer in answers if answer is not None]
    return MeasuredLoad(done, max(answer.last for answer in done) - started, clients)


async def open_loop(url: str, requests: Sequence[Request], at: Sequence[float]) -> MeasuredLoad:
    """Sends each request `at` seconds after the start, whether or not earlier ones are answered.

    Raises:
        LoadError: as `ask`; the first failure ends the load.
    """
    timeout = aiohttp.ClientTimeout(total=TIMEOUT_S)
    connector = aiohttp.TCPConnector(limit=0)
    async with aiohttp.ClientSession(connector=connector, timeout=timeout) as session:
        started = time.perf_counter()

        async def send(request: Request, when: float) -> TimedAnswer:
            await asyncio.sleep(when - (time.perf_counter() - started))
            return await ask(session, url, request)

        try:
            async with asyncio.TaskGroup() as group:
                sent = [group.create_task(send(*pair)) for pair in zip(requests, at, strict=True)]
        except* LoadError as failed:
            raise LoadError(str(failed.exceptions[0])) from None
        except* aiohttp.ClientError as failed:
            raise LoadError(f"{url}: {failed.exceptions[0]!r}") from None
    done = [task.result() for task in sent]
    return MeasuredLoad(done, max(answer.last for answer in done) - started)
