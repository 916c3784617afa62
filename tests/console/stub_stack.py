"""A small server with the console's own application, and stand-ins for the rest of the stack that answer as it does.

Cards and measurements are those of the starter learnwares, described by the functions of the market itself; the state
of the stack is made by `serving.applications.live` from an exposition in the form of real ones.
"""

import asyncio
import json
import threading
import time
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
from serving.applications.market_record import off_task, quality
from serving.applications.routing import PrefixedApplication
from serving.applications.upload_events import EventAnswer, Note
from serving.openai_errors import error_response
from serving.paths import STARTER_FOLDER
from specs.capability import Capability, ProbeScore, load_capability
from specs.card import load_card
from specs.errors import Forbidden, InvalidLearnware, UnknownLearnware, UnknownModel

BASE = "SmolLM2-135M-Instruct"
ADMIN_KEY = "the-admin-key"
USER_KEY = "lw-the-key-of-alice"
HOSTILE_ID = "mallory/hostile"
HOSTILE_TEXT = "<script>window.owned=1</script><img src=x onerror='window.owned=1'>\u202egnp.exe\u202c"
REPLICA = "learnware#engine#a1b2c3d4"
ANSWER = "The first operation is a multiplication: 12 boxes of 8 pencils are 12 × 8 = 96 pencils."


def starters() -> list[dict[str, Any]]:
    """The starter learnwares as `GET /v1/learnwares/{id}` describes them."""
    found = []
    for number, folder in enumerate(sorted(path.parent for path in STARTER_FOLDER.glob("*/learnware.yaml"))):
        card = load_card(folder / "learnware.yaml")
        capability = load_capability(folder / "specification")
        score = ProbeScore(200, 0.71, 0.66 + number / 100, -0.61, 0.83, 0.34, 0.31, -1.42)
        probed = Capability(BASE, "0" * 64, "protocol", {f"{card.domain}-{card.tasks[0]}": score})
        found.append(
            {
                "id": card.id,
                "object": "learnware",
                "version": 1 + number % 3,
                "state": "active",
                "reason": None,
                "notes": [],
                "changed": f"2026-03-{number + 1:02d}T10:20:30+00:00",
                "sha256": f"{number:02x}" * 32,
                "card": card.model_dump(mode="json", exclude_none=True),
                "chosen_by_auto": True,
                "quality": quality(probed),
                "off_task": off_task(capability),
            }
        )
    return found


def hostile() -> dict[str, Any]:
    """A learnware each text of which tries to become part of the page."""
    template = starters()[0]
    card = template["card"] | {
        "id": HOSTILE_ID,
        "name": HOSTILE_TEXT,
        "description": HOSTILE_TEXT,
        "domain": HOSTILE_TEXT,
        "tasks": [HOSTILE_TEXT],
        "author": HOSTILE_TEXT,
        "examples": [HOSTILE_TEXT],
        "source": "javascript:window.owned=1",
    }
    return template | {"id": HOSTILE_ID, "card": card, "notes": [HOSTILE_TEXT]}


class StubStack:
    """The stand-ins, and what tests change of them and ask them about."""

    def __init__(self, *, keys: bool = False, feedback: bool = True) -> None:
        tenants = [(digest_of(USER_KEY), Tenant("alice"))] if keys else []
        self.access = Access(Keyring(None, tenants, ADMIN_KEY))
        self.feedback_on = feedback
        self.learnwares = {one["id"]: one for one in [*starters(), hostile()]}
        self.feedback: list[dict[str, Any]] = []
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
                Route(one, self._show, methods=["GET"]),
                Route(one, self._remove, methods=["DELETE"]),
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
            "x-request-id": request.headers["x-request-id"],
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
            {name: value for name, value in one.items() if name not in ("quality", "off_task")}
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

    # Decisions

    async def _decisions(self, request: Request) -> Response:
        tenant = self.access.check_read(request)
        query = request.query_params
        rows = [one for one in recorded() if tenant.admin or not self.access.keyring.required or one["tenant"] == tenant.name]
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


