"""A client of the replica's middlewares, and applications behind them that say what reached them."""

import asyncio
import contextlib
import json

import httpx
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, StreamingResponse
from starlette.routing import Route

from router.choice import CHOICE_HEADER, FAILED_HEADER, RoutedChoice, encode_choice
from serving.replica.admission import Names
from specs.errors import AdapterUnavailable

SECRET = b"s" * 32
NAMES = Names(
    "base-8b", frozenset({"auto"}), {"finance-tfns": "finance-tfns@1", "healthcare-pubmedqa": "healthcare-pubmedqa@1"}
)


async def echo(request: Request):
    body = await request.body()
    if request.query_params.get("stream"):

        async def chunks():
            yield b"one "
            yield b"two"

        return StreamingResponse(chunks())
    return JSONResponse({"length": request.headers.get("content-length"), "body": body.decode("latin-1")})


echo_app = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST", "GET"])])


def send(app, payload, headers=None, query="", path="/v1/chat/completions"):
    async def ask():
        async with httpx.AsyncClient(transport=httpx.ASGITransport(app=app), base_url="http://replica") as client:
            content = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
            return await client.post(
                f"{path}{query}",
                content=content,
                headers={"content-type": "application/json", **(headers or {})},
            )

    return asyncio.run(ask())


def choice(learnware="finance-tfns", reason="matched", secret=SECRET):
    return {CHOICE_HEADER: encode_choice(RoutedChoice(learnware, reason, 0.875, 0.42), secret)}


TASK = "task:" + 32 * "a"


def failed(why):
    return {FAILED_HEADER: why}


class Adapters:
    """Stands for the gate: which adapters are held, and one that cannot be loaded."""

    def __init__(self) -> None:
        self.held: list[str] = []
        self.seen: list[list[str]] = []

    @contextlib.asynccontextmanager
    async def hold(self, engine_name: str):
        if engine_name == "healthcare-pubmedqa@1":
            raise AdapterUnavailable("The adapter of 'healthcare-pubmedqa@1' could not be loaded: no such file")
        self.held.append(engine_name)
        yield
        self.held.remove(engine_name)

    async def app(self, scope, receive, send):
        self.seen.append(list(self.held))
        await echo_app(scope, receive, send)
