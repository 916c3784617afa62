"""`/v1/learnwares` over a real market, with the engine's trial and the replicas' answers played by the test."""

import shutil
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from serving.access.keyring import ADMIN_KEY_VARIABLE, Keyring, admin_key_of, digest_of
from serving.access.tenant import Tenant
from serving.applications.access import Access
from serving.applications.market import MarketAPI
from serving.config import load_config
from specs.adapter import adapter_hash
from specs.capability import Capability, ProbeScore, load_capability, save_capability
from specs.market.checks import Requirements
from specs.market.journal import State
from specs.market.staged import Staged
from specs.market.store import Market
from specs.market.trial import PROTOCOL, Trial
from specs.off_task import UNMEASURED_LOSS, Kind, OffTaskScore
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import edit_card, pack, requirements, variant

LIMIT = 1 << 20
ZIP = {"content-type": "application/zip"}
ADMIN = {"authorization": "Bearer secret"}
CHANGES = [
    ("POST", "/v1/learnwares"),
    ("PUT", "/v1/learnwares/colours-objects"),
    ("DELETE", "/v1/learnwares/colours-objects"),
    ("POST", "/v1/learnwares/colours-objects/quarantine"),
    ("POST", "/v1/learnwares/colours-objects/release"),
]
WITH_A_READER = Access(Keyring(None, [(digest_of("reader"), Tenant("reader"))], "secret"))
"""An admin key, and an API key `reader`."""


class Replicas:
    """What the engine says to a learnware on trial, and whether the replicas follow."""

    def __init__(self) -> None:
        self.refusal: str | None = None
        self.notes: tuple[str, ...] = ()
        self.elsewhere = {Kind.EVERYDAY: OffTaskScore(48, -1.5, 0.1, 33)}
        self.follows = True
        self.tried: list[str] = []
        self.sequences: list[int] = []

    async def probe(self, staged: Staged) -> Trial:
        assert (staged.folder / "adapter_model.safetensors").is_file()
        self.tried.append(staged.entry.engine_name)
        return Trial(self.refusal, {} if self.refusal else self.elsewhere, self.notes)

    async def follow(self, sequence: int) -> bool:
        self.sequences.append(sequence)
        return self.follows


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


@pytest.fixture
def zipped(whole: Path, tmp_path: Path) -> bytes:
    return pack(whole, tmp_path / "first.zip").read_bytes()


@pytest.fixture
def newer(whole: Path, tmp_path: Path) -> bytes:
    folder = variant(whole, tmp_path / "newer", "colours-objects", 2, 2.0)
    return pack(folder, tmp_path / "newer.zip").read_bytes()


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "market", requirements(tmp_path / "base"))


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


def client_of(market: Market, replicas: Replicas, access: Access) -> httpx.AsyncClient:
    app = MarketAPI(market, access, LIMIT, replicas.probe, replicas.follow).application()
    return httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://market")


@pytest.fixture
async def client(market: Market, replicas: Replicas) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(market, replicas, Access(Keyring(admin_key="secret"))) as client:
        yield client


def message(response: httpx.Response, status: int) -> str:
    assert response.status_code == status, response.text
    error = response.json()["error"]
    assert set(error) == {"message", "type", "param", "code"}
    return error["message"]


async def test_a_learnware_comes_is_tried_replaced_and_goes(
    client: httpx.AsyncClient, market: Market, replicas: Replicas, zipped: bytes, newer: bytes
):
    created = await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    assert created.status_code == 201
    assert {"id": "colours-objects", "version": 1, "state": "active", "served": True}.items() <= created.json().items()
    replaced = await client.put("/v1/learnwares/colours-objects", content=newer, headers=ZIP | ADMIN)
    assert (replaced.status_code, replaced.json()["version"]) == (200, 2)
    assert len(set(replicas.tried)) == 2
    shown = (await client.get("/v1/learnwares/colours-objects")).json()
    assert (shown["version"], shown["card"]["name"]) == (2, "Colours of objects")
    removed = await client.delete("/v1/learnwares/colours-objects", headers=ADMIN)
    assert (removed.json()["state"], removed.json()["served"]) == ("removed", False)
    assert (await client.get("/v1/learnwares")).json() == {"object": "list", "data": [], "unserved": {}}
    states = [record["state"] for record in (await client.get("/v1/learnwares?state=all")).json()["data"]]
    assert states == ["replaced", "removed"]
    assert replicas.sequences == [1, 2, 3]
    assert market.check_integrity() == []


