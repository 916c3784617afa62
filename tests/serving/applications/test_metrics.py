"""The metrics application's start beside an application that does not exist yet."""

from concurrent.futures import Future

import httpx
import pytest
from ray import serve
from ray.serve._private.local_testing_mode import LocalReplicaResult
from ray.serve.handle import DeploymentBroadcastResponse

from serving.applications.metrics import MetricsServer


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
