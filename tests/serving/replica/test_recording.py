"""The replica's half of a record: of answers, refusals and failures, streamed or not, at next to no cost."""

import asyncio
import contextlib
import re
from pathlib import Path
from typing import Any

import pytest
from prometheus_client import CollectorRegistry

from router.choice import CHOICE_HEADER, RoutedChoice, encode_choice
from serving.access.caller import caller
from serving.access.tenant import Tenant
from serving.decisions.filters import Filters
from serving.decisions.open_record import TEXT_CHARS, open_record
from serving.decisions.store import DecisionStore
from serving.paging.usage import Meter
from serving.replica.admission import Admission
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.recording import Recording
from serving.replica.request_metrics import ReplicaMetrics
from tests.serving.replica.middleware_client import NAMES, SECRET, Adapters, echo_app, send

TRACE = "0af7651916cd43dd8448eb211c80319c"
CHAT = "/v1/chat/completions"


class Recorder:
    def __init__(self, *, prompts: bool = False) -> None:
        self.prompts = prompts
        self.parts: list[dict[str, Any]] = []

    def add(self, part: dict[str, Any]) -> None:
        self.parts.append(part)


def recording(app: Any, recorder: Any) -> Recording:
    return Recording(app, recorder=recorder, replica="r1", secrets=(SECRET,))


def middleware(app: Any, **options: Any) -> LearnwareMiddleware:
    metrics = ReplicaMetrics(CollectorRegistry())
    return LearnwareMiddleware(app, admission=Admission(NAMES), secret=SECRET, metrics=metrics, **options)


def routed(learnware: str | None = "finance-tfns", **changes: Any) -> dict[str, str]:
    choice = RoutedChoice(learnware, "matched", 0.875, 1.5, id="0123456789abcdef")._replace(**changes)
    return {CHOICE_HEADER: encode_choice(choice, SECRET)}


class Metrics:
    def __init__(self, **figures: float) -> None:
        self.__dict__ |= figures


class Sequence:
    def __init__(self, index: int, text: str, tokens: int) -> None:
        self.index, self.text, self.token_ids = index, text, [7] * tokens


class Output:
    def __init__(self, *sequences: Sequence, prompt: int = 5, metrics: Any = None) -> None:
        self.prompt_token_ids, self.outputs, self.metrics = [1] * prompt, list(sequences), metrics


def engine(*outputs: Output, incremental: bool = True, runs: int = 1) -> Any:
    """An application that answers by these outputs, in tasks of its own as vLLM does."""

    async def run(engine_name: str | None) -> None:
        meter = Meter(engine_name, caller.get().name, incremental)
        meter.enters()
        for output in outputs:
            meter.tokens.see(output)
            meter.note_output(output)

    async def app(scope: Any, receive: Any, send: Any) -> None:
        await asyncio.gather(*(asyncio.create_task(run("finance-tfns@1")) for _ in range(runs)))
        await echo_app(scope, receive, send)

    return app


def test_a_chosen_answer_has_all_that_is_known() -> None:
    recorder = Recorder()
    metrics = Metrics(first_token_latency=0.25, queued_ts=10.0, scheduled_ts=10.125)
    outputs = Output(Sequence(0, "up", 2)), Output(Sequence(0, "!", 1), metrics=metrics)
    token = caller.set(Tenant("alice"))
    try:
        response = send(
            recording(middleware(engine(*outputs)), recorder),
            {"model": "auto", "messages": []},
            {**routed(), "x-request-id": "mine-1.2_3", "traceparent": f"00-{TRACE}-b7ad6b7169203331-01"},
        )
    finally:
        caller.reset(token)
    assert response.status_code == 200
    assert "x-request-id" not in response.headers  # who gave it returns it: the edge, or Ray Serve
    (part,) = recorder.parts
    assert part.pop("time") > 1e9
    seconds = part.pop("seconds")
    assert 0 < part.pop("ttft_s") <= seconds < 60
    assert 0.125 <= part.pop("queue_s") < 30
    assert part == {
        "id": "mine-1.2_3",
        "decision": "0123456789abcdef",
        "tenant": "alice",
        "path": CHAT,
        "model": "auto",
        "learnware": "finance-tfns",
        "version": "finance-tfns@1",
        "reason": "matched",
        "score": 0.875,
        "status": 200,
        "stream": False,
        "complete": True,
        "replica": "r1",
        "tier": None,
        "tokens": {"prompt": 5, "generated": 3},
        "route_ms": 1.5,
        "trace": TRACE,
    }
    assert open_record.get() is None


