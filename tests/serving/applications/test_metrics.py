"""The metrics application's start beside an application that does not exist yet."""

from concurrent.futures import Future

import httpx
import pytest
from ray import serve
from ray.serve._private.local_testing_mode import LocalReplicaResult
from ray.serve.handle import DeploymentBroadcastResponse
from starlette.routing import Route

from serving.access.keyring import Keyring, digest_of
from serving.access.tenant import Tenant
from serving.applications.access import Access
from serving.applications.metrics import MetricsServer
from serving.applications.routing import PrefixedApplication


class Handle:
    """A deployment with one replica; what a broadcast gives is Ray's own class, over the replica's result."""

    def broadcast(self, method: str) -> DeploymentBroadcastResponse:
        assert method == "metrics_text"
        return DeploymentBroadcastResponse(self._replicas(), None)

    async def _replicas(self) -> list[LocalReplicaResult]:
        text: Future[str] = Future()
        text.set_result("# replica r1\n# TYPE answers counter\nanswers 3.0\n")
        return [LocalReplicaResult(text, request_id="1")]


@pytest.mark.asyncio
async def test_a_deployment_that_comes_later_is_found_by_a_later_scrape(monkeypatch):
    exists = False
    asked = []

    def get_deployment_handle(name: str, app_name: str) -> Handle:
        asked.append((name, app_name))
        if not exists:
            raise KeyError(f"Deployment(name={name!r}, app={app_name!r}) does not exist.")
        return Handle()

    monkeypatch.setattr(serve, "get_deployment_handle", get_deployment_handle)
    server = MetricsServer("learnware", ["engine"], None, on_loopback=False)
    assert asked == []
    app = await server.__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://metrics") as client:
        before = (await client.get("/metrics")).text
        assert 'learnware_scrape_failures{deployment="engine"} 1' in before
        assert "answers" not in before
        exists = True
        for _ in range(2):
            after = (await client.get("/metrics")).text
            assert 'answers{deployment="engine",replica="r1"} 3.0' in after
            assert 'learnware_scrape_failures{deployment="engine"} 0' in after
    assert asked == [("engine", "learnware")] * 2


@pytest.mark.parametrize(
    ("key", "status"), [(None, 401), ("wrong", 401), ("alice", 403), ("prometheus", 200), ("secret", 200)]
)
async def test_where_keys_are_needed_metrics_need_one_that_may(key: str | None, status: int):
    tenants = [(digest_of("alice"), Tenant("alice")), (digest_of("prometheus"), Tenant("prometheus", metrics=True))]
    server = MetricsServer("learnware", [], None, False, Access(Keyring(None, tenants, "secret")))
    app = await server.__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://metrics") as client:
        for headers in ({"authorization": f"Bearer {key}"}, {"x-api-key": key or ""}):
            answer = await client.get("/metrics", headers=headers if key else {})
            assert answer.status_code == status
            if status != 200:
                assert answer.json()["error"]["message"]
        assert (await client.get("/metrics/", headers={"x-api-key": key or ""})).status_code == status


@pytest.mark.parametrize(("method", "path", "status"), [("POST", "/metrics", 405), ("GET", "/metrics/x", 404)])
async def test_other_methods_and_paths_are_not_there(method: str, path: str, status: int):
    app = await MetricsServer("learnware", [], None, False).__serve_build_asgi_app__()
    async with httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://metrics") as client:
        answer = await client.request(method, path)
        assert answer.status_code == status
        assert ("allow" in answer.headers) == (status == 405)
        assert f"There is no {method} {path}" in answer.json()["error"]["message"]


async def test_a_failure_is_an_error_object_and_says_nothing_else():
    async def fail(_request: object) -> None:
        raise RuntimeError("a secret")

    app = PrefixedApplication([Route("/x", fail)])
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with httpx.AsyncClient(transport=transport, base_url="http://any") as client:
        answer = await client.get("/x")
    assert (answer.status_code, answer.json()["error"]["type"]) == (500, "internal_error")
    assert "secret" not in answer.text
