"""Uploads one by one: the line, who is turned away, hang-ups, a busy lock, a full disk; reads meanwhile."""

import asyncio
import errno
import multiprocessing
import time
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import httpx
import pytest

import serving.applications.upload_line as line_module
from serving.access.keyring import Keyring
from serving.applications.access import Access
from serving.applications.market import MarketAPI
from serving.applications.market_keeper import MarketKeeper
from specs.errors import MarketUnwritable
from specs.market.catalogue import read_catalogue
from specs.market.journal import State
from specs.market.locking import market_lock
from specs.market.staged import Staged
from specs.market.store import Market
from specs.market.trial import Trial
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import pack, requirements, variant

ADMIN = {"authorization": "Bearer secret"}
ZIP = {"content-type": "application/zip"} | ADMIN
SOON_S = 5.0
"""Longer than anything here takes that does not wait for a trial; the machine that tests run on may be busy."""


class Engine:
    """Tries a learnware for as long as the test wants."""

    def __init__(self) -> None:
        self.go_on = asyncio.Event()
        self.tried: list[str] = []
        self.cancelled: list[str] = []
        self.at_once = self.most_at_once = 0

    async def probe(self, staged: Staged) -> Trial:
        self.tried.append(staged.learnware.id)
        self.at_once += 1
        self.most_at_once = max(self.most_at_once, self.at_once)
        try:
            # as the real one, which asks Ray for a handle in a thread of the loop's own
            await asyncio.to_thread(time.sleep, 0.001)
            await self.go_on.wait()
        except asyncio.CancelledError:
            self.cancelled.append(staged.learnware.id)
            raise
        finally:
            self.at_once -= 1
        return Trial(None)

    async def follow(self, sequence: int) -> bool:
        return True


@pytest.fixture(scope="module")
def uploads(tmp_path_factory: pytest.TempPathFactory) -> list[bytes]:
    place = tmp_path_factory.mktemp("uploads")
    whole = write_learnware(place / "whole")
    names = [f"up-{number}" for number in range(6)]
    return [
        pack(variant(whole, place / name, name, scale=2.0 + number), place / f"{name}.zip").read_bytes()
        for number, name in enumerate(names)
    ]


@pytest.fixture
def market(tmp_path: Path) -> Market:
    market = Market(tmp_path / "market", requirements(tmp_path / "base"), lock_timeout_s=0.2)
    with market.stage(write_learnware(tmp_path / "colours-objects")) as staged:
        market.submit(staged)
    return market


@pytest.fixture
async def engine() -> Engine:
    return Engine()


@pytest.fixture
def api(market: Market, engine: Engine) -> MarketAPI:
    return MarketAPI(market, Access(Keyring(admin_key="secret")), 1 << 20, engine.probe, engine.follow)


@pytest.fixture
async def client(api: MarketAPI) -> AsyncIterator[httpx.AsyncClient]:
    transport = httpx.ASGITransport(app=api.application())
    async with httpx.AsyncClient(transport=transport, base_url="http://market") as client:
        yield client


async def until(condition: Callable[[], object]) -> None:
    deadline = time.monotonic() + 2 * SOON_S
    while not condition():
        assert time.monotonic() < deadline
        await asyncio.sleep(0.01)


async def read(client: httpx.AsyncClient) -> float:
    started = time.monotonic()
    async with asyncio.timeout(SOON_S):
        assert (await client.get("/v1/learnwares")).status_code == 200
        assert (await client.get("/v1/learnwares/colours-objects")).status_code == 200
    return time.monotonic() - started


async def test_six_uploads_at_once_are_tried_one_by_one_or_turned_away_and_reads_go_on(
    client: httpx.AsyncClient, market: Market, engine: Engine, uploads: list[bytes]
):
    sent = [asyncio.create_task(client.post("/v1/learnwares", content=each, headers=ZIP)) for each in uploads]
    await until(lambda: engine.tried and sum(each.done() for each in sent) >= 3)
    for _ in range(20):
        await read(client)
    away = [each.result() for each in sent if each.done()]
    assert len(away) == 3
    for answer in away:
        assert (answer.status_code, answer.json()["error"]["code"]) == (429, "market_full")
        assert int(answer.headers["retry-after"]) > 0
    async with asyncio.timeout(SOON_S):  # quick changes do not wait for the trial either
        body = {"reason": "wrong answers"}
        path = "/v1/learnwares/colours-objects"
        assert (await client.post(f"{path}/quarantine", json=body, headers=ADMIN)).status_code == 200
        assert (await client.post(f"{path}/release", headers=ADMIN)).status_code == 200
        assert (await client.delete(path, headers=ADMIN)).status_code == 200
    assert len(engine.tried) == 1
    engine.go_on.set()
    answers = await asyncio.gather(*sent)
    assert sorted(answer.status_code for answer in answers) == [201] * 3 + [429] * 3
    assert (len(engine.tried), engine.most_at_once) == (3, 1)
    assert sorted(record.id for record in market.records()) == sorted(engine.tried)
    assert market.check_integrity() == []
    again = next(each for each, answer in zip(uploads, answers, strict=True) if answer.status_code == 429)
    assert (await client.post("/v1/learnwares", content=again, headers=ZIP)).status_code == 201


