"""ASGI middleware that gives vLLM's own errors of `/v1/messages` the form of Anthropic's API.

vLLM 0.29 answers what it refuses there (a missing field, a prompt that is too long) with an OpenAI error object, which
Anthropic's clients do not read. Errors are short and complete, so they are taken whole and written anew.
"""

import json
from typing import Any

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from serving.openai_errors import ANTHROPIC_PATH, error_content


class AnthropicErrors:
    """ASGI middleware around vLLM's application (see the module)."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or not scope["path"].startswith(ANTHROPIC_PATH):
            await self._app(scope, receive, send)
            return
        start: Message | None = None
        body = bytearray()

        async def sent(message: Message) -> None:
            nonlocal start
            if message["type"] == "http.response.start" and message["status"] >= 400:
                start = message
            elif start is None:
                await send(message)
            elif message["type"] == "http.response.body":
                body.extend(message.get("body", b""))
                if not message.get("more_body"):
                    await _rewritten(start, bytes(body), scope, receive, send)

        await self._app(scope, receive, sent)


async def _rewritten(start: Message, body: bytes, scope: Scope, receive: Receive, send: Send) -> None:
    """Sends an error, in Anthropic's form where it has OpenAI's, with the headers that it had."""
    told = _message(body)
    if told is None:
        await send(start)
        await send({"type": "http.response.body", "body": body})
        return
    status = start["status"]
    content = error_content(ANTHROPIC_PATH, status, told, "", None)
    kept = {
        name.decode("latin-1"): value.decode("latin-1")
        for name, value in start.get("headers", ())
        if name.lower() not in (b"content-length", b"content-type")
    }
    await JSONResponse(content, status, kept)(scope, receive, send)


def _message(body: bytes) -> str | None:
    """Returns the message of an OpenAI error object, None for anything else."""
    try:
        content: Any = json.loads(body)
        message = content["error"]["message"]
    except (ValueError, KeyError, TypeError):
        return None
    return message if isinstance(message, str) and content.get("type") != "error" else None
