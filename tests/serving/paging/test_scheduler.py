"""What the scheduler makes of vLLM's requests: whose they are, what they cost, and what it reports of them."""

import threading
import warnings
from typing import Any

import pytest

from serving.paging.queue import AdapterQueue
from serving.paging.settings import EXTRA_ARGS, Share

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from vllm.sampling_params import SamplingParams
    from vllm.v1.request import Request

    from serving.paging.scheduler import OTHERS, REPORTED_TENANTS, PagedRequestQueue, PagedSchedulerMixin

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