async def test_what_intake_measures_is_kept_and_shown_whatever_the_learnware_says_of_itself(
    client: httpx.AsyncClient, market: Market, replicas: Replicas, whole: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(whole, tmp_path / "boaster"))
    probes = {"colours-objects": ProbeScore(16, 0.75, 0.7, -0.4, 0.9, 0.25, 0.3, -2.5)}
    flattering = {kind: OffTaskScore(1000, 0.0, 0.0, 0) for kind in Kind}
    own = Capability("tiny-base", adapter_hash(folder), "own", probes, flattering, "own")
    save_capability(own, folder / "specification")
    content = pack(folder, tmp_path / "boaster.zip").read_bytes()
    created = await client.post("/v1/learnwares", content=content, headers=ZIP | ADMIN)
    assert created.status_code == 201
    (record,) = market.records()
    kept = market.folder(record)
    assert kept is not None
    found = load_capability(kept / "specification")
    assert found is not None
    assert (found.probes, found.protocol) == (probes, "own")
    assert (found.elsewhere, found.elsewhere_protocol) == (replicas.elsewhere, PROTOCOL)
    shown = (await client.get("/v1/learnwares/colours-objects")).json()["off_task"]
    assert shown["measured"]["everyday"]["degenerate"] == 33
    assert shown["measured"]["domain"] is None
    assert shown["loss"]["everyday"] > 0.6
    assert shown["loss"]["domain"] == pytest.approx(UNMEASURED_LOSS)
    assert "auto will rarely choose it" in shown["note"]
    assert market.check_integrity() == []


async def test_what_the_trial_found_odd_is_said_and_kept(
    client: httpx.AsyncClient, replicas: Replicas, zipped: bytes, newer: bytes
):
    replicas.notes = ("it answers 'warm' to each of 14 different requests of its own task",)
    created = await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    assert (created.status_code, created.json()["notes"]) == (201, list(replicas.notes))
    (listed,) = (await client.get("/v1/learnwares")).json()["data"]
    assert listed["notes"] == list(replicas.notes)
    assert (await client.get("/v1/learnwares/colours-objects")).json()["notes"] == list(replicas.notes)
    replicas.notes = ()
    replaced = await client.put("/v1/learnwares/colours-objects", content=newer, headers=ZIP | ADMIN)
    assert replaced.json()["notes"] == []


async def test_where_the_engine_could_not_measure_it_nothing_is_believed(
    client: httpx.AsyncClient, market: Market, replicas: Replicas, whole: Path, tmp_path: Path
):
    folder = Path(shutil.copytree(whole, tmp_path / "boaster"))
    flattering = {kind: OffTaskScore(1000, 0.0, 0.0, 0) for kind in Kind}
    own = Capability("tiny-base", adapter_hash(folder), elsewhere=flattering, elsewhere_protocol="own")
    save_capability(own, folder / "specification")
    replicas.elsewhere = {}
    content = pack(folder, tmp_path / "boaster.zip").read_bytes()
    assert (await client.post("/v1/learnwares", content=content, headers=ZIP | ADMIN)).status_code == 201
    shown = (await client.get("/v1/learnwares/colours-objects")).json()["off_task"]
    assert set(shown["measured"].values()) == {None}
    assert "not measured, so the worst is assumed: everyday, domain, material" in shown["note"]


async def test_the_engine_knows_what_is_served_by_the_content_that_was_measured(
    client: httpx.AsyncClient, market: Market, replicas: Replicas, zipped: bytes
):
    await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    (record,) = market.records()
    assert record.sha256 is not None
    assert replicas.tried != [f"colours-objects@{record.sha256[:12]}"]


async def test_what_the_engine_refuses_is_quarantined_and_never_served(
    client: httpx.AsyncClient, market: Market, replicas: Replicas, zipped: bytes
):
    replicas.refusal = "it answers as the base model does"
    response = await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    assert message(response, 400) == "learnware colours-objects: it answers as the base model does"
    assert market.records() == []
    (record,) = (await client.get("/v1/learnwares?state=quarantined")).json()["data"]
    assert (record["id"], record["reason"]) == ("colours-objects", "it answers as the base model does")
    assert replicas.sequences == []


