"""What the scheduler makes of vLLM's requests: whose they are, what they cost, and what it reports of them."""

import threading
import warnings
from collections import deque
from types import SimpleNamespace
from typing import Any

import pytest

from serving.paging.queue import AdapterQueue
from serving.paging.settings import EXTRA_ARGS, PagingSettings, Share
from serving.paging.slots import SlotTable

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from vllm.lora.request import LoRARequest
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request, RequestStatus

    from serving.paging.scheduler import (
        IDLE_PROMPT_TOKENS,
        OTHERS,
        REPORTED_TENANTS,
        PagedRequestQueue,
        PagedSchedulerMixin,
        ParkedRequests,
    )

pytestmark = pytest.mark.vllm


class Clock:
    now = 0.0

    def __call__(self) -> float:
        return self.now


def request(name: str, share: Share, prompt: int = 10, max_tokens: int = 100) -> Request:
    parameters = SamplingParams(max_tokens=max_tokens, extra_args={EXTRA_ARGS: share._asdict()})
    return Request(name, [1] * prompt, parameters, None)


def waiting_queue() -> tuple[PagedRequestQueue, AdapterQueue[Request]]:
    queue: AdapterQueue[Request] = AdapterQueue(2, 1.0)
    return PagedRequestQueue(queue, Clock()), queue


def test_a_request_joins_with_its_tenants_weight_and_head_start():
    waiting, queue = waiting_queue()
    for number in range(2):
        waiting.add_request(request(f"b{number}", Share("b")))
    waiting.add_request(request("a", Share("a", weight=2.0, head_start=5.0)))
    assert waiting.pop_request().request_id == "a"
    assert queue.shares.accounts["a"].service == 110 / 2


def test_vllms_own_priority_plays_no_part():
    waiting, _ = waiting_queue()
    first, second = request("1", Share("a")), request("2", Share("a"))
    second.priority = -9
    waiting.add_request(first)
    waiting.add_request(second)
    assert waiting.pop_request() is first


def test_an_ended_request_is_charged_what_it_took_and_the_next_is_expected_to_take_as_much():
    waiting, queue = waiting_queue()
    one = request("1", Share("a"))
    waiting.add_request(one)
    assert waiting.pop_request() is one
    assert queue.shares.accounts["a"].service == 110
    waiting.prepend_request(one)  # preempted
    assert waiting.pop_request() is one
    one.append_output_token_ids([1] * 6)
    waiting.note_ended(one)
    assert queue.shares.accounts["a"].service == 16
    waiting.add_request(request("2", Share("a")))
    waiting.pop_request()
    assert queue.shares.accounts["a"].service - queue.shares.virtual_time == 10 + 6


def test_a_request_that_is_aborted_while_it_waits_tells_nothing_of_lengths():
    waiting, queue = waiting_queue()
    one = request("1", Share("a"))
    waiting.add_request(one)
    waiting.remove_requests([one])
    waiting.note_ended(one)
    waiting.add_request(request("2", Share("a")))
    waiting.pop_request()
    assert queue.shares.accounts["a"].service == 110


class Reporting(PagedSchedulerMixin):
    """As much of a scheduler as makes a report."""

    def __init__(self, queue: AdapterQueue[Request]) -> None:
        self.adapter_queue, self.running, self.skipped_waiting = queue, [], ()
        self.waiting = PagedRequestQueue(queue)
        self._steps, self._report_changed = 7, threading.Event()

    def report(self, now: float) -> dict[str, Any]:
        self._note_report(now)
        return self._report


def test_the_report_tells_the_longest_wait_and_who_waits():
    waiting, queue = waiting_queue()
    for number, tenant in enumerate(("a", "b", "a")):
        waiting._clock.now = float(number)
        waiting.add_request(request(str(number), Share(tenant)))
    report = Reporting(queue).report(now=10.0)
    assert report["oldest_wait_s"] == 10.0
    assert report["waiting_by_tenant"] == {"a": 2, "b": 1}
    assert report["steps"] == 7
    assert waiting.pop_request().request_id == "0"
    assert Reporting(queue).report(now=10.0)["oldest_wait_s"] == 9.0
    waiting.remove_requests(list(waiting))
    report = Reporting(queue).report(now=10.0)
    assert (report["oldest_wait_s"], report["waiting_by_tenant"]) == (0.0, {})