def test_a_named_request_has_no_decision_and_several_runs_count_together() -> None:
    recorder = Recorder()
    app = recording(middleware(engine(Output(Sequence(0, "a", 1), Sequence(1, "b", 2)), runs=3)), recorder)
    send(app, {"model": "base-8b", "n": 2, "prompt": ["x"] * 3})
    (part,) = recorder.parts
    assert (part["decision"], part["score"], part["route_ms"], part["version"]) == (None, None, None, None)
    assert (part["learnware"], part["reason"]) == ("base-8b", "named")
    assert part["tokens"] == {"prompt": 15, "generated": 9}
    assert part["queue_s"] is None


@pytest.mark.parametrize("given", [None, "", "a b", "x" * 129, "ü", "a/b", 'a"b'])
def test_a_request_without_a_usable_id_gets_one(given: str | None) -> None:
    recorder = Recorder()
    seen: list[str] = []

    async def app(scope: Any, receive: Any, sent: Any) -> None:
        seen.extend(value.decode("latin-1") for name, value in scope["headers"] if name == b"x-request-id")
        await echo_app(scope, receive, sent)

    headers: Any = {} if given is None else {"x-request-id": given.encode()}
    responses = [send(recording(app, recorder), {"model": "auto"}, headers) for _ in range(2)]
    ids = [response.headers.get_list("x-request-id") for response in responses]
    assert [part["id"] for part in recorder.parts] == seen == [one for (one,) in ids]
    assert len(set(seen)) == 2
    assert all(re.fullmatch("[0-9a-f]{32}", one) for one in seen)


def test_a_refusal_before_the_choice_was_used_is_recorded_with_it() -> None:
    recorder = Recorder()

    async def full(scope: Any, receive: Any, sent: Any) -> None:
        await sent({"type": "http.response.start", "status": 429, "headers": [(b"content-type", b"application/json")]})
        await sent({"type": "http.response.body", "body": b"{}"})

    assert send(recording(full, recorder), {"model": "auto"}, routed()).status_code == 429
    forged = {CHOICE_HEADER: encode_choice(RoutedChoice(None, "matched", 1.0, 1.0, id="f" * 16), b"another" * 6)}
    send(recording(full, recorder), {"model": "auto"}, forged)
    first, second = recorder.parts
    assert (first["status"], first["decision"], first["learnware"], first["reason"]) == (
        429,
        "0123456789abcdef",
        None,
        None,
    )
    assert second["decision"] is None


def test_errors_are_recorded_by_their_status() -> None:
    recorder = Recorder()
    app = recording(middleware(echo_app, hold=Adapters().hold), recorder)
    assert send(app, {"model": "no-such"}).status_code == 404
    assert send(app, {"model": "healthcare-pubmedqa"}).status_code == 503
    assert [(part["status"], part["model"], part["learnware"]) for part in recorder.parts] == [
        (404, "no-such", None),
        (503, "healthcare-pubmedqa", None),
    ]


def test_an_application_that_raises_is_a_500_and_is_raised() -> None:
    recorder = Recorder()

    async def broken(*_: Any) -> None:
        raise RuntimeError("broken")

    with pytest.raises(RuntimeError, match="broken"):
        send(recording(broken, recorder), {"model": "auto"})
    assert [(part["status"], part["complete"]) for part in recorder.parts] == [(500, False)]


