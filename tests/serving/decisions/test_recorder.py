"""The buffer between requests and the store: what fails waits, what does not fit is dropped and counted."""

import asyncio
import json
import pickle
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from serving.decisions import recorder as module
from serving.decisions.recorder import Recorder, recorder_factory


class Application:
    """Takes halves, unless it is told to fail."""

    def __init__(self) -> None:
        self.taken: list[Any] = []
        self.calls = 0
        self.failure: Exception | None = None
        self.lost = 0

    async def __call__(self, content: bytes) -> int:
        self.calls += 1
        if self.failure is not None:
            raise self.failure
        self.taken += [json.loads(line) for line in content.splitlines()]
        return self.lost


def made(application: Any, **options: Any) -> tuple[Recorder, CollectorRegistry]:
    registry = CollectorRegistry()
    return Recorder(application, registry, **{"vectors": True, "prompts": False, **options}), registry


def dropped(registry: CollectorRegistry) -> float:
    return registry.get_sample_value("learnware_decisions_dropped_total") or 0.0


async def test_halves_go_in_their_order_and_in_batches() -> None:
    application = Application()
    recorder, registry = made(application)
    for number in range(module.BATCH + 1):
        recorder.add({"id": number, "text": "a\nb\u2028"})
    assert await recorder.flush()
    assert [one["id"] for one in application.taken] == list(range(module.BATCH + 1))
    assert (application.calls, dropped(registry)) == (2, 0)


async def test_batches_of_texts_are_small() -> None:
    application = Application()
    recorder, _ = made(application, prompts=True)
    for number in range(2 * module.TEXT_BATCH):
        recorder.add({"id": number})
    await recorder.flush()
    assert (application.calls, len(application.taken)) == (2, 2 * module.TEXT_BATCH)


async def test_a_full_buffer_drops_what_comes() -> None:
    application = Application()
    recorder, registry = made(application, size=3)
    for number in range(5):
        recorder.add({"id": number})
    await recorder.flush()
    assert [one["id"] for one in application.taken] == [0, 1, 2]
    assert dropped(registry) == 2


async def test_what_fails_waits_and_goes_with_the_next() -> None:
    application = Application()
    application.failure = KeyError("no such application")
    recorder, registry = made(application, size=4)
    for number in range(3):
        recorder.add({"id": number})
    assert not await recorder.flush()
    recorder.add({"id": 3})
    application.failure = None
    assert await recorder.flush()
    assert [one["id"] for one in application.taken] == [0, 1, 2, 3]
    assert dropped(registry) == 0


async def test_what_the_store_loses_is_counted() -> None:
    application = Application()
    application.lost = 2
    recorder, registry = made(application)
    recorder.add({"id": 1})
    await recorder.flush()
    assert dropped(registry) == 2


async def test_an_application_that_hangs_is_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "SEND_S", 0.05)

    async def hang(_: bytes) -> int:
        await asyncio.sleep(60)
        return 0

    recorder, _ = made(hang)
    recorder.add({"id": 1})
    assert not await asyncio.wait_for(recorder.flush(), 5)


async def test_it_sends_by_itself_and_once_more_at_its_end() -> None:
    application = Application()
    recorder, _ = made(application, period_s=0.01)
    recorder.start()
    recorder.start()
    recorder.add({"id": 1})
    for _ in range(300):
        if application.taken:
            break
        await asyncio.sleep(0.01)
    assert application.taken == [{"id": 1}]
    recorder.add({"id": 2})
    await recorder.close()
    assert application.taken == [{"id": 1}, {"id": 2}]


async def test_what_is_being_sent_at_its_end_is_sent_again() -> None:
    application, begun = Application(), asyncio.Event()

    async def send(content: bytes) -> int:
        if not begun.is_set():
            begun.set()
            await asyncio.sleep(60)
        return await application(content)

    recorder, registry = made(send, period_s=0.01)
    recorder.start()
    recorder.add({"id": 1})
    await asyncio.wait_for(begun.wait(), 5)
    recorder.add({"id": 2})
    await recorder.close()
    assert application.taken == [{"id": 1}, {"id": 2}]
    assert dropped(registry) == 0


async def test_comparisons_go_in_batches_of_their_own_and_too_many_are_refused() -> None:
    application = Application()
    recorder, registry = made(application)
    taken = [recorder.compared({"id": number, "sides": []}) for number in range(module.COMPARISONS + 1)]
    assert taken == [True] * module.COMPARISONS + [False]
    recorder.add({"id": "half"})
    application.failure = OSError("down")
    assert not await recorder.flush()
    assert not recorder.compared({"id": "more"})  # they wait as before
    application.failure = None
    assert await recorder.flush()
    assert [one["id"] for one in application.taken] == ["half", *range(module.COMPARISONS)]
    assert application.calls == 2 + module.COMPARISONS / module.TEXT_BATCH
    assert dropped(registry) == 0


def test_the_factory_travels_to_another_process() -> None:
    make = pickle.loads(pickle.dumps(recorder_factory(vectors=False, prompts=True)))
    recorder = make(CollectorRegistry())
    assert (recorder.vectors, recorder.prompts) == (False, True)
