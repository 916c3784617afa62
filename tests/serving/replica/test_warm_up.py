"""Adapters are read before they are asked for, while the engine has nothing to do, and no more than fit."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

pytest.importorskip("vllm")  # the gate's

from serving.replica import warm_up
from serving.replica.warm_up import WarmUp
from specs.errors import AdapterUnavailable

pytestmark = pytest.mark.vllm


class Gate:
    """Stands for the gate of an engine with this much host memory; every adapter takes what its file takes."""

    def __init__(self, budget: int) -> None:
        self.entered = self.waiting = 0
        self.host: dict[str, int] = {}
        self.broken: set[str] = set()
        self.residency: Any = SimpleNamespace(tiers=self.host, worker={"host": self.host, "host_budget": budget})

    @asynccontextmanager
    async def hold(self, name: str) -> AsyncIterator[None]:
        await asyncio.sleep(0)
        if name in self.broken:
            raise AdapterUnavailable("no such file")
        self.host[name] = 100
        yield


@pytest.fixture
def served(tmp_path: Path) -> list[Any]:
    requests = []
    for name in ("a", "b", "c", "d"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "adapter_model.safetensors").write_bytes(bytes(100))
        requests.append(SimpleNamespace(lora_name=name, lora_path=str(tmp_path / name)))
    return requests


def begin(gate: Gate, served: list[Any]) -> WarmUp:
    warm = WarmUp(gate, gate.hold, lambda: served)  # type: ignore[arg-type]
    warm.begin()
    return warm


async def settle() -> None:
    for _ in range(50):
        await asyncio.sleep(0)


async def test_all_that_fit_are_read_and_what_cannot_be_is_passed_over(served: list[Any]):
    gate = Gate(1000)
    gate.broken = {"b"}
    begin(gate, served)
    await settle()
    assert list(gate.host) == ["a", "c", "d"]


async def test_it_evicts_nothing(served: list[Any]):
    gate = Gate(400)
    begin(gate, served)
    await settle()
    assert list(gate.host) == ["a", "b", "c"]  # a tenth stays free


@pytest.mark.parametrize("busy", ["entered", "waiting"])
async def test_requests_come_first(served: list[Any], monkeypatch: pytest.MonkeyPatch, busy: str):
    monkeypatch.setattr(warm_up, "IDLE_POLL_S", 0)
    gate = Gate(1000)
    setattr(gate, busy, 1)
    begin(gate, served)
    await settle()
    assert gate.host == {}
    setattr(gate, busy, 0)
    await settle()
    assert len(gate.host) == 4


async def test_a_new_catalogue_begins_it_anew_and_it_ends(served: list[Any]):
    gate = Gate(1000)
    gate.host["a"] = 100
    gate.entered = 1
    warm = begin(gate, served)
    await settle()
    warm.begin()
    warm.end()
    gate.entered = 0
    await settle()
    assert list(gate.host) == ["a"]
