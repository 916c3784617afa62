"""vLLM 0.29's schedulers over this project's waiting queue: `scheduler_cls="serving.paging.scheduler.PagedScheduler"`,
or `PagedAsyncScheduler` where vLLM schedules asynchronously (its default on CUDA; on CPU vLLM turns that off).

The seam is `Scheduler.waiting`, a `RequestQueue` that `schedule` peeks and pops one request at a time. What else of
`Scheduler` is used is listed, and checked, in `tests/serving/test_vllm_seams.py`.

vLLM keeps requests that cannot run yet (their grammar compiles, their keys and values are on the way) in a second
queue, `skipped_waiting`, which it goes through first. Here that queue of *parked* requests never offers one: it is
looked through once before each step, and requests that may run join the one order of all.

Whose a request is comes with it (`serving.paging.settings.Share`). Its tenant is charged the tokens of its prompt and
of an answer as long as the tenant's recent ones; when it ends, the tokens that it took. vLLM's own priorities play no
part in the order.

Idle work (`serving.paging.idle`) stands beside that order. It begins only when nothing else waits, in a step that reads
no other prompt, with half of the seats free or more, and a slot for its adapter. It is preempted at the beginning of a
step in which others wait, if a seat or a slot may be short, if it would read its prompt beside theirs, or if they have
waited through a step already (for blocks of the KV cache, say). A step reads at most `IDLE_PROMPT_TOKENS` of its
prompt, so that what comes meanwhile does not wait for a long one.

Settings come from `additional_config`, since the scheduler has a process of its own: `{"paging": {"patience_s": …}}`.
"""

import heapq
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from itertools import chain
from typing import Any

from vllm.platforms import current_platform
from vllm.v1.core.sched.async_scheduler import AsyncScheduler
from vllm.v1.core.sched.output import SchedulerOutput
from vllm.v1.core.sched.request_queue import RequestQueue
from vllm.v1.core.sched.scheduler import Scheduler
from vllm.v1.request import Request

from serving.paging.answer_lengths import AnswerLengths
from serving.paging.idle_polling import wait_in_naps
from serving.paging.orphan import end_with_parent
from serving.paging.queue import AdapterQueue, Running
from serving.paging.settings import UPCOMING, PagingSettings, Share
from serving.paging.slots import SlotTable
from serving.paging.sockets import SCHEDULER, SchedulerSocket, socket_path

IDLE_PROMPT_TOKENS = 256
"""Tokens of an idle prompt that one step reads at most. A request that comes waits for a step in any case; one of so
many tokens takes as long as that of a short prompt."""
AHEAD = 2
"""Number of adapters that a step announces to the workers: few slots become free at a time."""
REPORT_INTERVAL_S = 0.25
"""Seconds between two reports of a busy scheduler, each of which counts the waiting requests of every adapter."""
REPORTED_TENANTS = 64
"""Number of tenants, those with the most waiting requests, that a report names; the others are summed up."""
OTHERS = "other"
"""Name under which a report sums up the tenants that it does not name. No two tenants are confused by it: a tenant of
that name is summed up as well."""


def share_of(request: Request) -> Share:
    """Returns whose request it is; requests of pooling models say nothing of it."""
    return Share.of(request.sampling_params.extra_args if request.sampling_params is not None else None)


def adapter_of(request: Request) -> int | None:
    """Returns the number of the request's adapter (`lora_int_id`), None for a request without one."""
    return request.lora_request.lora_int_id if request.lora_request is not None else None