async def test_one_that_is_turned_away_is_not_read(client: httpx.AsyncClient, engine: Engine, uploads: list[bytes]):
    sent = [asyncio.create_task(client.post("/v1/learnwares", content=each, headers=ZIP)) for each in uploads[:3]]
    await until(lambda: engine.tried)
    taken = 0

    async def body() -> AsyncIterator[bytes]:
        nonlocal taken
        for _ in range(100):
            taken += 1
            yield bytes(1000)

    answer = await client.post("/v1/learnwares", content=body(), headers=ZIP)
    assert (answer.status_code, taken) == (429, 0)
    engine.go_on.set()
    await asyncio.gather(*sent)


async def test_one_that_waits_too_long_is_turned_away(
    client: httpx.AsyncClient, api: MarketAPI, engine: Engine, uploads: list[bytes]
):
    api._intake.line._turn_s = 0.2
    first = asyncio.create_task(client.post("/v1/learnwares", content=uploads[0], headers=ZIP))
    await until(lambda: engine.tried)
    second = await client.post("/v1/learnwares", content=uploads[1], headers=ZIP)
    assert second.status_code == 429
    assert "more than 0.2 s" in second.json()["error"]["message"]
    engine.go_on.set()
    assert (await first).status_code == 201


class Connection:
    """A client's side of one request to the application, which can hang up."""

    def __init__(self, app: Any, content: bytes, more: bool = False) -> None:
        self.gone = asyncio.Event()
        self.status = 0
        self._messages = [{"type": "http.request", "body": content, "more_body": more}]
        headers = [(name.encode(), value.encode()) for name, value in ZIP.items()]
        scope = {"type": "http", "method": "POST", "path": "/v1/learnwares", "query_string": b"", "headers": headers}
        self.task = asyncio.create_task(app(scope, self._receive, self._send))

    async def _receive(self) -> dict[str, Any]:
        if self._messages:
            return self._messages.pop()
        await self.gone.wait()
        return {"type": "http.disconnect"}

    async def _send(self, message: dict[str, Any]) -> None:
        self.status = message.get("status", self.status)


@pytest.mark.parametrize("how", ["disconnected", "cancelled"])
async def test_a_client_that_hangs_up_during_its_trial_frees_the_line_and_leaves_nothing(
    api: MarketAPI, client: httpx.AsyncClient, market: Market, engine: Engine, uploads: list[bytes], how: str
):
    connection = Connection(api.application(), uploads[0])
    await until(lambda: engine.tried)
    if how == "disconnected":
        connection.gone.set()
    else:
        connection.task.cancel()
    await asyncio.wait({connection.task}, timeout=SOON_S)
    assert connection.task.done()
    assert engine.cancelled == ["up-0"]
    assert list((market.root / "incoming").iterdir()) == []
    assert market.records(State.QUARANTINED) == []
    engine.go_on.set()
    for number in (0, 1):
        assert (await client.post("/v1/learnwares", content=uploads[number], headers=ZIP)).status_code == 201


async def test_a_client_that_hangs_up_or_stalls_during_its_upload_keeps_nobody_waiting(
    api: MarketAPI, client: httpx.AsyncClient, engine: Engine, uploads: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    engine.go_on.set()
    slow = [Connection(api.application(), uploads[0][:100], more=True) for _ in range(2)]
    assert (await client.post("/v1/learnwares", content=uploads[1], headers=ZIP)).status_code == 201  # overtakes them
    slow += [Connection(api.application(), uploads[0][:100], more=True)]
    await asyncio.sleep(0.05)
    assert (await client.post("/v1/learnwares", content=uploads[2], headers=ZIP)).status_code == 429
    for each in slow:
        each.gone.set()
    await asyncio.gather(*(each.task for each in slow))
    assert {each.status for each in slow} == {400}
    assert (await client.post("/v1/learnwares", content=uploads[2], headers=ZIP)).status_code == 201


async def test_an_upload_that_stands_still_is_cut(
    api: MarketAPI, client: httpx.AsyncClient, monkeypatch: pytest.MonkeyPatch
):
    import serving.applications.upload as upload_module

    monkeypatch.setattr(upload_module.uploaded.__wrapped__, "__defaults__", (None, 0.1))
    connection = Connection(api.application(), b"PK", more=True)
    await asyncio.wait({connection.task}, timeout=SOON_S)
    assert connection.status == 400


async def test_what_was_being_checked_is_given_up(market: Market, engine: Engine, uploads: list[bytes]):
    """A thread cannot be cancelled, but what it waits for can be ended."""
    given_up = asyncio.Event()
    loop = asyncio.get_running_loop()
    ended: list[str] = []

    class Checks:
        def take(self, *_: Any) -> None:
            asyncio.run_coroutine_threadsafe(given_up.wait(), loop).result(SOON_S)
            ended.append("take")
            raise OSError(errno.EPIPE, "killed")

    blocked = Market(market.root, checks=Checks())  # type: ignore[arg-type]
    api = MarketAPI(blocked, Access(Keyring(admin_key="secret")), 1 << 20, engine.probe, engine.follow, given_up.set)
    connection = Connection(api.application(), uploads[0])
    await until(lambda: api._intake.line._turn.locked())
    connection.gone.set()
    await asyncio.wait({connection.task}, timeout=SOON_S)
    assert (connection.status, ended) == (400, ["take"])
    assert not api._intake.line._turn.locked()


def _hold(root: Path, held: Any, release: Any) -> None:
    with market_lock(root, 5):
        held.set()
        release.wait(30)


@pytest.mark.slow
async def test_while_the_command_line_changes_the_market_changes_are_told_to_wait_and_reads_go_on(
    client: httpx.AsyncClient, market: Market, engine: Engine, uploads: list[bytes]
):
    processes = multiprocessing.get_context("fork")
    held, release = processes.Event(), processes.Event()
    other = processes.Process(target=_hold, args=(market.root, held, release))
    other.start()
    try:
        await asyncio.to_thread(held.wait, 10)
        started = time.monotonic()
        answer = await client.delete("/v1/learnwares/colours-objects", headers=ADMIN)
        assert time.monotonic() - started < SOON_S
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "market_busy")
        assert int(answer.headers["retry-after"]) > 0
        assert await read(client) < SOON_S
        engine.go_on.set()
        upload = asyncio.create_task(client.post("/v1/learnwares", content=uploads[0], headers=ZIP))
        await until(lambda: engine.tried)
        await asyncio.sleep(0.5)  # longer than a change waits: what was tried waits for more than one
        release.set()
        assert (await upload).status_code == 201
    finally:
        release.set()
        other.join()