def test_a_stream_that_breaks_off_and_a_client_that_hangs_up() -> None:
    recorder = Recorder()
    scope = {"type": "http", "method": "POST", "path": CHAT, "headers": []}

    async def stream(_: Any, receive: Any, sent: Any) -> None:
        headers = [(b"content-type", b"text/event-stream; charset=utf-8")]
        await sent({"type": "http.response.start", "status": 200, "headers": headers})
        await sent({"type": "http.response.body", "body": b"data: 1", "more_body": True})
        raise asyncio.CancelledError

    async def silent(*_: Any) -> None:
        pass

    async def nothing(*_: Any) -> Any:
        return {"type": "http.disconnect"}

    async def run() -> None:
        with contextlib.suppress(asyncio.CancelledError):
            await recording(stream, recorder)(scope, nothing, nothing)
        await recording(silent, recorder)(scope, nothing, nothing)

    asyncio.run(run())
    first, second = recorder.parts
    assert (first["status"], first["stream"], first["complete"]) == (200, True, False)
    assert (second["status"], second["stream"], second["complete"]) == (None, False, False)


def test_words_are_kept_only_where_that_is_asked_for_and_bounded() -> None:
    payload = {"model": "auto", "messages": [{"role": "user", "content": "Up or down?"}]}
    outputs = Output(Sequence(0, "u", 1)), Output(Sequence(0, "p", 1))
    off, on = Recorder(), Recorder(prompts=True)
    for recorder in (off, on):
        send(recording(middleware(engine(*outputs)), recorder), payload, routed())
    assert "text" not in off.parts[0]
    assert on.parts[0]["text"] == {"prompt": "user: Up or down?", "answer": "up"}

    whole = Recorder(prompts=True)
    cumulative = Output(Sequence(0, "u", 1)), Output(Sequence(0, "up", 2))
    send(recording(middleware(engine(*cumulative, incremental=False)), whole), payload, routed())
    assert whole.parts[0]["text"]["answer"] == "up"

    long = Recorder(prompts=True)
    many = [Output(Sequence(0, "x" * 10_000, 1)) for _ in range(5)]
    send(recording(middleware(engine(*many)), long), payload, routed())
    assert long.parts[0]["text"]["answer"] == "x" * (2 * TEXT_CHARS)  # cut once it is redacted


def test_only_requests_that_generate_are_recorded_and_none_where_it_is_off() -> None:
    recorder = Recorder()
    send(recording(echo_app, recorder), {"model": "auto"}, path="/tokenize")
    response = send(recording(echo_app, None), {"model": "auto"})
    assert response.headers["x-request-id"]
    assert not recorder.parts


def test_a_recorder_that_fails_costs_no_answer() -> None:
    class Broken(Recorder):
        def add(self, part: dict[str, Any]) -> None:
            raise RuntimeError("full")

    assert send(recording(echo_app, Broken()), {"model": "auto"}).status_code == 200


@pytest.mark.parametrize(
    ("header", "trace"),
    [
        (f"00-{TRACE}-b7ad6b7169203331-00", TRACE),
        (f"01-{TRACE}-b7ad6b7169203331-00-more", TRACE),
        (f"ff-{TRACE}-b7ad6b7169203331-00", None),
        (f"00-{'0' * 32}-b7ad6b7169203331-00", None),
        (f"00-{TRACE}-{'0' * 16}-00", None),
        (f"00-{TRACE.upper()}-b7ad6b7169203331-00", None),
        ("nonsense", None),
    ],
)
def test_the_trace_of_a_w3c_header(header: str, trace: str | None) -> None:
    recorder = Recorder()
    send(recording(echo_app, recorder), {"model": "auto"}, {"traceparent": header})
    assert recorder.parts[0]["trace"] == trace


def test_what_the_cut_of_a_kept_answer_splits_is_redacted_first(tmp_path: Path) -> None:
    recorder = Recorder(prompts=True)
    begun = "x y " * ((TEXT_CHARS - 8) // 4)
    payload = {"model": "auto", "messages": [{"role": "user", "content": "Who?"}]}
    outputs = [Output(Sequence(0, part, 1)) for part in (begun, "jane.doe@mail", ".example.com it is")]
    send(recording(middleware(engine(*outputs)), recorder), payload, routed())
    store = DecisionStore(tmp_path / "d", 10, 1e6, prompts=True)
    store.add(recorder.parts)
    (record,) = store.find(Filters())
    assert len(record["text"]["answer"]) == TEXT_CHARS
    assert record["text"]["answer"] == (begun + "[e-mail] it is")[:TEXT_CHARS]