class PagedRequestQueue(RequestQueue):
    """`AdapterQueue` behind the interface of vLLM's waiting queue, with idle work behind it.

    It is true when a request may run *now*; its length is that of all that wait, since vLLM sleeps when nothing is
    left.
    """

    def __init__(
        self,
        queue: AdapterQueue[Request],
        clock: Any = time.monotonic,
        idle_may_begin: Callable[[Request], bool] = lambda _: True,
    ) -> None:
        """Makes an empty queue; `idle_may_begin` is asked of idle work when nothing else waits."""
        self.queue = queue
        self.idle_waiting: dict[Request, None] = {}
        """Idle work that waits, in the order in which it came."""
        self.idle_running: dict[Request, None] = {}
        """Idle work that was taken out to run and has not ended."""
        self.begun = False
        """Whether a request other than idle work was taken out since this was last set to False."""
        self._idle_may_begin = idle_may_begin
        self._clock = clock
        self._lengths = AnswerLengths()

    def add_request(self, request: Request) -> None:
        tenant, weight, head_start, idle = share_of(request)
        if idle:
            self._add_idle(request)
            return
        cost = self._lengths.cost(tenant, request.num_prompt_tokens, request.max_tokens)
        adapter = adapter_of(request)
        self.queue.add(request, adapter, self._clock(), tenant=tenant, weight=weight, cost=cost, head_start=head_start)

    def prepend_request(self, request: Request) -> None:
        tenant, weight, _, idle = share_of(request)
        if idle:
            self._add_idle(request)
            return
        cost = self._lengths.cost(tenant, request.num_prompt_tokens, request.max_tokens)
        self.queue.add_front(request, adapter_of(request), self._clock(), tenant=tenant, weight=weight, cost=cost)

    def _add_idle(self, request: Request) -> None:
        self.idle_running.pop(request, None)
        self.idle_waiting[request] = None

    def note_ended(self, request: Request) -> None:
        """Takes note that a request has ended, in whatever way; its tenant is charged the tokens that it took."""
        self.idle_running.pop(request, None)
        if self.queue.finished(request, request.num_prompt_tokens + request.num_output_tokens):
            self._lengths.note(share_of(request).tenant, request.num_output_tokens)

    def prepend_requests(self, requests: RequestQueue) -> None:
        for request in requests:
            self.prepend_request(request)

    def pop_request(self) -> Request:
        idle = self.first_idle()
        if idle is not None:
            del self.idle_waiting[idle]
            self.idle_running[idle] = None
            return idle
        self.begun = True
        return self.queue.pop()

    def first_idle(self) -> Request | None:
        """Returns the idle work that runs next, None where there is none, something else waits, or none may begin."""
        if self.queue:
            return None
        first = next(iter(self.idle_waiting), None)
        return first if first is not None and self._idle_may_begin(first) else None

    def peek_request(self) -> Request:
        request = self.queue.peek() or self.first_idle()
        if request is None:
            raise IndexError("no waiting request may run now")
        return request

    def remove_request(self, request: Request) -> None:
        self.idle_waiting.pop(request, None)
        self.queue.remove(request)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.remove_request(request)

    def __bool__(self) -> bool:
        return self.queue.peek() is not None or self.first_idle() is not None

    def __len__(self) -> int:
        return len(self.queue) + len(self.idle_waiting)

    def __iter__(self) -> Iterator[Request]:
        return chain(self.queue, tuple(self.idle_waiting))


class ParkedRequests(RequestQueue):
    """Requests that cannot run yet, behind the interface of vLLM's queue `skipped_waiting`. It never offers one."""

    def __init__(self) -> None:
        self._requests: dict[Request, None] = {}

    def add_request(self, request: Request) -> None:
        self._requests[request] = None

    def prepend_request(self, request: Request) -> None:
        self.add_request(request)

    def prepend_requests(self, requests: RequestQueue) -> None:
        for request in requests:
            self.add_request(request)

    def pop_request(self) -> Request:
        raise IndexError("parked requests are not offered")

    def peek_request(self) -> Request:
        raise IndexError("parked requests are not offered")

    def remove_request(self, request: Request) -> None:
        self._requests.pop(request, None)

    def remove_requests(self, requests: Iterable[Request]) -> None:
        for request in requests:
            self.remove_request(request)

    def __bool__(self) -> bool:
        return False

    def __len__(self) -> int:
        return len(self._requests)

    def __iter__(self) -> Iterator[Request]:
        return iter(tuple(self._requests))


