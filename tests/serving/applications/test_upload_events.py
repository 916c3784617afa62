"""An upload's progress as events: over a real market, and its end however it comes."""

import asyncio
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.keyring import Keyring
from serving.applications.access import Access
from serving.applications.market import MarketAPI
from serving.applications.upload_events import EventAnswer, Note
from specs.errors import MarketFull
from specs.market.journal import State
from specs.market.staged import Staged
from specs.market.store import Market
from specs.market.trial import Trial
from specs.off_task import Kind, OffTaskScore
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import pack, requirements, variant

ADMIN = {"authorization": "Bearer secret"}
EVENTS = ADMIN | {"content-type": "application/zip", "accept": "text/event-stream"}


class Engine:
    """What the engine says of a learnware on trial."""

    def __init__(self) -> None:
        self.refusal: str | None = None

    async def probe(self, _staged: Staged) -> Trial:
        measured = {Kind.EVERYDAY: OffTaskScore(48, -1.5, 0.1, 33)}
        return Trial(self.refusal, {} if self.refusal else measured, ("it is short",))

    async def follow(self, _sequence: int) -> bool:
        return True


@pytest.fixture
def engine() -> Engine:
    return Engine()


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "market", requirements(tmp_path / "base"))


@pytest.fixture
def zipped(tmp_path: Path) -> bytes:
    whole = write_learnware(tmp_path / "whole" / "colours-objects")
    return pack(whole, tmp_path / "first.zip").read_bytes()


def client_of(market: Market, engine: Engine) -> httpx.AsyncClient:
    app = MarketAPI(market, Access(Keyring(admin_key="secret")), 1 << 20, engine.probe, engine.follow).application()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://market")


def events_in(text: str) -> list[tuple[str, Mapping[str, Any]]]:
    found = []
    for block in text.split("\n\n"):
        if block and not block.startswith(":"):
            name, data = block.split("\n")
            found.append((name.removeprefix("event: "), json.loads(data.removeprefix("data: "))))
    return found


async def test_each_stage_is_told_and_at_the_end_what_is_served(
    market: Market, engine: Engine, zipped: bytes, tmp_path: Path
) -> None:
    async with client_of(market, engine) as client:
        answer = await client.post("/v1/learnwares", content=zipped, headers=EVENTS)
        assert (answer.status_code, answer.headers["content-type"]) == (200, "text/event-stream; charset=utf-8")
        events = events_in(answer.text)
        assert [name for name, _ in events] == ["received", "checked", "tried", "measured", "served"]
        said = dict(events)
        assert said["received"] == {"bytes": len(zipped)}
        assert said["checked"] == {"id": "colours-objects", "version": 1}
        assert said["tried"] == {"notes": ["it is short"]}
        assert said["measured"]["off_task"]["measured"]["everyday"]["degenerate"] == 33
        assert (said["served"]["state"], said["served"]["served"]) == ("active", True)
        folder = variant(tmp_path / "whole" / "colours-objects", tmp_path / "newer", "colours-objects", 2, 2.0)
        content = pack(folder, tmp_path / "newer.zip").read_bytes()
        newer = await client.put("/v1/learnwares/colours-objects", content=content, headers=EVENTS)
        name, last = events_in(newer.text)[-1]
        assert (name, last["version"]) == ("served", 2)


async def test_a_refusal_ends_the_events_with_the_error_that_the_plain_answer_has(
    market: Market, engine: Engine, zipped: bytes
) -> None:
    engine.refusal = "its answers repeat themselves"
    async with client_of(market, engine) as client:
        events = events_in((await client.post("/v1/learnwares", content=zipped, headers=EVENTS)).text)
        assert [name for name, _ in events] == ["received", "checked", "refused"]
        _, refused = events[-1]
        assert refused["status"] == 400
        assert refused["error"]["code"] == "invalid_learnware"
        assert "its answers repeat themselves" in refused["error"]["message"]
    assert [record.state for record in market.records(None)] == [State.QUARANTINED]


