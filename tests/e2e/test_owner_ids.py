"""A learnware whose id has an owner, `acme/tfns`, through the whole stack: submitted, asked, measured, removed."""

from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from tests.e2e.learnwares import copy_of, zipped
from tests.e2e.support import ADMIN_KEY, QUESTIONS, Stack, chat, metric

pytestmark = [pytest.mark.e2e, pytest.mark.extra]

ADMIN = {"authorization": f"Bearer {ADMIN_KEY}"}
ZIP = {"content-type": "application/zip"} | ADMIN
ID = "acme/tfns"
SPELLINGS = (ID, "acme%2Ftfns")


@pytest.fixture
def gone_afterwards(http: httpx.Client) -> Iterator[None]:
    yield
    http.delete(f"/v1/learnwares/{SPELLINGS[1]}", headers=ADMIN)


def test_an_id_with_an_owner_is_served_like_any_other(
    http: httpx.Client, stack: Stack, gone_afterwards: None, tmp_path: Path
):
    response = http.post("/v1/learnwares", content=zipped(copy_of("finance-tfns", tmp_path / "one", ID)), headers=ZIP)
    assert response.status_code == 201, response.text
    assert (response.json()["id"], response.json()["served"]) == (ID, True)
    listed = {card["id"]: card for card in http.get("/v1/models").json()["data"]}
    assert ID in listed
    assert ID in {record["id"] for record in http.get("/v1/learnwares").json()["data"]}
    for spelling in SPELLINGS:
        assert http.get(f"/v1/models/{spelling}").json()["id"] == ID
        assert http.get(f"/v1/learnwares/{spelling}").json()["card"]["id"] == ID

    answer = chat(http, QUESTIONS[0].text, ID)
    assert answer.status_code == 200, answer.text
    assert (answer.headers["x-learnware"], answer.headers["x-learnware-reason"]) == (ID, "named")
    assert answer.json()["model"] == ID
    with stack.openai() as client:
        assert client.models.retrieve(ID).id == ID
        said = client.chat.completions.create(
            model=ID, messages=[{"role": "user", "content": QUESTIONS[0].text}], max_tokens=2
        )
        assert said.model == ID

    second = zipped(copy_of("finance-tfns", tmp_path / "two", ID, 2))
    response = http.put(f"/v1/learnwares/{SPELLINGS[1]}", content=second, headers=ZIP)
    assert response.status_code == 200, response.text
    assert (response.json()["id"], response.json()["version"]) == (ID, 2)
    assert chat(http, QUESTIONS[0].text, ID).headers["x-learnware"] == ID

    explained = http.post("/v1/route", json={"model": "auto", "messages": said_of(QUESTIONS[0].text)}).json()
    assert ID in {candidate["learnware"] for candidate in explained["candidates"]}
    text = http.get("/metrics").text
    assert metric(text, "learnware_requests_total", learnware=ID, reason="named") >= 3
    assert metric(text, "learnware_adapter_tier", learnware=ID) >= 1

    for method in ("GET", "DELETE"):
        assert http.request(method, "/v1/learnwares/acme/quarantine", headers=ADMIN).status_code == 405
    response = http.delete(f"/v1/learnwares/{ID}", headers=ADMIN)
    assert (response.status_code, response.json()["id"], response.json()["state"]) == (200, ID, "removed")
    assert chat(http, "hi", ID).status_code == 404
    assert ID not in {card["id"] for card in http.get("/v1/models").json()["data"]}


def said_of(text: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": text}]
