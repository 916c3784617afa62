"""A stream whose replica dies ends with an error event; one that ends by itself has nothing added."""

import json
from collections.abc import Iterator

import pytest

from serving.edge.cut_streams import CODE, MESSAGE
from tests.serving.edge.door import Door, opened, settings

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def door(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Door]:
    with opened(tmp_path_factory.mktemp("door"), settings()) as running:
        yield running


def events(door: Door, path: str, behaviour: str) -> list[str]:
    door.servers["engine"].behaviour = behaviour
    try:
        answer = door.ask(path)
    finally:
        door.servers["engine"].behaviour = ""
    assert answer.status == 200
    return [event for event in answer.content.decode().split("\n\n") if event.strip()]


@pytest.mark.parametrize("end", ["cut", "reset", "idle"])
@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/responses", "/v1/messages"])
def test_a_cut_stream_ends_with_an_error_in_the_form_of_its_api(door: Door, path: str, end: str) -> None:
    first, second, *last = events(door, path, end)
    assert (first, second) == ('data: {"n": 1}', 'data: {"n": 2}')
    name, _, data = last[0].rpartition("data: ")
    told = json.loads(data)
    if path.startswith("/v1/messages"):
        assert (name, len(last)) == ("event: error\n", 1)
        assert told == {"type": "error", "error": {"type": "api_error", "message": MESSAGE}}
    elif path.startswith("/v1/responses"):
        assert (name, len(last)) == ("event: error\n", 1)
        assert (told["type"], told["code"], told["message"]) == ("error", CODE, MESSAGE)
    else:
        assert (name, last[1:]) == ("", ["data: [DONE]"])
        assert (told["error"]["code"], told["error"]["type"]) == (CODE, "service_unavailable")


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/messages"])
def test_a_whole_stream_is_left_as_it_is(door: Door, path: str) -> None:
    for _ in range(3):
        assert events(door, path, "whole") == ['data: {"n": 1}', 'data: {"n": 2}', "data: [DONE]"]


def test_an_answer_that_is_no_stream_is_left_as_it_is(door: Door) -> None:
    assert door.ask().content["server"] == "engine"