def explained(text: str) -> dict[str, Any]:
    """An answer of `POST /v1/route`."""
    names = ["mathematics-gsm8k_first_operation", "mathematics-svamp_operation", "mathematics-gsm8k_solution", "finance-tfns"]
    tiers = ["device", "host", "device", "disk"]
    return {
        "model": "auto",
        "learnware": names[0],
        "reason": "matched",
        "score": 0.873,
        "confidence": 0.91,
        "explanation": f"The request asks for what {names[0]} answers better than the base model with a probability of "
        "0.87 (at least 0.5); it is expected to answer right with 0.742, the base model with 0.311.",
        "ask": [text[:200]],
        "tasks": [
            {"task": "mathematics-gsm8k_first_operation", "probability": 0.71},
            {"task": "mathematics-svamp_operation", "probability": 0.16},
            {"task": "base:everyday", "probability": 0.06},
        ],
        "base": {"expected": 0.311},
        "match": 0.873,
        "min_match": 0.5,
        "candidates": [
            {
                "learnware": name,
                "expected": round(0.742 - 0.11 * place, 3),
                "score": round(0.873 - 0.2 * place, 3),
                "home": REPLICA,
                "tiers": {REPLICA: tiers[place]},
                "may_answer": place == 0,
            }
            for place, name in enumerate(names)
        ],
        "replica": {"id": REPLICA, "why": "home", "tier": "device", "requests": {REPLICA: 1}, "bound": 4},
        "prompts": 1,
        "turns": 1,
        "route_ms": 1.31,
    }


def choice_of(learnware: str | None) -> dict[str, Any]:
    """The choice in a record."""
    found = explained("Which drug is right?")
    candidates = [{name: one[name] for name in ("learnware", "expected", "score")} for one in found["candidates"]]
    if learnware is not None:
        candidates[0] = {"learnware": learnware, "expected": 0.742, "score": 0.873}
    return {
        "learnware": learnware,
        "confidence": 0.91,
        "base": 0.311,
        "bound": 0.5,
        "candidates": candidates,
        "tasks": found["tasks"],
        "market": 17,
        "prompts": 1,
        "turns": 1,
    }


def recorded() -> list[dict[str, Any]]:
    """Decisions as `serving.decisions.record` writes them, newest first."""
    kinds = [
        ("mathematics-gsm8k_first_operation", "matched", 200, "alice", "device"),
        (BASE, "base:better", 200, "bob", None),
        ("finance-tfns", "named", 200, "alice", "host"),
        (None, "matched", 429, "bob", None),
        ("healthcare-pubmedqa", "matched:resident", 200, "alice", "disk"),
        (BASE, "base:low-confidence", 200, "alice", None),
    ]
    rows = []
    for number in range(60):
        learnware, reason, status, tenant, tier = kinds[number % len(kinds)]
        chosen = None if learnware in (BASE, None) else learnware
        rows.append(
            {
                "id": f"req-{number:04d}",
                "decision": f"{number:016x}",
                "time": 1_780_000_000.25 - 37 * number,
                "tenant": tenant,
                "path": "/v1/chat/completions",
                "model": learnware if reason == "named" else "auto",
                "learnware": learnware,
                "version": None if chosen is None else f"{chosen}@0123456789ab",
                "reason": reason,
                "score": None if reason == "named" else 0.873,
                "status": status,
                "stream": True,
                "replica": REPLICA,
                "tier": tier,
                "tokens": {"prompt": 41, "generated": 17 + number},
                "ttft_s": 0.031 + number / 100,
                "seconds": 0.61,
                "queue_s": 0.004,
                "route_ms": 1.2,
                "trace": "4bf92f3577b34da6a3ce929d0e0e4736" if number % 2 else None,
                "choice": None if reason == "named" else choice_of(chosen),
                "feedback": [{"time": 1_780_000_100.0, "score": 0.0, "label": "wrong", "tenant": tenant}]
                if number % 5 == 1
                else [],
            }
        )
    return rows