async def test_what_fails_a_check_never_reaches_the_engine(
    client: httpx.AsyncClient, replicas: Replicas, whole: Path, zipped: bytes, tmp_path: Path
):
    folder = Path(shutil.copytree(whole, tmp_path / "bad"))
    edit_card(folder, id="auto")
    bad = pack(folder, tmp_path / "bad.zip").read_bytes()
    assert "must not be 'auto'" in message(await client.post("/v1/learnwares", content=bad, headers=ZIP | ADMIN), 400)
    await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    taken = await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    assert "in the market already" in message(taken, 409)
    stale = await client.put("/v1/learnwares/colours-objects", content=zipped, headers=ZIP | ADMIN)
    assert "a replacement needs a higher one" in message(stale, 400)
    assert len(replicas.tried) == 1


async def test_a_replacement_is_for_what_the_path_says(client: httpx.AsyncClient, zipped: bytes, newer: bytes):
    missing = await client.put("/v1/learnwares/colours-object", content=newer, headers=ZIP | ADMIN)
    assert "no learnware 'colours-object'" in message(missing, 404)
    await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    missing = await client.put("/v1/learnwares/colours-object", content=newer, headers=ZIP | ADMIN)
    assert message(missing, 404).endswith("did you mean colours-objects?")


async def test_quarantine_asks_for_a_reason(client: httpx.AsyncClient, market: Market, zipped: bytes):
    await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    path = "/v1/learnwares/colours-objects/quarantine"
    for body in (b"", b"[]", b'{"reason": 5}', b'{"reason": " "}'):
        assert "reason" in message(await client.post(path, content=body, headers=ADMIN), 400)
    done = await client.post(path, json={"reason": "wrong answers"}, headers=ADMIN)
    assert (done.json()["state"], done.json()["reason"]) == ("quarantined", "wrong answers")
    assert [record.id for record in market.records(State.QUARANTINED)] == ["colours-objects"]


async def test_what_is_in_quarantine_stays_out_until_it_is_released(
    client: httpx.AsyncClient, replicas: Replicas, zipped: bytes
):
    replicas.refusal = "it answers as the base model does"
    assert (await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)).status_code == 400
    replicas.refusal = None
    again = await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    assert "these very files are in quarantine" in message(again, 400)
    assert len(replicas.tried) == 1
    listed = (await client.get("/v1/learnwares")).json()
    assert (listed["data"], listed["unserved"]) == ([], {"quarantined": 1})
    released = await client.post("/v1/learnwares/colours-objects/release", headers=ADMIN)
    assert (released.json()["state"], released.json()["served"]) == ("removed", False)
    assert (await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)).status_code == 201
    await client.post("/v1/learnwares/colours-objects/quarantine", json={"reason": "wrong"}, headers=ADMIN)
    again = await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    assert "wrong. Mend them" in message(again, 400)  # although what was measured had been added to the served files
    released = await client.post("/v1/learnwares/colours-objects/release", headers=ADMIN)
    assert (released.json()["state"], released.json()["served"]) == ("active", True)
    none = await client.post("/v1/learnwares/colours-objects/release", headers=ADMIN)
    assert "is in quarantine" in message(none, 404)


async def test_what_does_not_fit_the_configuration_is_listed_with_the_reason(
    market: Market, replicas: Replicas, zipped: bytes
):
    async with client_of(market, replicas, Access(Keyring(admin_key="secret"))) as client:
        await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    narrow = Market(market.root, Requirements(max_rank=2))
    narrow.refit()
    async with client_of(narrow, replicas, Access(Keyring(admin_key="secret"))) as client:
        (record,) = (await client.get("/v1/learnwares?state=unfit")).json()["data"]
        assert (record["id"], record["state"]) == ("colours-objects", "unfit")
        assert "its rank is 4; the engine's slots hold up to 2" in record["reason"]
        listed = (await client.get("/v1/learnwares")).json()
        assert (listed["data"], listed["unserved"]) == ([], {"unfit": 1})
        assert (await client.get("/v1/learnwares/colours-objects")).json()["state"] == "unfit"


@pytest.mark.parametrize(("method", "path"), CHANGES)
async def test_changes_need_the_admin_key(market: Market, replicas: Replicas, zipped: bytes, method: str, path: str):
    async with client_of(market, replicas, WITH_A_READER) as client:
        for header in (
            {},
            {"authorization": "Bearer reader"},
            {"authorization": "secret"},
            {"authorization": "Bearer"},
        ):
            response = await client.request(method, path, content=zipped, headers=ZIP | header)
            assert "need the admin key" in message(response, 401)
    async with client_of(market, replicas, Access(Keyring())) as client:
        response = await client.request(method, path, content=zipped, headers=ZIP | {"authorization": "Bearer "})
        assert ADMIN_KEY_VARIABLE in message(response, 403)
    assert market.records(None) == []


