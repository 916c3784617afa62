"""Runs one real engine step by step and writes what happened: `paged_engine.py ORDER.json RESULT.json`.

A program of its own because an engine lives for its process. The scheduler is in this process, so it can be looked at
between steps; the worker is in another. Requests come through the gate that the replicas use.
"""

import asyncio
import json
import os
import sys
import threading
import time
from contextlib import AsyncExitStack, nullcontext
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest

from serving.access.caller import caller
from serving.access.tenant import ANONYMOUS, Tenant
from serving.paging.caller_params import with_caller
from serving.paging.gate import AdapterGate
from serving.paging.idle import as_idle_work
from serving.paging.scheduler import share_of
from specs.errors import AdapterUnavailable
from tests.serving.random_adapters import answer_of

TRUTH_DEADLINE_S = 2.0
"""How long a report may lag behind the engine's tables before it counts as wrong."""


class Driver:
    """Gives an engine requests and steps, and notes in which step each began and ended."""

    def __init__(self, llm: LLM, folders: dict[str, str]) -> None:
        self.engine = llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.adapters = {
            name: LoRARequest(f"{name}@1", number, folder) for number, (name, folder) in enumerate(folders.items(), 1)
        }
        self.loop = asyncio.new_event_loop()
        threading.Thread(target=self.loop.run_forever, daemon=True).start()
        self.gate = AdapterGate(self.engine.vllm_config.instance_id, 1)
        self.wait(self.gate.connect(paged=True))
        self.leases: dict[str, AsyncExitStack] = {}
        self.steps = self.needed = 0
        self.began: dict[str, int] = {}
        self.done: dict[str, Any] = {}
        self.logprobs: dict[str, Any] = {}

    def wait(self, awaitable: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(awaitable, self.loop).result(60)

    def add(
        self,
        name: str,
        prompt: str,
        adapter: str | None,
        tokens: int,
        priority: int = 0,
        tenant: Tenant = ANONYMOUS,
        idle: bool = False,
        **more: Any,
    ) -> None:
        caller.set(tenant)
        sampling = SamplingParams(**{"temperature": 0, "max_tokens": tokens, "ignore_eos": True, "logprobs": 2} | more)
        with as_idle_work() if idle else nullcontext():
            (entering, sampling), _ = with_caller((prompt, sampling), {"priority": priority})
        request = self.adapters[adapter] if adapter is not None else None
        self.leases[name] = AsyncExitStack()
        if request is not None:
            self.wait(self.leases[name].enter_async_context(self.gate.lease(request)))
        self.engine.add_request(name, entering, sampling, lora_request=request)

    def step(self) -> None:
        self.steps += 1
        before = set(self.report()["slots"])
        for output in self.engine.step():
            name = output.request_id
            if output.outputs[0].token_ids:
                self.began.setdefault(name, self.steps)
            if output.finished:
                self.done[name] = answer_of(output.outputs[0])
                self.logprobs[name] = output.outputs[0].logprobs
                self.wait(self.leases.pop(name).aclose())
        # an adapter that was needed and had no slot has one now: a batch never needs more than there are
        self.needed += len(set(self.scheduler.slot_table.residents) - before)

    def abort(self, names: list[str]) -> None:
        self.engine.abort_request(names)
        for name in names:
            if name in self.leases:
                self.wait(self.leases.pop(name).aclose())

    def finish(self) -> None:
        while self.engine.has_unfinished_requests():
            self.step()

    def report(self) -> dict[str, Any]:
        """The worker's own tables, asked between two steps."""
        return self.engine.collective_rpc("adapter_report")[0]

    def reported(self) -> list[bool]:
        """Whether what the gate knows, and what the scheduler believes, comes to agree with the worker's tables."""
        own = self.report()
        names = {request.lora_int_id: request.lora_name for request in self.adapters.values()}
        device = {number for number in own["slots"] if number is not None}
        tiers = {names[int(number)]: "host" for number in own["host"]} | {names[number]: "device" for number in device}
        deadline = time.monotonic() + TRUTH_DEADLINE_S
        while dict(self.gate.residency.tiers) != tiers and time.monotonic() < deadline:
            time.sleep(0.01)
        return [dict(self.gate.residency.tiers) == tiers, set(self.scheduler.slot_table.residents) == device]


def alone(driver: Driver, rows: list[list[Any]]) -> list[Any]:
    """The answers to requests [prompt, adapter] that come one after the other."""
    for number, (prompt, adapter) in enumerate(rows):
        driver.add(f"alone-{number}", prompt, adapter, 6)
        driver.finish()
    return [driver.done[f"alone-{number}"] for number in range(len(rows))]


def mixed(driver: Driver, rows: list[list[Any]]) -> dict[str, Any]:
    """The same requests, two a step; after each step, whether all tables agree."""
    agree = []
    pending = list(enumerate(rows))
    loads, needed = driver.report()["device_counts"]["loads"], driver.needed
    while driver.engine.has_unfinished_requests() or pending:
        for number, (prompt, adapter) in pending[:2]:
            driver.add(f"mixed-{number}", prompt, adapter, 6)
        del pending[:2]
        driver.step()
        agree.append(driver.reported())
    counts = driver.report()["device_counts"]
    return {
        "answers": [driver.done[f"mixed-{number}"] for number in range(len(rows))],
        "agree": agree,
        "loads": counts["loads"] - loads,
        "needed": driver.needed - needed,
        "disk_reads_in_step": counts["disk_reads_in_step"],
    }


def aborted(driver: Driver, adapters: list[str]) -> list[str]:
    """Requests of which every second is aborted while it waits; those that were answered."""
    for number in range(2 * len(adapters)):
        driver.add(f"abort-{number}", "Once upon a time", adapters[number % len(adapters)], 3)
    driver.step()
    driver.abort([f"abort-{number}" for number in range(0, 2 * len(adapters), 2)])
    driver.finish()
    return sorted(name for name in driver.done if name.startswith("abort-"))


def prioritised(driver: Driver, adapters: list[str], tenant: Tenant) -> dict[str, Any]:
    """More requests of a tenant than the slots take at once, the last of which asks for priority; the order in which
    they began, and what the scheduler knew of the last one while it waited."""
    for adapter in adapters:
        driver.add(f"{tenant.name}-{adapter}", "Once upon a time", adapter, 3, tenant=tenant)
    driver.add(f"{tenant.name}-urgent", "Once upon a time", adapters[-1], 3, priority=-9, tenant=tenant)
    request = next(one for name, one in driver.scheduler.requests.items() if "urgent" in name)
    known = [*share_of(request)[:3], request.cache_salt, request.priority]
    driver.finish()
    names = [name for name in driver.began if name.startswith(f"{tenant.name}-")]
    return {"order": sorted(names, key=lambda name: driver.began[name]), "known": known}


def shared(driver: Driver, adapter: str, many: int) -> dict[str, Any]:
    """Many requests of one tenant to an adapter, and while they wait one of another tenant to the same; how many of the
    first tenant's began after it, and what is left of both in the scheduler when all have ended."""
    for number in range(many):
        driver.add(f"many-{number}", "Once upon a time", adapter, 4, tenant=Tenant("many"))
    driver.step()
    driver.add("one", "Once upon a time", adapter, 4, tenant=Tenant("one"))
    driver.finish()
    later = sum(driver.began[f"many-{number}"] > driver.began["one"] for number in range(many))
    shares = driver.scheduler.adapter_queue.shares
    shares.check_integrity()
    return {"later": later, "left": sum(one.waiting + one.running for one in shares.accounts.values())}


def idle(driver: Driver, adapter: str, other: str, many: int) -> dict[str, Any]:
    """Idle work that has begun to answer, and then as many requests as there are seats; what became of it at the next
    step, how many of the requests began there, and both answers: as a request alone, and as idle work."""
    prompt, tokens = "Once upon a time there was a small", 12
    driver.add("idle-alone", prompt, adapter, tokens)
    driver.finish()
    driver.add("idle", prompt, adapter, tokens, idle=True)
    for _ in range(4):
        driver.step()
    (request,) = driver.scheduler.waiting.idle_running
    for number in range(many):
        driver.add(f"beside-idle-{number}", f"Count to {number}:", other, 4, tenant=Tenant("many"))
    driver.step()
    found = {
        "preempted": request.num_preemptions,
        "waits": request in driver.scheduler.waiting.idle_waiting,
        "begun": sum(f"beside-idle-{number}" in driver.began for number in range(many)),
        "running": len(driver.scheduler.running),
    }
    ended_before = len(driver.done)
    while "idle" not in driver.done:
        driver.step()
    driver.finish()
    driver.scheduler.adapter_queue.shares.check_integrity()
    return found | {
        "ended_before": list(driver.done).index("idle") - ended_before,
        "answers": [driver.done["idle-alone"], driver.done["idle"]],
        "left": [len(driver.scheduler.waiting), len(driver.scheduler.waiting.idle_running)],
    }


def forced(driver: Driver, adapter: str) -> list[list[Any]]:
    """The likeliest tokens after a prompt with their log-probabilities, each as the engine lists it, and as it is told
    of where nothing else is allowed (`serving.replica.likelihood`)."""
    prompt = "The capital of France is"
    driver.add("listed", prompt, adapter, 1, logprobs=5)
    driver.finish()
    (listed,) = driver.logprobs["listed"]
    found = []
    for token, one in listed.items():
        driver.add(f"forced-{token}", prompt, adapter, 1, logprobs=0, allowed_token_ids=[token])
        driver.finish()
        (alone,) = driver.logprobs[f"forced-{token}"]
        found.append([one.logprob, alone[token].logprob, one.rank, alone[token].rank])
    return found


def busy(driver: Driver, adapters: list[str], cold: str, clients: int, limit: int) -> dict[str, Any]:
    """`adapters` with `clients` requests each, always, and one request to another; how many steps until it began, and
    the most steps that a request of the others took."""
    number, start, asked = 0, driver.steps, 6
    live: dict[str, str] = {}
    added: dict[str, int] = {}
    took = 0
    while driver.steps - start < limit and "cold" not in driver.began:
        for name in [name for name in live if name in driver.done]:
            took = max(took, driver.steps - added[name])
            del live[name]
        for adapter in adapters:
            for _ in range(clients - list(live.values()).count(adapter)):
                name = f"busy-{number}"
                driver.add(name, f"Count to {number}:", adapter, 3 + number % 4)
                live[name], added[name] = adapter, driver.steps
                number += 1
        if driver.steps - start == asked:
            driver.add("cold", "The capital of France is", cold, 2)
        driver.step()
    began = driver.began.get("cold")
    driver.abort([*live, "cold"])
    driver.finish()
    return {
        "steps_until_cold": None if began is None else began - start - asked,
        "longest": took,
        "waiting": len(driver.scheduler.waiting),
    }


def broken(driver: Driver, folder: str) -> dict[str, Any]:
    """A request whose adapter cannot be loaded, beside one that runs."""
    driver.add("beside", "Once upon a time", next(iter(driver.adapters)), 3)
    driver.step()
    driver.adapters["broken"] = LoRARequest("broken@1", 900, folder)
    try:
        driver.add("broken", "Once upon a time", "broken", 3)
        reason = "accepted"
    except AdapterUnavailable as error:
        reason = str(error)
    del driver.adapters["broken"]
    driver.finish()
    return {"reason": reason, "beside": len(driver.done["beside"]["tokens"])}


def removed(driver: Driver, name: str) -> dict[str, Any]:
    """An adapter that is removed: what the worker and the scheduler hold of it before and after."""
    request = driver.adapters[name]

    async def remove(number: int) -> bool:
        return bool(await asyncio.to_thread(driver.engine.remove_lora, number))

    def held() -> list[bool]:
        own = driver.report()
        number = request.lora_int_id
        return [number in own["slots"], str(number) in own["host"], number in driver.scheduler.slot_table.residents]

    driver.add("removed-before", "Once upon a time", name, 2)
    driver.finish()
    before = held()
    driver.wait(driver.gate.removing(remove)(request.lora_int_id))
    time.sleep(0.2)  # the scheduler hears of it by its socket
    others = [one for one in driver.adapters if one != name]
    driver.add("removed-after", "Once upon a time", others[0], 2)
    driver.finish()
    return {"before": before, "after": held(), "agree": driver.reported()}


def main(order_file: str, result_file: str) -> None:
    order = json.loads(Path(order_file).read_text())
    driver = Driver(LLM(**order["engine"]), order["adapters"])
    names = list(driver.adapters)
    slots = order["engine"]["max_loras"]
    free = [name for name in names if name != order["pinned"]]
    answers = driver.engine.engine_core.engine_core.model_executor.response_mqs
    result = {
        "readers": [type(queue._spin_condition).__name__ for queue in answers],
        "alone": alone(driver, order["rows"]),
        "mixed": mixed(driver, order["rows"]),
        "aborted": aborted(driver, free),
        "prioritised": prioritised(driver, free, Tenant("granted", weight=2.0, priority=-2)),
        "not_granted": prioritised(driver, free, Tenant("plain")),
        "shared": shared(driver, free[0], order["many"]),
        "idle": idle(driver, free[0], free[1], order["seats"]),
        "forced": forced(driver, free[0]),
        "pinned_keeps_its_slot": driver.adapters[order["pinned"]].lora_int_id in driver.report()["slots"],
        "busy": busy(driver, free[: slots - 1], free[slots - 1], order["clients"], order["limit"]),
        "broken": broken(driver, order["broken"]),
        "removed": removed(driver, order["pinned"]),
    }
    Path(result_file).write_text(json.dumps(result))
    driver.wait(driver.gate.close())


if __name__ == "__main__":
    main(*sys.argv[1:])
