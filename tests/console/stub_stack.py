"""A small server with the console's own application, and stand-ins for the rest of the stack that answer as it does.

The state of the stack is made by `serving.applications.live` from an exposition in the form of real ones.
"""

import asyncio
import json
import threading
import time
import uuid
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, RedirectResponse, Response, StreamingResponse
from starlette.routing import Mount, Route

from serving.access.keyring import Keyring, digest_of
from serving.access.tenant import Tenant
from serving.applications.access import Access
from serving.applications.console import About, ConsoleAPI
from serving.applications.console_files import PageFiles
from serving.applications.routing import PrefixedApplication
from serving.applications.upload_events import EventAnswer, Note
from serving.openai_errors import error_response
from specs.errors import DecisionsUnavailable, Forbidden, InvalidLearnware, UnknownLearnware, UnknownModel
from tests.console.made_answers import (
    BASE,
    HOSTILE_TEXT,
    choice_of,
    evaluations,
    explained,
    exposition,
    hostile,
    recorded,
    starters,
)

ADMIN_KEY = "the-admin-key"
USER_KEY = "lw-the-key-of-alice"
ANSWER = "The first operation is a multiplication: 12 boxes of 8 pencils are 12 × 8 = 96 pencils."


class StubStack:
    """The stand-ins, and what tests change of them and ask them about."""

    def __init__(self, *, keys: bool = False, feedback: bool = True, evaluations: bool = True) -> None:
        tenants = [(digest_of(USER_KEY), Tenant("alice"))] if keys else []
        self.access = Access(Keyring(None, tenants, ADMIN_KEY))
        self.feedback_on = feedback
        self.learnwares = {one["id"]: one for one in [*starters(), hostile()]}
        self.feedback: list[dict[str, Any]] = []
        self.evaluations_on = evaluations
        self.compares = True
        """Whether there is anything on the page of evaluations."""
        self.ended: dict[str, str] = {}
        """What became of canaries, by learnware."""
        self.began_canaries: list[tuple[str, str | None]] = []
        """Learnwares that got a new version, with the share that was asked for."""
        self.asked: list[dict[str, Any]] = []
        self.refuses_uploads = False
        self.live_calls = 0
        self.pause_s = 0.02
        """Seconds between two pieces of a streamed answer."""
        self._began = time.time()
        about = About(BASE, ("auto",), True, False, 64 << 20)
        console = ConsoleAPI(PageFiles(), self.access, about, self._scrape)
        one = "/v1/learnwares/{learnware_id:path}"
        stack = PrefixedApplication(
            [
                Route("/v1/chat/completions", self._chat, methods=["POST"]),
                Route("/v1/route", self._route, methods=["POST"]),
                Route("/v1/feedback", self._feedback, methods=["POST"]),
                Route("/v1/learnwares", self._list, methods=["GET"]),
                Route("/v1/learnwares", self._submit, methods=["POST"]),
                Route(one + "/quarantine", self._quarantine, methods=["POST"]),
                Route(one + "/release", self._release, methods=["POST"]),
                Route(one + "/promote", self._end_canary, methods=["POST"]),
                Route(one + "/roll-back", self._end_canary, methods=["POST"]),
                Route(one, self._show, methods=["GET"]),
                Route(one, self._replace, methods=["PUT"]),
                Route(one, self._remove, methods=["DELETE"]),
                Route("/v1/evaluations", self._evaluations, methods=["GET"]),
                Route("/v1/decisions", self._decisions, methods=["GET"]),
                Route("/v1/decisions/{request_id}", self._decision, methods=["GET"]),
                Route("/v1/decisions/{request_id}/replay", self._replay, methods=["POST"]),
            ]
        )
        self._console = console.application()
        self._stack = stack
        self._moved = Starlette(routes=[Route("/", lambda _: RedirectResponse("/console/")), Mount("/", stack)])

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        """The ASGI application of both."""
        if scope["type"] != "http":
            return
        path = scope["path"]
        inner = self._console if path == "/console" or path.startswith("/console/") else self._moved
        await inner(scope, receive, send)

    # Answers

    async def _chat(self, request: Request) -> Response:
        self.access.check_read(request)
        body = await request.json()
        self.asked.append(body)
        model = body["model"]
        if model not in ("auto", BASE, *self.learnwares):
            return error_response(UnknownModel(f"There is no model {model!r}."), "/v1/chat/completions")
        answerer = "mathematics-gsm8k_first_operation" if model == "auto" else model
        reason = "matched" if model == "auto" else "named"
        headers = {
            "x-learnware": answerer,
            "x-learnware-reason": reason,
            "x-learnware-score": "0.873",
            "x-learnware-route-ms": "1.24",
            "x-request-id": request.headers.get("x-request-id", str(uuid.uuid4())),
        }
        text = ANSWER if model != BASE else "Pencils are sold in boxes."
        if "hostile" in body["messages"][-1]["content"]:
            text = HOSTILE_TEXT
        return StreamingResponse(self._pieces(text), media_type="text/event-stream", headers=headers)

    async def _pieces(self, text: str) -> AsyncIterator[bytes]:
        words = text.split(" ")
        for place, word in enumerate(words):
            piece = word if place == 0 else f" {word}"
            yield sse({"choices": [{"index": 0, "delta": {"content": piece}, "finish_reason": None}]})
            await asyncio.sleep(self.pause_s)
        yield sse({"choices": [{"index": 0, "delta": {}, "finish_reason": "stop"}]})
        yield sse({"choices": [], "usage": {"prompt_tokens": 41, "completion_tokens": len(words) + 4}})
        yield b"data: [DONE]\n\n"

    async def _route(self, request: Request) -> Response:
        self.access.check_read(request)
        body = await request.json()
        return JSONResponse(explained(body["messages"][-1]["content"]))

    async def _feedback(self, request: Request) -> Response:
        self.access.check_read(request)
        if not self.feedback_on:
            raise UnknownLearnware("There is no POST /v1/feedback here.")
        piece = await request.json()
        self.feedback.append(piece)
        return JSONResponse({"id": piece["id"], "object": "feedback"})

    # Market

    async def _list(self, request: Request) -> Response:
        self.access.check_read(request)
        state, query = request.query_params.get("state", "active"), request.query_params.get("q", "").lower()
        data = [
            {name: value for name, value in one.items() if name not in ("known", "off_task")}
            for one in self.learnwares.values()
            if state in ("all", one["state"]) and query in json.dumps(one["card"]).lower()
        ]
        return JSONResponse({"object": "list", "data": data, "unserved": {"quarantined": 1}})

    def _one(self, request: Request) -> dict[str, Any]:
        found = self.learnwares.get(request.path_params["learnware_id"])
        if found is None:
            raise UnknownLearnware(f"There is no learnware {request.path_params['learnware_id']!r} in the market.")
        return found

    async def _show(self, request: Request) -> Response:
        self.access.check_read(request)
        return JSONResponse(self._one(request))

    async def _submit(self, request: Request) -> Response:
        self.access.check_change(request)
        size = len(await request.body())

        async def work(note: Note) -> dict[str, Any]:
            note("received", {"bytes": size})
            await asyncio.sleep(0.1)
            note("checked", {"id": "acme/new", "version": 1})
            await asyncio.sleep(0.3)
            if self.refuses_uploads:
                raise InvalidLearnware("learnware acme/new: its answers to its own examples repeat themselves")
            note("tried", {"notes": []})
            note("measured", {"off_task": {}})
            added = starters()[1]
            added = added | {"id": "acme/new", "card": added["card"] | {"id": "acme/new"}, "version": 1}
            self.learnwares["acme/new"] = added
            return added | {"served": True}

        return EventAnswer(work, "served")

    async def _quarantine(self, request: Request) -> Response:
        self.access.check_change(request)
        one = self._one(request)
        one |= {"state": "quarantined", "reason": (await request.json())["reason"], "chosen_by_auto": False}
        return JSONResponse(one | {"served": False})

    async def _release(self, request: Request) -> Response:
        self.access.check_change(request)
        one = self._one(request)
        one |= {"state": "active", "reason": None, "chosen_by_auto": True}
        return JSONResponse(one | {"served": True})

    async def _remove(self, request: Request) -> Response:
        self.access.check_change(request)
        one = self._one(request)
        if one["id"] == "finance-tfns":
            raise Forbidden("The learnware 'finance-tfns' is pinned; take it out of engine.pinned first.")
        one |= {"state": "removed", "chosen_by_auto": False}
        return JSONResponse(one | {"served": False})

    async def _replace(self, request: Request) -> Response:
        self.access.check_change(request)
        one, share = self._one(request), request.query_params.get("canary")
        await request.body()
        self.began_canaries.append((one["id"], share))

        async def work(note: Note) -> dict[str, Any]:
            for stage in ("received", "checked", "tried", "measured"):
                note(stage, {"id": one["id"]})
            canary = {
                "version": one["version"] + 1,
                "share": float(share or 0),
                "since": time.time(),
                "sha256": "9" * 64,
            }
            changed = {"version": one["version"] + 1} if share is None else {"canary": canary}
            one.update(changed)
            return one | {"served": True}

        return EventAnswer(work, "served")

    async def _end_canary(self, request: Request) -> Response:
        self.access.check_change(request)
        one = self._one(request)
        promoted = request.url.path.endswith("/promote")
        self.ended[one["id"]] = "promoted" if promoted else (await request.json())["reason"]
        one |= {"version": one["canary"]["version"] if promoted else one["version"], "canary": None}
        return JSONResponse(one | {"served": True})

    # Decisions

    async def _evaluations(self, request: Request) -> Response:
        tenant = self.access.check_read(request)
        if not self.evaluations_on:
            raise DecisionsUnavailable("The log of decisions cannot be read.")
        whole = tenant.admin or not self.access.keyring.required
        found = evaluations(None if whole else tenant.name)
        query = request.query_params
        asked = query.get("learnware")
        after = float(query.get("after", 0))
        if not self.compares or after > found["since"]:
            found |= {"pairs": [], "canaries": [], "judge": None, "waiting": 0, "failed": 0}
        if asked is not None:
            found["pairs"] = [one for one in found["pairs"] if asked in (one["first"], one["second"])]
            found["canaries"] = [one for one in found["canaries"] if one["learnware"] == asked]
        for one in found["canaries"]:
            ended = self.ended.get(one["learnware"])
            if ended is not None:
                one |= {"state": "promoted" if ended == "promoted" else "rolled back", "why": f"By hand: {ended}."}
        return JSONResponse(found)

    async def _decisions(self, request: Request) -> Response:
        tenant = self.access.check_read(request)
        query = request.query_params
        rows = [
            one
            for one in recorded()
            if tenant.admin or not self.access.keyring.required or one["tenant"] == tenant.name
        ]
        for name in ("reason", "learnware", "tenant"):
            rows = [one for one in rows if name not in query or one[name] == query[name]]
        rows = [one for one in rows if "status" not in query or str(one["status"]) == query["status"]]
        rows = [one for one in rows if "before" not in query or one["time"] < float(query["before"])]
        lines = "".join(json.dumps(one) + "\n" for one in rows[: int(query["limit"])])
        return Response(lines, media_type="application/x-ndjson")

    async def _decision(self, request: Request) -> Response:
        self.access.check_read(request)
        found = [one for one in recorded() if one["id"] == request.path_params["request_id"]]
        if not found:
            raise UnknownLearnware("There is no decision of this id of yours.")
        return JSONResponse(found[0])

    async def _replay(self, request: Request) -> Response:
        self.access.check_read(request)
        choice = choice_of("healthcare-medqa_usmle") | {"reason": "matched"}
        why = "healthcare-medqa_usmle is expected to answer better than when this was decided."
        return JSONResponse({"choice": choice, "differs": True, "why": why})

    # Live

    async def _scrape(self) -> str:
        self.live_calls += 1
        return exposition(time.time() - self._began, sorted(self.learnwares))


def sse(content: dict[str, Any]) -> bytes:
    return f"data: {json.dumps({'object': 'chat.completion.chunk', **content})}\n\n".encode()


@contextmanager
def served(stub: StubStack) -> Iterator[str]:
    """Serves the stand-ins from a thread, and yields their URL."""
    config = uvicorn.Config(stub, host="127.0.0.1", port=0, log_level="critical", lifespan="off", ws="none")
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, daemon=True)
    thread.start()
    while not server.started:
        time.sleep(0.01)
    port = server.servers[0].sockets[0].getsockname()[1]
    try:
        yield f"http://127.0.0.1:{port}"
    finally:
        server.should_exit = True
        server.force_exit = True
        thread.join(5)


if __name__ == "__main__":  # for a look by hand: python -m tests.console.stub_stack
    with served(StubStack()) as url:
        print(f"{url}/console/")
        threading.Event().wait()
