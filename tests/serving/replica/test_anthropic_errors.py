"""What vLLM refuses at /v1/messages is told as Anthropic's API tells it."""

import json

import httpx
import pytest
from starlette.responses import JSONResponse, PlainTextResponse, Response

from serving.replica.anthropic_errors import AnthropicErrors

OPENAI = {"error": {"message": "messages: field required", "type": "Bad Request", "param": None, "code": 400}}
OWN = {"type": "error", "error": {"type": "overloaded_error", "message": "later"}}


async def answer(response: Response, path: str = "/v1/messages") -> httpx.Response:
    transport = httpx.ASGITransport(AnthropicErrors(response))
    async with httpx.AsyncClient(transport=transport, base_url="http://stack") as client:
        return await client.post(path)


@pytest.mark.parametrize(
    ("status", "kind"),
    [(400, "invalid_request_error"), (404, "not_found_error"), (422, "invalid_request_error"), (500, "api_error")],
)
async def test_an_openai_error_object_is_written_anew(status, kind):
    told = await answer(JSONResponse(OPENAI, status, {"retry-after": "3"}))
    assert (told.status_code, told.headers["retry-after"]) == (status, "3")
    assert told.json() == {"type": "error", "error": {"type": kind, "message": "messages: field required"}}
    assert told.headers["content-length"] == str(len(told.content))


@pytest.mark.parametrize(
    "response",
    [
        JSONResponse(OWN, 503),
        PlainTextResponse("no", 400),
        JSONResponse(["error"], 400),
        JSONResponse({"error": 5}, 400),
        JSONResponse(OPENAI, 200),
    ],
)
async def test_anything_else_stays_as_it_is(response):
    told = await answer(response)
    assert (told.status_code, told.content) == (response.status_code, response.body)


async def test_other_apis_keep_their_own_form():
    told = await answer(JSONResponse(OPENAI, 400), "/v1/chat/completions")
    assert json.loads(told.content) == OPENAI