class PagedSchedulerMixin:
    """Schedules by `AdapterQueue`. It goes before `Scheduler` or `AsyncScheduler` in the bases."""

    vllm_config: Any
    lora_config: Any
    scheduler_config: Any
    running: list[Request]
    requests: dict[str, Request]
    max_num_running_reqs: int

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        end_with_parent()
        self._announces = not current_platform.is_cpu()  # there host memory is the device's: nothing is brought ahead
        if current_platform.is_cpu():
            # the scheduler is made in the engine core's process, after the workers
            wait_in_naps(self.vllm_config.parallel_config.distributed_executor_backend)
        self._paging = PagingSettings.of(self.vllm_config.additional_config)
        slots = self.lora_config.max_loras if self.lora_config is not None else 1
        self.slot_table = SlotTable(slots)
        seats = self.max_num_running_reqs
        self.adapter_queue: AdapterQueue[Request] = AdapterQueue(slots, self._paging.patience_s, seats)
        self.waiting = PagedRequestQueue(self.adapter_queue, idle_may_begin=self._idle_may_begin)
        self.skipped_waiting = ParkedRequests()
        self._waited_through = False
        self._steps = 0
        self._reported = 0.0
        self._report: dict[str, Any] = {}
        self._report_changed = threading.Event()
        self._note_report(time.monotonic())
        path = socket_path(self.vllm_config.instance_id, SCHEDULER)
        self._removed: deque[int] = deque()  # by the socket's thread
        self._socket = SchedulerSocket(path, self._report_changed, lambda: self._report, self._removed.append)

    def shutdown(self) -> None:
        """Closes the socket, then shuts vLLM's scheduler down."""
        self._socket.close()
        super().shutdown()  # type: ignore[misc]

    def schedule(self, *args: Any, **kwargs: Any) -> SchedulerOutput:
        """Schedules a step: removed adapters leave the slot table, parked requests that may run join the queue, the
        queue learns what runs, and vLLM's scheduler picks requests from it. The output also announces the adapters that
        are likely to be loaded next (on CUDA)."""
        now = time.monotonic()
        while self._removed:
            self.slot_table.remove(self._removed.popleft())
        self._unpark()
        self._give_way(now)
        self.waiting.begun = False
        running = (
            Running(adapter_of(request), max(0, request.max_tokens - request.num_output_tokens))
            for request in self.running
        )
        self.adapter_queue.begin_step(now, running, self.slot_table.residents, self.slot_table.pinned_residents)
        with self._idle_prompts_in_parts():
            output = super().schedule(*args, **kwargs)  # type: ignore[misc]
        self._waited_through = bool(self.adapter_queue)
        if self._paging.pinned:
            self.slot_table.pinned.update(
                new.lora_request.lora_int_id
                for new in output.scheduled_new_reqs
                if new.lora_request is not None and self._paging.pins(new.lora_request.lora_name)
            )
        batch = {adapter_of(self.requests[request_id]) for request_id in output.num_scheduled_tokens}
        self.slot_table.use(adapter for adapter in batch if adapter is not None)
        if self._announces:
            setattr(output, UPCOMING, self.adapter_queue.upcoming(AHEAD))
        self._steps += 1
        if now - self._reported >= REPORT_INTERVAL_S or not self.requests:
            self._note_report(now)
        return output

    def _note_report(self, now: float) -> None:
        """Makes the report that the front end gets: numbers of requests and adapters by state, and of steps."""
        queue = self.adapter_queue
        self._reported = now
        self._report = {
            "running": sum(one not in self.waiting.idle_running for one in self.running),
            "waiting": queue.waiting_by_reason()
            | {"parked": sum(not share_of(one).idle for one in self.skipped_waiting)},
            "draining": len(queue.draining),
            "aged_out": queue.aged_out,
            "mean_wait": queue.mean_wait,
            "oldest_wait_s": queue.oldest_wait(now),
            "waiting_by_tenant": _largest(queue.waiting_by_tenant()),
            "steps": self._steps,
        }
        self._report_changed.set()

    def _free_request(self, request: Request, *args: Any, **kwargs: Any) -> Any:
        """Notes each request that ends, finished or aborted, before vLLM's scheduler frees what it holds."""
        self.waiting.note_ended(request)
        return super()._free_request(request, *args, **kwargs)  # type: ignore[misc]

    def _idle_may_begin(self, request: Request) -> bool:
        """Returns whether idle work may begin while nothing else waits. Where nothing runs it always may, so the engine
        never turns without work."""
        if self.waiting.begun or 2 * len(self.running) > self.max_num_running_reqs:
            return False
        if any(one.is_prefill_chunk for one in self.running):
            return False
        adapter, active = adapter_of(request), self._active()
        return adapter is None or adapter in active or len(active) < self.slot_table.slots

    def _active(self) -> set[int]:
        """Returns the adapters whose slot no other adapter can have now."""
        running = {adapter for one in self.running if (adapter := adapter_of(one)) is not None}
        return running | self.slot_table.pinned_residents

    def _give_way(self, now: float) -> None:
        """Preempts idle work whose place others may want. Else it comes last, so that vLLM preempts it first where
        blocks are short."""
        idle = self.waiting.idle_running
        if not idle:
            return
        last = [one for one in self.running if one in idle]
        others = [one for one in self.running if one not in idle]
        if not self._others_want_more(last):
            self.running = [*others, *last]
            return
        self.running = others
        for one in last:
            self._preempt_request(one, now)  # type: ignore[attr-defined]

    def _others_want_more(self, idle: list[Request]) -> bool:
        queue = self.adapter_queue
        if not queue:
            return False
        if self._waited_through or len(self.running) + len(queue) > self.max_num_running_reqs:
            return True
        if any(one.is_prefill_chunk for one in idle):
            return True
        wanted = self._active() | queue.waiting_by_adapter().keys() - {None}
        return len(wanted) > self.slot_table.slots

    @contextmanager
    def _idle_prompts_in_parts(self) -> Iterator[None]:
        """Has a step read no more than a part of an idle prompt, by vLLM's bound for all prompts: beside an idle one no
        other is read."""
        settings, usual = self.scheduler_config, self.scheduler_config.long_prefill_token_threshold
        reads = any(one.is_prefill_chunk for one in self.waiting.idle_running)
        if not self.adapter_queue and (reads or self.waiting.first_idle() is not None):
            settings.long_prefill_token_threshold = min(usual or IDLE_PROMPT_TOKENS, IDLE_PROMPT_TOKENS)
        try:
            yield
        finally:
            settings.long_prefill_token_threshold = usual

    def _unpark(self) -> None:
        """Moves the parked requests that may run now to the waiting queue."""
        for request in self.skipped_waiting:
            if self._is_blocked_waiting_status(request.status):  # type: ignore[attr-defined]
                if not self._try_promote_blocked_waiting_request(request):  # type: ignore[attr-defined]
                    continue
            elif request.num_stale_output_tokens > 0 and not request.drop_stale_output:
                continue
            self.skipped_waiting.remove_request(request)
            if request.num_preemptions:
                self.waiting.prepend_request(request)
            else:
                self.waiting.add_request(request)

    def _select_waiting_queue_for_scheduling(self) -> RequestQueue | None:
        return self.waiting or None


def _largest(waiting: Mapping[Hashable, int]) -> dict[str, int]:
    """Returns the numbers of the tenants with the most waiting requests, and the sum of the others'."""
    named = {tenant: count for tenant, count in waiting.items() if tenant not in (None, OTHERS)}
    largest = heapq.nlargest(REPORTED_TENANTS, named.items(), key=lambda one: one[1])
    rest = sum(waiting.values()) - sum(count for _, count in largest)
    return {str(tenant): count for tenant, count in largest} | ({OTHERS: rest} if rest else {})


class PagedScheduler(PagedSchedulerMixin, Scheduler):
    """vLLM's synchronous scheduler over `AdapterQueue`."""


class PagedAsyncScheduler(PagedSchedulerMixin, AsyncScheduler):
    """vLLM's asynchronous scheduler over `AdapterQueue`."""
