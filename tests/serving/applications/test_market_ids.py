"""`/v1/learnwares` with ids that hold a slash, as a web server hands their paths on: plain and percent-encoded."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path

import httpx
import pytest

from serving.access.keyring import Keyring
from serving.applications.access import Access
from serving.applications.market import QUARANTINE, RELEASE, ROUTE_PREFIX, MarketAPI
from specs.card import RESERVED_NAMES
from specs.errors import UnknownLearnware
from specs.market.journal import State
from specs.market.store import Market, Staged
from specs.market.trial import Trial
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import edit_card, pack, requirements, variant

HEADERS = {"content-type": "application/zip", "authorization": "Bearer secret"}
ID = "acme/tfns"
SPELLINGS = ["acme/tfns", "acme%2Ftfns", "acme%2ftfns", "%61cme%2F%74fns", "acme/tfns/"]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


@pytest.fixture
def market(tmp_path: Path) -> Market:
    return Market(tmp_path / "market", requirements(tmp_path / "base"))


async def probe(_: Staged) -> Trial:
    return Trial(None, {})


async def follow(_: int) -> bool:
    return True


@pytest.fixture
async def client(market: Market) -> AsyncIterator[httpx.AsyncClient]:
    app = MarketAPI(market, Access(Keyring(admin_key="secret")), 1 << 20, probe, follow).application()
    transport = httpx.ASGITransport(app=app, root_path=ROUTE_PREFIX)  # as Ray Serve's replica mounts it
    async with httpx.AsyncClient(transport=transport, base_url="http://market", headers=HEADERS) as client:
        yield client


@pytest.fixture
def contents(whole: Path, tmp_path: Path) -> Iterator[bytes]:
    """Zips of the learnware `ID`, each of a higher version."""

    def make() -> Iterator[bytes]:
        for version in range(1, 10):
            folder = variant(whole, tmp_path / f"v{version}", ID, version, float(version))
            yield pack(folder, tmp_path / f"v{version}.zip").read_bytes()

    return make()


def names_below(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*"))


@pytest.mark.parametrize("spelling", SPELLINGS)
async def test_every_method_takes_every_spelling(
    client: httpx.AsyncClient, market: Market, contents: Iterator[bytes], spelling: str
):
    path = f"/v1/learnwares/{spelling}"
    created = await client.post("/v1/learnwares", content=next(contents))
    assert (created.status_code, created.json()["id"]) == (201, ID)
    assert [one["id"] for one in (await client.get("/v1/learnwares", params={"q": ID})).json()["data"]] == [ID]
    shown = await client.get(path)
    assert (shown.status_code, shown.json()["id"], shown.json()["card"]["id"]) == (200, ID, ID)
    replaced = await client.put(path, content=next(contents))
    assert (replaced.status_code, replaced.json()["id"], replaced.json()["version"]) == (200, ID, 2)
    held = await client.post(f"{path.rstrip('/')}/quarantine", json={"reason": "wrong answers"})
    assert (held.status_code, held.json()["id"], held.json()["state"]) == (200, ID, "quarantined")
    await client.post("/v1/learnwares", content=next(contents))
    removed = await client.delete(path)
    assert (removed.status_code, removed.json()["id"], removed.json()["state"]) == (200, ID, "removed")
    assert market.records() == []
    assert market.check_integrity() == []


async def test_openais_client_asks_by_a_spelling_that_is_understood(
    client: httpx.AsyncClient, contents: Iterator[bytes]
):
    from openai._utils._path import path_template

    await client.post("/v1/learnwares", content=next(contents))
    assert (await client.get(path_template("/v1/learnwares/{model}", model=ID))).json()["id"] == ID


async def test_a_path_below_a_learnware_is_told_from_an_id(
    client: httpx.AsyncClient, market: Market, whole: Path, tmp_path: Path
):
    """`acme/quarantine` is what is done to `acme`; no learnware may have it as its id, however its slash is written."""
    assert QUARANTINE in RESERVED_NAMES
    for learnware_id in ("acme", QUARANTINE):
        folder = variant(whole, tmp_path / learnware_id, learnware_id, scale=len(learnware_id))
        content = pack(folder, tmp_path / f"{learnware_id}.zip").read_bytes()
        assert (await client.post("/v1/learnwares", content=content)).status_code == 201
    edit_card(tmp_path / "acme", id="acme/quarantine")
    content = pack(tmp_path / "acme", tmp_path / "reserved.zip").read_bytes()
    refused = await client.post("/v1/learnwares", content=content)
    assert refused.status_code == 400
    assert "after the slash 'quarantine' is reserved" in refused.json()["error"]["message"]
    for below in (QUARANTINE, RELEASE):
        for path in (f"acme/{below}", f"acme%2F{below}"):
            for method in ("GET", "PUT", "DELETE"):
                answer = await client.request(method, f"/v1/learnwares/{path}", content=content)
                assert answer.status_code == 405
                assert f"There is no {method} /v1/learnwares/acme/{below}" in answer.json()["error"]["message"]
    assert {record.id for record in market.records()} == {"acme", QUARANTINE}
    for path in ("acme/quarantine", "quarantine%2Fquarantine"):
        assert (await client.post(f"/v1/learnwares/{path}", json={"reason": "x"})).status_code == 200
    assert market.records() == []
    assert (await client.get("/v1/learnwares/quarantine")).json()["state"] == "quarantined"


@pytest.mark.parametrize(
    "path",
    [
        "..%2Fx",
        "%2E%2E%2Fx",
        "a/..%2Fb",
        "a//b",
        "%2Fa",
        "a%5Cb",
        "a%00b",
        "a%0D%0Ab",
        "a%252Fb",
        "acme%252Ftfns",
        "a/b/c",
        "a%2Fb%2Fc",
        "..%2F..%2Fetc%2Fpasswd",
        "x" * 200,
    ],
)
async def test_a_hostile_path_names_no_learnware_and_changes_nothing(
    client: httpx.AsyncClient, market: Market, contents: Iterator[bytes], path: str, tmp_path: Path
):
    content = next(contents)
    await client.post("/v1/learnwares", content=content)
    before = names_below(tmp_path)
    for method in ("GET", "PUT", "DELETE"):
        answer = await client.request(method, f"/v1/learnwares/{path}", content=content)
        assert answer.status_code == 404, answer.text
        assert "no" in answer.json()["error"]["message"]
    answer = await client.post(f"/v1/learnwares/{path}/quarantine", json={"reason": "x"})
    assert answer.status_code == 404
    assert [record.id for record in market.records(None)] == [ID]
    assert names_below(tmp_path) == before


@pytest.mark.slow
@pytest.mark.parametrize(
    "learnware_id", ["../x", "a/../b", "a//b", "/a", "a/", "a/b/c", "a\\b", "a\nb", "a%2Fb", "a/."]
)
async def test_a_hostile_id_in_a_card_is_refused(
    client: httpx.AsyncClient, market: Market, whole: Path, tmp_path: Path, learnware_id: str
):
    folder = variant(whole, tmp_path / "hostile", "x")
    edit_card(folder, id=learnware_id)
    answer = await client.post("/v1/learnwares", content=pack(folder, tmp_path / "hostile.zip").read_bytes())
    assert answer.status_code == 400
    assert "is no learnware's id" in answer.json()["error"]["message"]
    assert market.records() == []


async def test_a_broken_replacement_is_recorded_under_the_id_that_it_was_for(
    client: httpx.AsyncClient, market: Market, contents: Iterator[bytes], whole: Path, tmp_path: Path
):
    await client.post("/v1/learnwares", content=next(contents))
    answer = await client.put("/v1/learnwares/acme/tfns", content=b"no zip")
    assert answer.status_code == 400
    assert answer.json()["error"]["message"].startswith("learnware acme/tfns: upload.zip is not a whole zip file")
    assert [record.id for record in market.records(State.QUARANTINED)] == [ID]
    other = pack(variant(whole, tmp_path / "other", "acme-tfns", 2), tmp_path / "other.zip").read_bytes()
    answer = await client.put("/v1/learnwares/acme%2Ftfns", content=other)
    assert "holds learnware 'acme-tfns', but 'acme/tfns' is to be replaced" in answer.json()["error"]["message"]
    assert market.active(ID).version == 1
    with pytest.raises(UnknownLearnware):
        market.show("acme_tfns")
