"""Thousands of malformed bodies on every path: none may be answered 5xx, and the next good request must succeed."""

import asyncio
import base64
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import aiohttp

from benchmarks.chaos.bodies import Malformed, malformed
from benchmarks.chaos.figures import Findings, percentile
from benchmarks.chaos.target import Target

NAME = "malformed"
SEED = 15
COUNT, SHORT_COUNT = 10_000, 500
AT_ONCE = 16
BATCH = 100
"""After so many bodies a good request is sent."""
PATIENCE_S = 5.0
"""Seconds until an answer to a body is no longer waited for: one that is good by chance may ask for a long answer."""
KEPT_BYTES = 4_096
"""So many bytes are kept of a body that was not answered as it must be; its number and the seed give all of it."""


class Tried(NamedTuple):
    """A body with what it was answered: a status, None for no answer; `seconds` until then."""

    body: Malformed
    status: int | None
    seconds: float
    said: str
    timed_out: bool = False


def evaluate(tried: Sequence[Tried], good: Sequence[bool]) -> Findings:
    """Counts the answers. `good` says for each batch whether the good request after it was answered."""
    wrong = [one for one in tried if not one.timed_out and (one.status is None or one.status >= 500)]
    statuses = Counter(str(one.status) if one.status else "late" if one.timed_out else "none" for one in tried)
    return Findings(
        {
            "malformed_bodies": float(len(tried)),
            "malformed_5xx": float(sum(one.status is not None for one in wrong)),
            "malformed_unanswered": float(sum(one.status is None for one in wrong)),
            "malformed_good_failed": float(sum(not one for one in good)),
            "malformed_answer_p99_ms": 1e3 * percentile([one.seconds for one in tried if not one.timed_out], 0.99),
        },
        {},
        [f"{one.body.api.path}: {one.status or 'no answer'} to a body {one.body.how}" for one in wrong[:20]]
        + [f"the good request after batch {number} failed" for number, fine in enumerate(good) if not fine][:5],
        {
            "statuses": dict(sorted(statuses.items())),
            "seed": SEED,
            "offending": [
                {
                    "number": one.body.number,
                    "path": one.body.api.path,
                    "headers": dict(one.body.headers),
                    "how": one.body.how,
                    "status": one.status,
                    "said": one.said,
                    "body_base64": base64.b64encode(one.body.data[:KEPT_BYTES]).decode(),
                    "bytes": len(one.body.data),
                }
                for one in wrong
            ],
        },
    )


async def drive(target: Target, count: int) -> tuple[list[Tried], list[bool]]:
    tried: list[Tried] = []
    good: list[bool] = []
    # One connection for each body, so that one that is cut is cut by its own body.
    connector = aiohttp.TCPConnector(limit=AT_ONCE, force_close=True)
    async with aiohttp.ClientSession(connector=connector, auto_decompress=False) as session:
        for start in range(0, count, BATCH):
            numbers = iter(range(start, min(start + BATCH, count)))

            async def client(numbers: Iterator[int] = numbers) -> None:
                for number in numbers:
                    answer = await _try(session, target, malformed(SEED, number))
                    tried.append(answer)

            async with asyncio.TaskGroup() as group:
                for _ in range(AT_ONCE):
                    group.create_task(client())
            good.append(await asyncio.to_thread(target.is_answering))
            if start // BATCH % 10 == 0:
                print(f"  malformed: {min(start + BATCH, count)} of {count}", flush=True)
    return tried, good


async def _try(session: aiohttp.ClientSession, target: Target, body: Malformed) -> Tried:
    headers = {**(target.admin_headers if body.api.is_admin else target.headers()), **body.headers}
    sent = time.monotonic()
    try:
        async with asyncio.timeout(PATIENCE_S):
            async with session.request(
                body.api.method, target.url + body.api.path, data=body.data, headers=headers
            ) as answer:
                said = (await answer.content.read(300)).decode(errors="replace")
                return Tried(body, answer.status, time.monotonic() - sent, said)
    except TimeoutError:
        return Tried(body, None, time.monotonic() - sent, "", timed_out=True)
    except (aiohttp.ClientError, ConnectionError) as error:
        return Tried(body, None, time.monotonic() - sent, repr(error)[:300])


def run(target: Target, *, short: bool, count: int | None = None) -> Findings:
    tried, good = asyncio.run(drive(target, count or (SHORT_COUNT if short else COUNT)))
    return evaluate(tried, good)
