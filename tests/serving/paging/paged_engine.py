"""Runs one real engine step by step and writes what happened: `paged_engine.py ORDER.json RESULT.json`.

A program of its own because an engine lives for its process. The scheduler is in this process, so it can be looked at
between steps; the worker is in another.
"""

import json
import os
import sys
from pathlib import Path
from typing import Any

os.environ["VLLM_ENABLE_V1_MULTIPROCESSING"] = "0"

from vllm import LLM, SamplingParams
from vllm.lora.request import LoRARequest


class Driver:
    """Gives an engine requests and steps, and notes in which step each began and ended."""

    def __init__(self, llm: LLM, folders: list[str]) -> None:
        self.engine = llm.llm_engine
        self.scheduler = self.engine.engine_core.engine_core.scheduler
        self.adapters = [
            LoRARequest(f"adapter-{number}", number, folder) for number, folder in enumerate(folders, start=1)
        ]
        self.steps = 0
        self.began: dict[str, int] = {}
        self.done: dict[str, Any] = {}

    def add(self, name: str, prompt: str, adapter: int | None, tokens: int, priority: int = 0) -> None:
        sampling = SamplingParams(temperature=0, max_tokens=tokens, ignore_eos=True, logprobs=1)
        request = self.adapters[adapter] if adapter is not None else None
        self.engine.add_request(name, prompt, sampling, lora_request=request, priority=priority)

    def step(self) -> None:
        self.steps += 1
        for output in self.engine.step():
            name = output.request_id
            if output.outputs[0].token_ids:
                self.began.setdefault(name, self.steps)
            if output.finished:
                self.done[name] = output.outputs[0]

    def report(self) -> dict[str, Any]:
        return self.engine.collective_rpc("adapter_report")[0]


def mixed(driver: Driver, rows: list[list[Any]]) -> dict[str, Any]:
    """Requests [prompt, adapter] that come two a step; after each step the tables of both sides."""
    tables = []
    pending = list(enumerate(rows))
    while driver.engine.has_unfinished_requests() or pending:
        for number, (prompt, adapter) in pending[:2]:
            driver.add(f"mixed-{number}", prompt, adapter, 6)
        del pending[:2]
        driver.step()
        table = getattr(driver.scheduler, "slot_table", None)
        tables.append([sorted(table.residents) if table else None, driver.report()["slots"]])
    answers = []
    for number in range(len(rows)):
        done = driver.done[f"mixed-{number}"]
        answers.append([list(done.token_ids), [p[t].logprob for p, t in zip(done.logprobs, done.token_ids)]])
    return {"answers": answers, "tables": tables, "report": driver.report()}


def busy(driver: Driver, slots: int, clients: int, limit: int) -> dict[str, Any]:
    """`slots` adapters with `clients` requests each, always, and one request to another; steps until it began."""
    number, start = 0, driver.steps
    live: dict[str, int] = {}
    while driver.steps - start < limit and "cold" not in driver.began:
        live = {name: adapter for name, adapter in live.items() if name not in driver.done}
        for adapter in range(slots):
            for _ in range(clients - list(live.values()).count(adapter)):
                name = f"busy-{number}"
                driver.add(name, f"Count to {number}:", adapter, 5 + number % 7)
                live[name] = adapter
                number += 1
        if driver.steps - start == 10:
            driver.add("cold", "The capital of France is", slots, 3)
        driver.step()
    began = driver.began.get("cold")
    driver.engine.abort_request([*live, "cold"])
    while driver.engine.has_unfinished_requests():
        driver.step()
    return {"steps_until_cold": None if began is None else began - start - 10, "left": len(driver.scheduler.waiting)}


def aborted(driver: Driver) -> dict[str, Any]:
    """Requests that are aborted while they wait; the others end."""
    for number in range(12):
        driver.add(f"abort-{number}", "Once upon a time", number % 6, 4)
    driver.step()
    driver.engine.abort_request([f"abort-{number}" for number in range(0, 12, 2)])
    while driver.engine.has_unfinished_requests():
        driver.step()
    return {"done": sorted(name for name in driver.done if name.startswith("abort-")), "steps": driver.steps}


def main(order_file: str, result_file: str) -> None:
    order = json.loads(Path(order_file).read_text())
    driver = Driver(LLM(**order["engine"]), order["adapters"])
    result = {
        "mixed": mixed(driver, order["rows"]),
        "aborted": aborted(driver),
        "busy": busy(driver, order["engine"]["max_loras"], order["clients"], order["limit"]),
    }
    Path(result_file).write_text(json.dumps(result))


if __name__ == "__main__":
    main(*sys.argv[1:])