@pytest.mark.parametrize(
    ("changed", "status"),
    [({"authorization": "Bearer wrong"}, 401), ({"content-type": "text/plain"}, 400), ({}, 413)],
    ids=["key", "type", "size"],
)
async def test_what_is_refused_before_the_body_is_taken_keeps_its_status(
    market: Market, engine: Engine, zipped: bytes, changed: dict[str, str], status: int
) -> None:
    content = bytes(2 << 20) if status == 413 else zipped
    async with client_of(market, engine) as client:
        answer = await client.post("/v1/learnwares", content=content, headers=EVENTS | changed)
    assert answer.status_code == status
    assert answer.json()["error"]["message"]


async def test_without_the_header_the_answer_is_as_before(market: Market, engine: Engine, zipped: bytes) -> None:
    plain = {name: value for name, value in EVENTS.items() if name != "accept"}
    async with client_of(market, engine) as client:
        answer = await client.post("/v1/learnwares", content=zipped, headers=plain | {"accept": "*/*"})
    assert answer.status_code == 201
    assert answer.json()["served"] is True


async def sent_by(answer: EventAnswer, disconnect: asyncio.Event | None = None) -> list[dict[str, Any]]:
    sent: list[dict[str, Any]] = []

    async def receive() -> dict[str, Any]:
        await (disconnect or asyncio.Event()).wait()
        return {"type": "http.disconnect"}

    async def send(message: Any) -> None:
        sent.append(message)

    await answer({"type": "http", "path": "/v1/learnwares"}, receive, send)
    return sent


async def test_a_long_wait_between_events_shows_that_the_connection_stands() -> None:
    async def work(note: Note) -> Mapping[str, Any]:
        await asyncio.sleep(0.05)
        note("received", {})
        await asyncio.sleep(0.05)
        return {"id": "a"}

    start, *rest = await sent_by(EventAnswer(work, "served", sign_of_life_s=0.01))
    bodies = [message["body"] for message in rest]
    assert start["status"] == 200
    assert bodies[0] == b"event: received\ndata: {}\n\n"  # and no comment before it, which would settle the status
    assert b": still at it\n\n" in bodies[1:-1]
    assert bodies[-1] == b'event: served\ndata: {"id": "a"}\n\n'
    assert [message.get("more_body", False) for message in rest] == [True] * (len(rest) - 1) + [False]


async def test_an_error_before_the_first_event_is_raised_and_one_of_the_servers_own_is_logged_and_not_told(
    caplog: pytest.LogCaptureFixture,
) -> None:
    async def full(_note: Note) -> Mapping[str, Any]:
        raise MarketFull("three uploads are under way")

    with pytest.raises(MarketFull):
        await sent_by(EventAnswer(full, "served"))

    async def broken(note: Note) -> Mapping[str, Any]:
        note("received", {})
        raise ZeroDivisionError("a secret")

    *_, last = await sent_by(EventAnswer(broken, "served"))
    assert b'"status": 500' in last["body"]
    assert b"secret" not in last["body"]
    (logged,) = caplog.records
    assert logged.exc_info is not None
    assert isinstance(logged.exc_info[1], ZeroDivisionError)

    async def refused(note: Note) -> Mapping[str, Any]:
        note("received", {})
        raise MarketFull("three uploads are under way")

    *_, last = await sent_by(EventAnswer(refused, "served"))
    assert b"three uploads" in last["body"]
    assert len(caplog.records) == 1


async def test_cancelled_it_ends_the_work_first() -> None:
    ended = asyncio.Event()

    async def work(note: Note) -> Mapping[str, Any]:
        note("received", {})
        try:
            await asyncio.Event().wait()
        finally:
            ended.set()
        return {}

    answering = asyncio.create_task(sent_by(EventAnswer(work, "served")))
    await asyncio.sleep(0.02)
    answering.cancel()
    await asyncio.wait({answering}, timeout=5)
    assert answering.cancelled()
    assert ended.is_set()