def exposition(passed: float, names: list[str]) -> str:
    """A scrape `passed` seconds after the start, with adapters that move between the tiers."""
    turn = int(passed / 3)
    order = names[turn % len(names) :] + names[: turn % len(names)]
    device, host = order[:3], order[3:9]
    ours = f'deployment="engine",replica="{REPLICA}"'
    tier = [
        f'learnware_adapter_tier{{learnware="{name}",version="{names.index(name):012x}",tier="{kind}",{ours}}} 1'
        for kind, held in (("device", device), ("host", host))
        for name in held
    ]
    requests = [
        f'learnware_requests_total{{learnware="{name}",reason="matched",{ours}}} {int(passed * (place + 1))}'
        for place, name in enumerate(names[:6])
    ]
    usage = [
        line
        for place, name in enumerate(names[:6])
        for line in (
            f'learnware_tokens_total{{learnware="{name}",kind="generated",{ours}}} {int(passed * 20 * (place + 1))}',
            f'learnware_first_token_seconds_count{{learnware="{name}",{ours}}} {int(passed * (place + 1))}',
            f'learnware_first_token_seconds_sum{{learnware="{name}",{ours}}} {passed * (place + 1) * 0.08}',
        )
    ]
    tenants = [
        line
        for place, name in enumerate(("alice", "bob"))
        for line in (
            f'learnware_tenant_tokens_total{{tenant="{name}",kind="generated",{ours}}} {int(passed * 90 * (place + 1))}',
            f'learnware_tenant_request_seconds_count{{tenant="{name}",{ours}}} {int(passed * 5 * (place + 1))}',
        )
    ]
    answered = int(passed * 10)
    return "\n".join(
        [
            "# HELP learnware_adapter_tier 1 for the fastest tier that holds a learnware's adapter.",
            "# TYPE learnware_adapter_tier gauge",
            *tier,
            f'learnware_adapters{{tier="device",{ours}}} {len(device)}',
            f'learnware_adapters{{tier="host",{ours}}} {len(host)}',
            f'learnware_adapters{{tier="disk",{ours}}} {len(names) - 9}',
            f"learnware_adapter_slots{{{ours}}} 4",
            f"learnware_adapters_being_read{{{ours}}} 1",
            f'learnware_waiting_requests{{reason="host_memory",{ours}}} {turn % 2}',
            f'learnware_waiting_requests{{reason="slot",{ours}}} {turn % 4}',
            f'learnware_waiting_requests{{reason="parked",{ours}}} 0',
            f'vllm:num_requests_running{{engine="0",{ours}}} {3 + turn % 4}',
            f'vllm:num_requests_waiting{{engine="0",{ours}}} {turn % 4}',
            f'vllm:kv_cache_usage_perc{{engine="0",{ours}}} 0.37',
            f'vllm:generation_tokens_total{{engine="0",{ours}}} {int(passed * 210 + 40 * (turn % 3))}',
            f'vllm:prompt_tokens_total{{engine="0",{ours}}} {int(passed * 340)}',
            f'vllm:time_to_first_token_seconds_bucket{{le="0.05",{ours}}} {answered // 2}',
            f'vllm:time_to_first_token_seconds_bucket{{le="0.1",{ours}}} {answered * 9 // 10}',
            f'vllm:time_to_first_token_seconds_bucket{{le="0.5",{ours}}} {answered}',
            f'vllm:time_to_first_token_seconds_bucket{{le="+Inf",{ours}}} {answered}',
            f"vllm:time_to_first_token_seconds_count{{{ours}}} {answered}",
            f"vllm:time_to_first_token_seconds_sum{{{ours}}} {answered * 0.06}",
            *requests,
            f'learnware_requests_total{{learnware="{BASE}",reason="base:better",{ours}}} {int(passed * 2)}',
            *usage,
            *tenants,
            'learnware_route_waiting{deployment="router",replica="learnware#router#0a"} 0',
            f'learnware_route_refused_total{{outcome="refuse",deployment="router",replica="learnware#router#0a"}} {turn}',
            'learnware_scrape_success{deployment="engine",replica="' + REPLICA + '"} 1',
            f'haproxy_frontend_http_responses_total{{proxy="http_frontend",code="2xx",deployment="haproxy"}} {answered}',
            f'haproxy_frontend_http_responses_total{{proxy="http_frontend",code="4xx",deployment="haproxy"}} {answered // 9}',
            'haproxy_frontend_http_responses_total{proxy="prometheus",code="2xx",deployment="haproxy"} 100000',
            "",
        ]
    )


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