def test_the_report_names_so_many_tenants_and_sums_up_the_others():
    waiting, queue = waiting_queue()
    for number in range(REPORTED_TENANTS + 6):
        for copy in range(1 + (number < 10)):
            waiting.add_request(request(f"{number}-{copy}", Share(f"t{number}")))
    waiting.add_request(request("none", Share()))
    for copy in range(3):
        waiting.add_request(request(f"other-{copy}", Share(OTHERS)))
    by_tenant = Reporting(queue).report(now=0.0)["waiting_by_tenant"]
    assert len(by_tenant) == REPORTED_TENANTS + 1
    assert by_tenant[OTHERS] == 6 + 1 + 3
    assert sum(by_tenant.values()) == len(queue)
    assert all(by_tenant[f"t{number}"] == 2 for number in range(10))


class Steps:
    """As much of vLLM's scheduler as takes requests from the waiting queue, with its seats and its names."""

    max_num_running_reqs = 4
    blocks_are_short = False

    def __init__(self, slots: int) -> None:
        self.running: list[Request] = []
        self.requests: dict[str, Request] = {}
        self.prefill_steps: dict[str, int] = {}
        self.lora_config = SimpleNamespace(max_loras=slots)
        self.scheduler_config = SimpleNamespace(long_prefill_token_threshold=0)
        self.bounds: list[int] = []

    def schedule(self) -> Any:
        self.bounds.append(self.scheduler_config.long_prefill_token_threshold)
        tokens = {one.request_id: 1 for one in self.running}
        while self.waiting and len(self.running) < self.max_num_running_reqs and not self.blocks_are_short:
            one = self.waiting.peek_request()
            assert self.waiting.pop_request() is one
            one.status = RequestStatus.RUNNING
            one.is_prefill_chunk = self.prefill_steps.get(one.request_id, 0) > 0
            self.running.append(one)
            tokens[one.request_id] = 1
        return SimpleNamespace(num_scheduled_tokens=tokens, scheduled_new_reqs=[])

    def _preempt_request(self, one: Request, timestamp: float) -> None:
        assert one not in self.running
        one.num_preemptions += 1
        self.waiting.prepend_request(one)

    def _free_request(self, one: Request) -> None:
        del self.requests[one.request_id]


class Paged(PagedSchedulerMixin, Steps):
    """The project's scheduler over it, without a process or a socket."""

    def __init__(self, slots: int = 2) -> None:
        Steps.__init__(self, slots)
        self._announces, self._paging = False, PagingSettings()
        self.slot_table = SlotTable(slots)
        self.adapter_queue = AdapterQueue(slots, 1.0, self.max_num_running_reqs)
        self.waiting = PagedRequestQueue(self.adapter_queue, Clock(), self._idle_may_begin)
        self.skipped_waiting = ParkedRequests()
        self._waited_through = False
        self._steps, self._reported, self._removed, self._report_changed = 0, 0.0, deque(), threading.Event()

    def add(self, name: str, *, adapter: int | None = None, idle: bool = False, prefill_steps: int = 0) -> Request:
        one = self.requests[name] = request(name, Share(idle=True) if idle else Share("a"))
        if adapter is not None:
            one.lora_request = LoRARequest(f"a{adapter}@1", adapter, "/adapters")
        self.prefill_steps[name] = prefill_steps
        self.waiting.add_request(one)
        return one

    def step(self) -> list[str]:
        self.schedule()
        for one in self.running:
            self.prefill_steps[one.request_id] -= 1
            one.is_prefill_chunk = self.prefill_steps[one.request_id] > 0
        return [one.request_id for one in self.running]

    def end(self, name: str) -> None:
        one = self.requests[name]
        self.running = [other for other in self.running if other is not one]
        self._free_request(one)


def test_idle_work_begins_only_beside_a_half_empty_batch_in_which_no_prompt_is_read():
    paged = Paged()
    paged.add("idle", idle=True)
    assert paged.step() == ["idle"]
    paged.end("idle")
    for number in range(3):
        paged.add(str(number), prefill_steps=2)
    paged.add("idle", idle=True)
    assert paged.step() == ["0", "1", "2"]  # as many begin
    assert paged.step() == ["0", "1", "2"]  # their prompts are read
    assert paged.step() == ["0", "1", "2"]  # more than half of four
    paged.end("0")
    paged.prefill_steps["1"] = 1
    paged.running[0].is_prefill_chunk = True
    assert paged.step() == ["1", "2"]  # a prompt is read
    assert paged.step() == ["1", "2", "idle"]
    assert len(paged.waiting) == 0


def test_idle_work_has_no_part_in_accounts_reports_or_lengths():
    paged = Paged()
    paged.add("idle", idle=True)
    paged.add("parked", idle=True)
    paged.waiting.remove_request(paged.requests["parked"])
    paged.skipped_waiting.add_request(paged.requests["parked"])
    paged._note_report(0.0)
    assert paged._report["waiting"] == {"slot": 0, "draining": 0, "seat": 0, "parked": 0}
    paged.skipped_waiting.remove_request(paged.requests["parked"])
    paged.step()
    paged._note_report(0.0)
    assert (paged._report["running"], paged._report["waiting_by_tenant"]) == (0, {})
    paged.requests["idle"].append_output_token_ids([1] * 7)
    paged.end("idle")
    assert not paged.adapter_queue.shares.accounts
    assert not paged.waiting.idle_running
    assert paged.waiting._lengths.cost("a", 10, 100) == 110


