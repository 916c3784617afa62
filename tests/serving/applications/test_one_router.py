"""A question to a router: its answer, its refusal, and one clear error for all else."""

import asyncio
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("ray.serve")

from serving.applications import decisions, one_router, task_specs
from specs.errors import NotReady, Overloaded


class AsRayRaises(Overloaded):
    """An error of a replica as Ray makes it: of its class too, with itself as the cause."""

    def __init__(self, cause: Overloaded) -> None:
        super().__init__("a traceback of another process")
        self.cause = cause


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> Any:
    """Sets what the router's replica does for a question, and keeps which method was called with what."""
    calls: list[tuple[str, Any]] = []

    def answers(work: Any) -> list[tuple[str, Any]]:
        class Handle:
            def __getattr__(self, method: str) -> Any:
                async def remote(argument: Any) -> Any:
                    calls.append((method, argument))
                    return await work()

                return SimpleNamespace(remote=remote)

        monkeypatch.setattr(one_router.serve, "get_deployment_handle", lambda *_, **__: Handle())
        return calls

    return answers


async def test_both_applications_ask_for_what_they_need(asked: Any) -> None:
    async def answer() -> dict[str, Any]:
        return {"learnware": "a"}

    calls = asked(answer)
    assert await decisions._ask_a_router({"choice": 1}) == {"learnware": "a"}
    assert await task_specs._ask_the_router("task:x") == {"learnware": "a"}
    assert calls == [("replay", {"choice": 1}), ("explain", b'{"model": "task:x"}')]


async def test_a_routers_refusal_comes_as_its_own(asked: Any) -> None:
    own = Overloaded("too much", 3)

    async def refuse() -> Any:
        raise AsRayRaises(own)

    asked(refuse)
    with pytest.raises(Overloaded) as refusal:
        await one_router.ask_a_router("explain", b"", 5)
    assert refusal.value is own


@pytest.mark.parametrize("fails", [True, False], ids=["fails", "hangs"])
async def test_without_an_answer_the_client_is_told_to_come_again(asked: Any, fails: bool) -> None:
    async def work() -> Any:
        if fails:
            raise ZeroDivisionError
        await asyncio.sleep(60)

    asked(work)
    with pytest.raises(NotReady, match=r"^No router answers at the moment\. Nothing is lost\.$"):
        await one_router.ask_a_router("explain", b"", 0.05, "Nothing is lost.")