@pytest.mark.slow
async def test_a_change_that_cannot_be_published_is_kept_and_said_so_and_published_later(
    api: MarketAPI, client: httpx.AsyncClient, market: Market, engine: Engine, uploads: list[bytes], monkeypatch
):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr("serving.applications.market_keeper.RETRY_S", 0.05)
    monkeypatch.setattr("specs.market.publishing.write_catalogue", full)
    engine.go_on.set()
    created = (await client.post("/v1/learnwares", content=uploads[0], headers=ZIP)).json()
    assert (created["state"], created["served"]) == ("active", False)
    assert "the change is kept, but the catalogue cannot be written (No space left on device)" in created["pending"]
    removed = await client.delete("/v1/learnwares/colours-objects", headers=ADMIN)
    assert (removed.status_code, removed.json()["state"]) == (200, "removed")
    assert "No space left" in removed.json()["pending"]
    listed = (await client.get("/v1/learnwares")).json()
    assert [each["id"] for each in listed["data"]] == ["up-0"]
    assert "No space left" in listed["unpublished"]
    assert [entry.id for entry in read_catalogue(market.root).entries] == ["colours-objects"]
    api.keeper.start()
    await asyncio.sleep(0.3)
    monkeypatch.undo()
    api.keeper.wake()
    await until(lambda: market.unpublished is None)
    assert [entry.id for entry in read_catalogue(market.root).entries] == ["up-0"]
    assert "unpublished" not in (await client.get("/v1/learnwares")).json()


async def test_a_full_disk_is_said_and_changes_nothing(
    client: httpx.AsyncClient, market: Market, engine: Engine, uploads: list[bytes], monkeypatch: pytest.MonkeyPatch
):
    def full(*_: Any) -> None:
        raise OSError(errno.ENOSPC, "No space left on device")

    engine.go_on.set()
    with monkeypatch.context() as patch:
        patch.setattr("specs.market.objects.sync", full)
        answer = await client.post("/v1/learnwares", content=uploads[0], headers=ZIP)
        assert (answer.status_code, answer.json()["error"]["code"]) == (503, "market_unwritable")
        assert int(answer.headers["retry-after"]) > 0
        assert "No space left on device" in answer.json()["error"]["message"]
        assert await read(client) < SOON_S
    assert (await client.post("/v1/learnwares", content=uploads[0], headers=ZIP)).status_code == 201
    assert market.check_integrity() == []


async def test_the_keeper_tries_again_and_says_each_fault_once(caplog, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("serving.applications.market_keeper.RETRY_S", 0.01)
    outcomes: list[Any] = [MarketUnwritable("full"), MarketUnwritable("full"), RuntimeError("odd"), False, True]
    looks = 0

    async def reconcile() -> bool:
        nonlocal looks
        looks += 1
        outcome = outcomes.pop(0) if outcomes else True
        if isinstance(outcome, Exception):
            raise outcome
        return bool(outcome)

    keeper = MarketKeeper(reconcile)
    keeper.start()
    await until(lambda: looks == 5)
    assert [line.split(": ", 1)[1] for line in caplog.messages] == ["full", "RuntimeError: odd"]
    assert keeper.fault is None
    keeper.wake()
    await until(lambda: looks == 6)


async def test_a_line_counts_who_is_inside_whatever_happens():
    line = line_module.UploadLine(admitted=1)
    with pytest.raises(ZeroDivisionError), line.place():
        raise ZeroDivisionError
    with line.place():
        pass
