"""Canaries over HTTP, and for the rule that decides on them."""

from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from serving.access.keyring import Keyring
from serving.applications import market_server
from serving.applications.access import Access
from serving.applications.market_record import describe_listed
from serving.applications.market_server import MarketServer
from specs.card import RESERVED_NAMES
from specs.errors import UnknownLearnware
from specs.market.examination import ChecksHere
from specs.market.journal import State
from specs.market.store import Market
from specs.specification import DESCRIPTION_FILE
from tests.serving.applications.test_market import ADMIN, WITH_A_READER, ZIP, Replicas, client_of, message
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import pack, requirements, variant
from tests.specs.market.test_canaries import put_canary
from tests.specs.market.test_store import put

NAME = "acme/tfns"
PATH = f"/v1/learnwares/{NAME}"


class Versions:
    """Folders and zips of the learnware's versions."""

    def __init__(self, root: Path) -> None:
        self._root = root
        self._whole = write_learnware(root / "whole")

    def folder(self, version: int, learnware_id: str = NAME) -> Path:
        target = self._root / f"{learnware_id.replace('/', '-')}-{version}"
        return target if target.is_dir() else variant(self._whole, target, learnware_id, version, float(version))

    def zipped(self, version: int, learnware_id: str = NAME) -> bytes:
        return pack(self.folder(version, learnware_id), self._root / "packed.zip").read_bytes()


@pytest.fixture
def versions(tmp_path: Path) -> Versions:
    return Versions(tmp_path)


@pytest.fixture
def market(tmp_path: Path, versions: Versions) -> Market:
    market = Market(tmp_path / "market", requirements(tmp_path / "base"))
    put(market, versions.folder(1))
    return market


@pytest.fixture
def replicas() -> Replicas:
    return Replicas()


@pytest.fixture
async def client(market: Market, replicas: Replicas) -> AsyncIterator[httpx.AsyncClient]:
    async with client_of(market, replicas, Access(Keyring(admin_key="secret"))) as client:
        client.headers.update(ADMIN)
        yield client


async def begin(client: httpx.AsyncClient, versions: Versions, version: int, share: str = "0.05") -> dict[str, Any]:
    answer = await client.put(f"{PATH}?canary={share}", content=versions.zipped(version), headers=ZIP)
    assert answer.status_code == 200, answer.text
    found: dict[str, Any] = answer.json()
    return found


async def shown(client: httpx.AsyncClient, path: str = PATH) -> dict[str, Any]:
    found: dict[str, Any] = (await client.get(path)).json()
    return found


async def test_a_canary_is_tried_served_shown_and_promoted(
    client: httpx.AsyncClient, versions: Versions, replicas: Replicas, market: Market
) -> None:
    assert ((await shown(client))["canary"], (await shown(client))["canaries"]) == (None, [])
    begun = await begin(client, versions, 2)
    expected = {"id": f"{NAME}@canary", "version": 2, "served": True, "canary_of": NAME, "share": 0.05}
    assert expected.items() <= begun.items()
    assert len(replicas.tried) == 1  # on an engine, as every version
    running = (await shown(client))["canary"]
    assert running == {"version": 2, "share": 0.05, "since": running["since"], "sha256": begun["sha256"]}
    (listed,) = (await client.get("/v1/learnwares")).json()["data"]
    assert (listed["id"], listed["version"], listed["canary"]) == (NAME, 1, running)
    of_its_own = await shown(client, f"{PATH}@canary")
    assert (of_its_own["canary_of"], of_its_own["off_task"]["measured"]["everyday"]["prompts"]) == (NAME, 48)

    answer = await client.post(f"{PATH}/promote", json={"reason": "better in 40 of 50 answers"})
    assert (answer.status_code, answer.json()["id"], answer.json()["version"]) == (200, NAME, 2)
    assert answer.json()["served"]
    assert len(replicas.tried) == 1  # no new trial
    after = await shown(client)
    (past,) = after["canaries"]
    assert (after["canary"], after["version"], after["off_task"]["measured"]["everyday"]["prompts"]) == (None, 2, 48)
    told = {**running, "outcome": "promoted", "reason": "better in 40 of 50 answers"}
    assert past == told | {"until": past["until"]}
    assert replicas.sequences == [2, 3]
    assert market.check_integrity() == []


async def test_a_canary_that_is_rolled_back_leaves_the_learnware_as_it_was(
    client: httpx.AsyncClient, versions: Versions
) -> None:
    await begin(client, versions, 2, "12.5%25")
    assert (await shown(client))["canary"]["share"] == 0.125
    answer = await client.post(f"{PATH}/roll-back", json={"reason": "worse"})
    body = answer.json()
    assert (answer.status_code, body["id"], body["version"], body["served"]) == (200, NAME, 1, True)
    assert body["canary"] is None
    (past,) = (await shown(client))["canaries"]
    assert (past["version"], past["outcome"], past["reason"]) == (2, "rolled back", "worse")
    assert (await client.get(f"{PATH}@canary")).json()["state"] == "removed"
    states = {
        one["id"]: one.get("canary", "none") for one in (await client.get("/v1/learnwares?state=all")).json()["data"]
    }
    assert states == {NAME: None, f"{NAME}@canary": "none"}


async def test_a_promotion_needs_no_reason_and_no_body(client: httpx.AsyncClient, versions: Versions) -> None:
    await begin(client, versions, 2)
    assert (await client.post(f"{PATH}/promote")).status_code == 200
    assert (await shown(client))["canaries"][0]["reason"] is None


