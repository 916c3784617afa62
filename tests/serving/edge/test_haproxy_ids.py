"""Ids with a slash on their whole way: through the real HAProxy with our rules, into uvicorn, to the market's
application and to the engine's list of models."""

import http.client
import json
import socket
import subprocess
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

import pytest
import uvicorn
from fastapi import FastAPI, Request
from starlette.responses import PlainTextResponse

from serving.access.keyring import Keyring
from serving.applications.access import Access
from serving.applications.market import ROUTE_PREFIX, MarketAPI
from serving.names import MARKET_APPLICATION
from specs.market.store import Market, Staged
from specs.market.trial import Trial
from tests.serving.edge.door import settings, wrapper
from tests.serving.edge.haproxy_config import RenderedPorts, render
from tests.specs.learnware_folder import write_learnware
from tests.specs.market.support import pack, requirements, variant

pytestmark = pytest.mark.slow  # a real HAProxy

ID = "acme/tfns"
SPELLINGS = ["acme/tfns", "acme%2Ftfns", "acme%2ftfns", "%61cme%2F%74fns"]


class Edge(NamedTuple):
    port: int
    market: Market
    posted: list[str]

    def request(self, method: str, path: str, body: bytes = b"", kind: str = "application/zip") -> tuple[int, Any]:
        """The path is sent as it is written: no client of this module normalises it."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=15)
        try:
            headers = {"content-type": kind, "authorization": "Bearer secret"}
            connection.request(method, path, body, headers)
            response = connection.getresponse()
            return response.status, json.loads(response.read())
        finally:
            connection.close()


def _as_replica(application: Any, prefix: str) -> Any:
    """The application below its prefix as Ray Serve's replica runs it, which answers HAProxy's checks itself."""

    async def replica(scope: Any, receive: Any, send: Any) -> None:
        if scope["path"] == "/-/healthz":
            await PlainTextResponse("success")(scope, receive, send)
        else:
            await application({**scope, "root_path": prefix.rstrip("/")}, receive, send)

    return replica


def _market_application(market: Market) -> Any:
    async def probe(_: Staged) -> Trial:
        return Trial(None, {})

    async def follow(_: int) -> bool:
        return True

    return MarketAPI(market, Access(Keyring(admin_key="secret")), 1 << 20, probe, follow).application()


def _engine_application(posted: list[str]) -> FastAPI:
    """The engine's routes as far as an id stands in their paths; `posted` gets every path that is posted to."""
    app = FastAPI()

    @app.get("/v1/models/{model:path}")  # as in serving.replica.server
    async def model(model: str) -> dict[str, str]:
        return {"id": model}

    @app.post("/{path:path}")
    async def post(request: Request) -> dict[str, str]:
        posted.append(request.url.path)
        return {}

    return app


@pytest.fixture(scope="module")
def edge(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Edge]:
    folder = tmp_path_factory.mktemp("e")
    market = Market(folder / "market", requirements(folder / "base"))
    posted: list[str] = []
    applications = {
        "engine": _as_replica(_engine_application(posted), "/"),
        "other": _as_replica(_market_application(market), ROUTE_PREFIX),
    }
    taken = {name: _free_port() for name in ("http", "exporter", "stats", "router", "second_router", "fallback")}
    servers, sockets, threads = [], [], []
    for name, application in applications.items():
        listening = socket.create_server(("127.0.0.1", 0))
        sockets.append(listening)
        taken[name] = listening.getsockname()[1]
        server = uvicorn.Server(uvicorn.Config(application, log_level="error", lifespan="off", ws="none"))
        servers.append(server)
        threads.append(threading.Thread(target=server.run, kwargs={"sockets": [listening]}, daemon=True))
        threads[-1].start()
    with pytest.MonkeyPatch.context() as monkeypatch:
        config = render(
            folder, monkeypatch, other=MARKET_APPLICATION, prefix=ROUTE_PREFIX, ports=RenderedPorts(**taken)
        )
    (folder / "edge.json").write_text(settings(api_keys=["secret"]).text())
    process = subprocess.Popen(
        [*wrapper(folder), "-db", "-f", str(config)], stdout=subprocess.PIPE, stderr=subprocess.STDOUT
    )
    running = Edge(taken["http"], market, posted)
    try:
        _wait_until_it_answers(running, process)
        yield running
    finally:
        process.kill()
        process.communicate()
        for server in servers:
            server.should_exit = True
        for thread in threads:
            thread.join(10)
        for each in sockets:
            each.close()


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port