def test_a_request_that_a_seat_may_be_short_for_takes_that_of_idle_work_in_the_step_after_it_came():
    paged = Paged()
    for number in range(2):
        paged.add(str(number))
    paged.step()
    paged.add("idle", idle=True)
    assert paged.step() == ["0", "1", "idle"]
    paged.add("2")
    assert paged.step() == ["0", "1", "idle", "2"]  # there is a seat for both
    paged.add("3")
    assert paged.step() == ["0", "1", "2", "3"]
    assert paged.requests["idle"].num_preemptions == 1
    assert list(paged.waiting) == [paged.requests["idle"]]
    for number in range(2):
        paged.end(str(number))
    assert paged.step() == ["2", "3", "idle"]


def test_a_request_that_a_slot_may_be_short_for_takes_that_of_idle_work():
    paged = Paged(slots=2)
    paged.add("0", adapter=1)
    paged.step()
    paged.add("idle", adapter=2, idle=True)
    assert paged.step() == ["0", "idle"]
    paged.add("1", adapter=1)
    assert paged.step() == ["0", "idle", "1"]  # it needs no further slot
    paged.add("2", adapter=3)
    assert paged.step() == ["0", "1", "2"]
    paged.end("0")
    paged.end("1")
    assert paged.step() == ["2", "idle"]


def test_idle_work_takes_no_slot_that_is_in_use_or_pinned():
    paged = Paged(slots=2)
    paged.slot_table.use([9])
    paged.slot_table.pinned.add(9)
    paged.add("0", adapter=1)
    paged.step()
    for adapter in (2, None, 1, 9):
        paged.add(f"idle-{adapter}", adapter=adapter, idle=True)
        begins = paged.step() == ["0", f"idle-{adapter}"]
        assert begins == (adapter != 2)
        if not begins:
            paged.waiting.remove_request(paged.requests[f"idle-{adapter}"])
        paged.end(f"idle-{adapter}")


def test_idle_work_reads_no_prompt_beside_one_that_comes():
    paged = Paged()
    paged.add("idle", idle=True, prefill_steps=5)
    assert paged.step() == ["idle"]
    paged.add("0")
    assert paged.step() == ["0"]


def test_idle_work_gives_way_to_a_request_that_has_waited_through_a_step():
    """For blocks of the KV cache, or for a seat that is kept for another tenant."""
    paged = Paged()
    paged.add("idle", idle=True)
    paged.step()
    paged.add("0")
    paged.blocks_are_short = True
    assert paged.step() == ["idle"]
    assert paged.step() == []
    paged.blocks_are_short = False
    assert paged.step() == ["0"]
    assert paged.requests["idle"].num_preemptions == 1


def test_idle_work_is_preempted_before_requests_where_blocks_are_short():
    """vLLM takes the last one of those that run."""
    paged = Paged()
    paged.add("idle", idle=True)
    paged.step()
    paged.add("0")
    assert paged.step() == ["idle", "0"]
    assert paged.step() == ["0", "idle"]


def test_idle_work_of_any_number_waits_behind_the_lowest_priority_of_a_client():
    paged = Paged()
    paged.add("idle", idle=True)
    lowest = paged.requests["0"] = request("0", Share("a", 1e-9, -2048.0 * (1 << 20)))
    paged.prefill_steps["0"] = 0
    paged.waiting.add_request(lowest)
    assert paged.step() == ["0"]
    assert paged.step() == ["0", "idle"]


@pytest.mark.parametrize(("usual", "idle"), [(0, IDLE_PROMPT_TOKENS), (100, 100), (5000, IDLE_PROMPT_TOKENS)])
def test_a_step_reads_a_part_of_an_idle_prompt_and_requests_are_read_as_usual(usual: int, idle: int):
    paged = Paged()
    paged.scheduler_config.long_prefill_token_threshold = usual
    paged.add("0", prefill_steps=2)
    paged.step()
    paged.add("idle", idle=True, prefill_steps=2)
    paged.step()  # it waits until the other prompt is read
    paged.step()
    paged.step()
    assert [one.request_id for one in paged.running] == ["0", "idle"]
    paged.step()
    paged.add("waits", idle=True)
    paged.add("1")
    paged.step()
    assert paged.bounds == [usual, usual, idle, idle, usual, usual]
    assert paged.scheduler_config.long_prefill_token_threshold == usual
