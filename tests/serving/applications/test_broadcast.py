"""Asking every replica of a deployment, over Ray Serve's own classes; no cluster."""

import asyncio
from concurrent.futures import Future
from typing import Any

import pytest
from ray import serve
from ray.serve._private.local_testing_mode import LocalReplicaResult
from ray.serve._private.replica_result import ReplicaResult
from ray.serve.exceptions import RequestCancelledError
from ray.serve.handle import DeploymentBroadcastResponse

from router.ray_internals import RayChanged, broadcast_answers
from serving.applications.broadcast import broadcast


class Handle:
    """Gives Ray's own answer to a broadcast, over replicas whose results the test holds."""

    def __init__(self, *results: "Future[Any]") -> None:
        self.results = results
        self.asked: list[tuple[Any, ...]] = []

    def broadcast(self, *asked: Any) -> DeploymentBroadcastResponse:
        self.asked.append(asked)
        return DeploymentBroadcastResponse(self._replicas(), None)

    async def _replicas(self) -> list[LocalReplicaResult]:
        return [LocalReplicaResult(result, request_id=f"{number}") for number, result in enumerate(self.results)]


def answered(value: Any = None, error: Exception | None = None) -> "Future[Any]":
    future: Future[Any] = Future()
    if error is None:
        future.set_result(value)
    else:
        future.set_exception(error)
    return future


async def test_a_slow_and_a_failing_replica_lose_their_own_answers_only() -> None:
    handle = Handle(answered("first"), Future(), answered(error=ValueError("broken")), answered("last"))
    first, slow, broken, last = await broadcast(handle, "reached", 0.1, 7)
    assert (first, last) == ("first", "last")
    assert isinstance(slow, RequestCancelledError)  # Ray's name for what was given up
    assert isinstance(broken, ValueError)
    assert handle.asked == [("reached", 7)]


async def test_replicas_that_do_not_become_known_in_time_are_a_timeout() -> None:
    class Unknown(Handle):
        async def _replicas(self) -> list[LocalReplicaResult]:
            await asyncio.sleep(10)
            return []

    with pytest.raises(TimeoutError):
        await broadcast(Unknown(), "reached", 0.1)


def test_a_real_handle_is_asked_as_broadcast_asks() -> None:
    """Ray Serve's local testing mode: the handle, its broadcast and the answer are Ray's own."""

    @serve.deployment
    class Counter:
        def plus(self, number: int) -> int:
            return number + 1

    handle = serve.run(Counter.bind(), _local_testing_mode=True)
    assert asyncio.run(broadcast(handle, "plus", 10, 41)) == [42]


async def test_results_that_ray_no_longer_shows_one_by_one_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    response = Handle(answered("first")).broadcast("reached")
    monkeypatch.delattr(DeploymentBroadcastResponse, "_fetch_replica_results_async")
    with pytest.raises(RayChanged, match=r"no DeploymentBroadcastResponse\._fetch_replica_results_async, .*2\.60\.0"):
        await broadcast_answers(response)
    response._coro.close()


async def test_a_result_that_can_no_longer_be_awaited_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    for owner in (LocalReplicaResult, ReplicaResult):
        monkeypatch.delattr(owner, "get_async")
    with pytest.raises(RayChanged, match=r"no LocalReplicaResult\.get_async, .*2\.60\.0"):
        await broadcast_answers(Handle(answered("first")).broadcast("reached"))
