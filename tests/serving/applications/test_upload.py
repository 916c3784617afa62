"""Small bodies of requests: whole, bounded while they come, and cut off where the client hangs up."""

import json
from pathlib import Path
from typing import Any

import pytest
from starlette.requests import Request

pytest.importorskip("ray.serve")

from serving.access.keyring import Keyring
from serving.applications.access import Access
from serving.applications.market import MarketAPI
from serving.applications.upload import bounded_body
from specs.errors import InvalidInput, TooLarge
from specs.market.store import Market
from tests.specs.market.support import requirements

GONE: dict[str, Any] = {"type": "http.disconnect"}


def parts(*bodies: bytes, whole: bool) -> list[dict[str, Any]]:
    """Returns the messages by which a body arrives; where it is not whole, the client hangs up after them."""
    sent = [{"type": "http.request", "body": body, "more_body": True} for body in bodies]
    return [*sent, {"type": "http.request", "body": b"", "more_body": False} if whole else GONE]


def request_of(messages: list[dict[str, Any]]) -> Request:
    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    return Request({"type": "http", "method": "POST", "headers": []}, receive)


async def test_a_body_of_as_many_bytes_as_it_may_have_is_whole() -> None:
    assert await bounded_body(request_of(parts(b"ab", b"cd", whole=True)), 4, "too large") == b"abcd"
    assert await bounded_body(request_of(parts(whole=True)), 4, "too large") == b""


async def test_of_a_larger_one_no_more_is_read() -> None:
    messages = parts(b"ab", b"cde", b"f", whole=True)
    with pytest.raises(TooLarge, match="at most 4 bytes"):
        await bounded_body(request_of(messages), 4, "at most 4 bytes")
    assert len(messages) == 2


async def test_one_that_is_cut_off_is_none() -> None:
    with pytest.raises(InvalidInput, match="cut off"):
        await bounded_body(request_of(parts(b"ab", whole=False)), 4, "too large")


async def test_a_quarantine_whose_body_is_cut_off_is_an_error_of_the_client(tmp_path: Path) -> None:
    market = Market(tmp_path / "market", requirements(tmp_path / "base"))

    async def unused(_: Any) -> Any:
        raise AssertionError

    app = MarketAPI(market, Access(Keyring(admin_key="secret")), 1 << 20, unused, unused).application()
    messages, sent = parts(b'{"reason":', whole=False), list[Any]()

    async def receive() -> dict[str, Any]:
        return messages.pop(0)

    async def send(message: Any) -> None:
        sent.append(message)

    path = "/v1/learnwares/colours-objects/quarantine"
    headers = [(b"authorization", b"Bearer secret")]
    scope = {"type": "http", "method": "POST", "path": path, "raw_path": path.encode(), "headers": headers}
    await app({**scope, "query_string": b"", "root_path": ""}, receive, send)
    assert sent[0]["status"] == 400
    assert json.loads(sent[1]["body"])["error"]["message"] == "The body was cut off."