async def test_what_cannot_be_is_refused_in_words_and_changes_nothing(
    client: httpx.AsyncClient, versions: Versions, market: Market, replicas: Replicas
) -> None:
    async def put_zip(path: str, version: int = 2) -> httpx.Response:
        return await client.put(path, content=versions.zipped(version), headers=ZIP)

    for share in ("0", "1", "5", "", "much"):
        assert "above 0 and below 1" in message(await put_zip(f"{PATH}?canary={share}"), 400)
    posted = await client.post("/v1/learnwares?canary=0.05", content=versions.zipped(2), headers=ZIP)
    assert "PUT /v1/learnwares/ID?canary=0.05" in message(posted, 400)
    assert "there is no learnware" in message(await put_zip("/v1/learnwares/other?canary=0.05"), 404)
    assert replicas.tried == []
    for end in ("promote", "roll-back"):
        ended = await client.post(f"{PATH}/{end}", json={"reason": "x"})
        assert "has no canary" in message(ended, 404)
        assert ended.json()["error"]["code"] == "canary_not_found"
        missing = await client.post(f"/v1/learnwares/other/{end}", json={"reason": "x"})
        assert missing.json()["error"]["code"] == "learnware_not_found"
    await begin(client, versions, 2)
    for path in (PATH, f"{PATH}?canary=0.5"):
        refused = await put_zip(path, 3)
        assert "promote it or roll it back before another version comes" in message(refused, 409)
        assert refused.json()["error"]["code"] == "canary_runs"
    assert len(replicas.tried) == 1  # what cannot be taken is not tried
    assert '{"reason": "…"}' in message(await client.post(f"{PATH}/roll-back"), 400)
    assert '{"reason": "…"}' in message(await client.post(f"{PATH}/promote", json={"why": 1}), 400)
    assert "reason" in message(await client.post(f"{PATH}/roll-back", json={"reason": " "}), 400)
    assert [(one.id, one.version) for one in market.records()] == [(NAME, 1), (f"{NAME}@canary", 2)]


async def test_a_canary_that_fails_its_trial_is_kept_out(
    client: httpx.AsyncClient, versions: Versions, market: Market, replicas: Replicas
) -> None:
    replicas.refusal = "its answers are no text"
    refused = await client.put(f"{PATH}?canary=0.05", content=versions.zipped(2), headers=ZIP)
    assert "its answers are no text" in message(refused, 400)
    assert market.canaries() == []
    assert [record.version for record in market.records(State.QUARANTINED)] == [2]


@pytest.mark.parametrize("end", ["promote", "roll-back"])
async def test_only_the_admin_key_ends_canaries_and_the_paths_are_nobodys_ids(
    market: Market, replicas: Replicas, versions: Versions, end: str
) -> None:
    put_canary(market, versions.folder(2))
    reader = {"authorization": "Bearer reader"}
    async with client_of(market, replicas, WITH_A_READER) as client:
        for headers in ({}, reader):
            assert (await client.post(f"{PATH}/{end}", json={"reason": "x"}, headers=headers)).status_code == 401
            assert (await client.put(f"{PATH}?canary=0.1", headers=headers)).status_code == 401
        assert len(market.canaries()) == 1
        assert (await client.get(f"/v1/learnwares/plain/{end}", headers=ADMIN)).status_code == 405
        assert (await client.post(f"/v1/learnwares/acme%2Ftfns/{end}", json={"reason": "x"}, headers=ADMIN)).is_success
    assert end in RESERVED_NAMES
    assert market.canaries() == []


def test_auto_gets_a_canary_as_it_gets_its_learnware(market: Market, versions: Versions) -> None:
    plain = versions.folder(2)
    for path in (plain / "specification").rglob("*"):
        path.unlink()
    assert not (plain / "specification" / DESCRIPTION_FILE).exists()
    canary = put_canary(market, plain)
    assert describe_listed(market, canary)["chosen_by_auto"] is True
    over = market.roll_back(NAME, "worse")
    assert describe_listed(market, over)["not_chosen_because"] == "it is not served"


class Checks(ChecksHere):
    """Checks in this process, which need no start."""

    def start(self) -> None:
        pass

    def stop(self) -> None:
        pass


@pytest.fixture
def server(market: Market, replicas: Replicas, monkeypatch: pytest.MonkeyPatch) -> MarketServer:
    monkeypatch.setattr(market_server, "ChildChecks", Checks)
    monkeypatch.setattr(market_server, "_wait_for_replicas", replicas.follow)
    return MarketServer(market.root, requirements(market.root.parent / "base"), Access(Keyring()), 1, False)


async def test_the_rule_sees_the_canaries_and_ends_the_one_that_it_means(
    server: MarketServer, market: Market, versions: Versions, replicas: Replicas
) -> None:
    assert await server.canaries() == []
    canary = put_canary(market, versions.folder(2), 0.1)
    assert canary.since is not None
    sha256 = str(canary.sha256)
    (told,) = await server.canaries()
    assert told == {
        "id": NAME,
        "version": 2,
        "sha256": sha256,
        "engine_name": f"{NAME}@canary@{sha256[:12]}",
        "share": 0.1,
        "since": canary.since.timestamp(),
    }
    for end in (server.promote, server.roll_back):
        for name, meant in ((NAME, "0" * 64), ("gone", sha256)):
            with pytest.raises(UnknownLearnware):  # nobody may take it for done
                await end(name, meant, "another one was meant")
    assert (len(await server.canaries()), replicas.sequences) == (1, [])
    await server.promote(NAME, sha256, "as good as version 1")
    assert (market.active(NAME).version, await server.canaries()) == (2, [])
    assert replicas.sequences == [market.sequence]
    third = put_canary(market, versions.folder(3))
    await server.roll_back(NAME, str(third.sha256), "worse than version 2")
    assert [one.reason for one in market.past_canaries(NAME)] == ["as good as version 1", "worse than version 2"]
    assert market.active(NAME).version == 2