async def test_reading_needs_a_key_only_where_answers_do(market: Market, replicas: Replicas):
    async with client_of(market, replicas, WITH_A_READER) as client:
        for path in ("/v1/learnwares", "/v1/learnwares/x"):
            assert "API key" in message(await client.get(path), 401)
        for key in ("reader", "secret"):
            answer = await client.get("/v1/learnwares", headers={"authorization": f"bearer {key}"})
            assert answer.status_code == 200


def test_the_admin_key_comes_from_the_configuration_or_the_environment(monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "from-environment")
    assert admin_key_of(load_config(None)) == "from-environment"
    assert admin_key_of(load_config(None, {"market": {"admin_key": "own"}})) == "own"
    monkeypatch.setenv(ADMIN_KEY_VARIABLE, "")
    assert admin_key_of(load_config(None)) is None


async def test_a_learnware_without_a_specification_is_served_by_name_only(
    client: httpx.AsyncClient, whole: Path, zipped: bytes, tmp_path: Path
):
    nameless = variant(whole, tmp_path / "nameless", "nameless")
    shutil.rmtree(nameless / "specification")
    content = pack(nameless, tmp_path / "nameless.zip").read_bytes()
    created = (await client.post("/v1/learnwares", content=content, headers=ZIP | ADMIN)).json()
    assert (created["served"], created["chosen_by_auto"]) == (True, False)
    await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    listed = {each["id"]: each for each in (await client.get("/v1/learnwares")).json()["data"]}
    assert listed["colours-objects"]["chosen_by_auto"] is True
    assert "not_chosen_because" not in listed["colours-objects"]
    assert "it has no specification" in listed["nameless"]["not_chosen_because"]
    shown = (await client.get("/v1/learnwares/nameless")).json()
    assert shown["chosen_by_auto"] is False
    assert shown["off_task"]["measured"]["everyday"] is not None
    await client.delete("/v1/learnwares/colours-objects", headers=ADMIN)
    shown = (await client.get("/v1/learnwares/colours-objects")).json()
    assert (shown["chosen_by_auto"], shown["not_chosen_because"]) == (False, "it is not served")


async def test_an_upload_is_bounded_while_it_streams(client: httpx.AsyncClient, replicas: Replicas, market: Market):
    sent = 0

    async def endless():
        nonlocal sent
        while sent < 100 * LIMIT:
            sent += 65536
            yield bytes(65536)

    response = await client.post("/v1/learnwares", content=endless(), headers=ZIP | ADMIN)
    assert "larger than 1 MiB (market.max_upload_mib)" in message(response, 413)
    assert sent <= LIMIT + 2 * 65536
    announced = await client.post("/v1/learnwares", content=bytes(LIMIT + 1), headers=ZIP | ADMIN)
    assert "larger than 1 MiB" in message(announced, 413)
    assert market.records(None) == []


@pytest.mark.parametrize(
    ("content", "kind", "reason"),
    [
        (b"x", "application/json", "must be a zip file (Content-Type: application/zip), not application/json"),
        (b"", "application/zip", "The body is empty"),
        (b"PK\x03\x04 and then nothing", "application/zip; x=1", "not a whole zip file"),
    ],
)
async def test_a_body_that_is_no_zip_is_refused(client: httpx.AsyncClient, content: bytes, kind: str, reason: str):
    response = await client.post("/v1/learnwares", content=content, headers={"content-type": kind} | ADMIN)
    assert reason in message(response, 400)


async def test_paths_methods_and_queries_that_are_not_there_are_named(client: httpx.AsyncClient):
    assert "There is no PATCH /v1/learnwares" in message(await client.patch("/v1/learnwares"), 405)
    assert "There is no GET" in message(await client.get("/v1/learnwares/a/b/c"), 404)
    assert "not understood: limit" in message(await client.get("/v1/learnwares?limit=3"), 400)
    assert "state=lost" in message(await client.get("/v1/learnwares?state=lost"), 400)
    assert (await client.get("/v1/learnwares/")).status_code == 200


async def test_replicas_that_lag_are_said_to(client: httpx.AsyncClient, replicas: Replicas, zipped: bytes):
    replicas.follows = False
    response = await client.post("/v1/learnwares", content=zipped, headers=ZIP | ADMIN)
    assert (response.status_code, response.json()["served"]) == (201, False)