def _wait_until_it_answers(edge: Edge, process: "subprocess.Popen[bytes]") -> None:
    for _ in range(100):
        assert process.poll() is None, process.stdout and process.stdout.read().decode()
        try:
            if edge.request("GET", "/v1/models/x")[0] == edge.request("GET", ROUTE_PREFIX)[0] == 200:
                return
        except OSError:
            pass
        time.sleep(0.1)
    raise AssertionError("HAProxy did not come up")


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_learnware(tmp_path_factory.mktemp("whole") / "colours-objects")


def _zipped(whole: Path, folder: Path, version: int) -> bytes:
    made = variant(whole, folder / f"v{version}", ID, version, float(version))
    return pack(made, folder / f"v{version}.zip").read_bytes()


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_every_method_reaches_the_learnware_by_every_spelling(
    edge: Edge, whole: Path, tmp_path: Path, spelling: str
) -> None:
    path = f"{ROUTE_PREFIX}/{spelling}"
    first = 1 + 3 * SPELLINGS.index(spelling)  # the market is the same for all, and versions never go back
    status, created = edge.request("POST", ROUTE_PREFIX, _zipped(whole, tmp_path, first))
    assert (status, created["id"]) == (201, ID)
    assert edge.request("GET", path)[1]["card"]["id"] == ID
    status, replaced = edge.request("PUT", path, _zipped(whole, tmp_path, first + 1))
    assert (status, replaced["id"], replaced["version"]) == (200, ID, first + 1)
    status, held = edge.request("POST", f"{path}/quarantine", b'{"reason": "x"}', "application/json")
    assert (status, held["id"], held["state"]) == (200, ID, "quarantined")
    edge.request("POST", ROUTE_PREFIX, _zipped(whole, tmp_path, first + 2))
    status, removed = edge.request("DELETE", path)
    assert (status, removed["id"], removed["state"]) == (200, ID, "removed")
    assert edge.market.records() == []
    assert edge.posted == []


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_a_model_is_found_by_every_spelling(edge: Edge, spelling: str) -> None:
    assert edge.request("GET", f"/v1/models/{spelling}") == (200, {"id": ID})


@pytest.mark.parametrize(
    "learnware_id", ["internal/route", "internal/x", "v1/learnwares", "metrics/x", "v1/completions"]
)
def test_an_id_that_reads_as_a_path_of_the_edge_is_an_id(edge: Edge, learnware_id: str) -> None:
    for spelling in (learnware_id, quote(learnware_id, safe="")):
        assert edge.request("GET", f"/v1/models/{spelling}") == (200, {"id": learnware_id})
        status, answer = edge.request("GET", f"{ROUTE_PREFIX}/{spelling}")
        assert status == 404
        assert f"there is no learnware '{learnware_id}'" in answer["error"]["message"]


@pytest.mark.parametrize(
    "path", ["../models", "..%2Fx", "a/../b", "a//b", "/a", "a%5Cb", "a%00b", "a%252Fb", "a/b/c", "a%2Fb%2Fc", "%2E%2E"]
)
@pytest.mark.parametrize("method", ["GET", "PUT", "DELETE"])
def test_a_hostile_path_is_no_learnwares(edge: Edge, method: str, path: str) -> None:
    status, answer = edge.request(method, f"{ROUTE_PREFIX}/{path}")
    assert (status, answer["error"]["type"]) == (404, "invalid_request_error")


@pytest.mark.parametrize("spelling", ["acme/quarantine", "acme%2Fquarantine"])
def test_a_path_below_a_learnware_has_its_own_method_alone(edge: Edge, spelling: str) -> None:
    for method in ("GET", "PUT", "DELETE"):
        assert edge.request(method, f"{ROUTE_PREFIX}/{spelling}")[0] == 405
    status, answer = edge.request("POST", f"{ROUTE_PREFIX}/{spelling}", b'{"reason": "x"}', "application/json")
    assert status == 404
    assert "there is no learnware 'acme'" in answer["error"]["message"]
