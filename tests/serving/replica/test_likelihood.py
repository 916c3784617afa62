"""Likelihoods of given answers: token by token, as idle work, and only while somebody waits for them."""

import asyncio
import math
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import Any

import pytest

from serving.paging.idle import is_idle_work
from serving.replica import idle_work as module
from serving.replica.admission import Admission, Names
from serving.replica.idle_work import IdleWork, Room
from serving.replica.likelihood import Likelihood
from serving.replica.own_work import OwnWork
from specs.errors import AdapterUnavailable, InvalidInput

pytestmark = pytest.mark.vllm

NAMES = Names("base-8b", frozenset({"auto"}), {"a": "a@1"})
EOS = 0


class Tokenizer:
    """A token for each character."""

    chat_template = "there is one"
    eos_token_id = EOS

    def __call__(self, text: str, add_special_tokens: bool = True) -> dict[str, list[int]]:
        return {"input_ids": [ord(one) for one in text]}

    def apply_chat_template(self, messages: Any, *, tokenize: bool, add_generation_prompt: bool) -> str:
        assert add_generation_prompt
        assert not tokenize
        return "".join(f"<{one['role'][0]}>{one['content']}" for one in messages) + "<a>"


class Engine:
    """An engine whose model gives the token c after n others the log-probability -c/100 - n/1000, and finds small ones
    likeliest."""

    def __init__(self) -> None:
        self.vllm_config = SimpleNamespace(
            model_config=SimpleNamespace(max_model_len=40, logprobs_mode="raw_logprobs"),
            scheduler_config=SimpleNamespace(max_num_seqs=4),
        )
        self.renderer = SimpleNamespace(tokenizer=Tokenizer())
        self.asked: list[tuple[str, Any]] = []
        self.idle: list[bool] = []
        self.hang_at: int | None = None
        self.held: list[str] = []

    async def generate(self, prompt: Any, parameters: Any, *, request_id: str, lora_request: Any) -> AsyncIterator[Any]:
        (token,) = parameters.allowed_token_ids
        assert (parameters.max_tokens, parameters.logprobs, parameters.temperature) == (1, 0, 0.0)
        assert parameters.ignore_eos
        ids = prompt["prompt_token_ids"]
        if len(self.asked) == self.hang_at:
            self.hang_at = None
            await asyncio.Event().wait()
        self.asked.append(("".join(map(chr, ids)) + "|" + chr(token), lora_request))
        self.idle.append(is_idle_work())
        value = SimpleNamespace(logprob=-token / 100 - len(ids) / 1000, rank=1 if token < ord("c") else 2)
        yield SimpleNamespace(outputs=[SimpleNamespace(token_ids=[token], logprobs=[{token: value}])])

    @asynccontextmanager
    async def hold(self, engine_name: str) -> AsyncIterator[None]:
        if engine_name == "broken@1":
            raise AdapterUnavailable("it cannot be loaded")
        self.held.append(engine_name)
        yield


class Replica:
    def __init__(self, wait_s: float = 5.0) -> None:
        self.engine = Engine()
        self.gate: Any = SimpleNamespace(
            waiting=0, entered=0, idle=0, adapters={}, residency=SimpleNamespace(slots=0, scheduler=None)
        )
        self.idle_work = IdleWork(Room(self.gate, 4), 2)
        self.idle_work.start()
        self.likelihood = Likelihood(
            self.engine, self.idle_work, Admission(NAMES), lambda name: f"lora of {name}", self.engine.hold, wait_s
        )


@pytest.fixture
async def replica(monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Replica]:
    monkeypatch.setattr(module, "LOOK_S", 0.002)
    one = Replica()
    yield one
    await one.idle_work.close()


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(5):
        while not condition():  # noqa: ASYNC110  # nothing tells of it
            await asyncio.sleep(0.001)


def asked(*answers: str, model: str | None = None, end: bool = False, most: int | None = None, **more: Any) -> Any:
    prompt = [{"role": "user", "content": "q"}]
    return {"model": model, "prompt": prompt, "answers": list(answers), "end": end, "most_tokens": most} | more


def likely(text: str, before: int) -> float:
    return -sum(ord(one) / 100 + (before + place) / 1000 for place, one in enumerate(text))


async def test_the_tokens_of_each_answer_are_asked_for_one_by_one_as_idle_work(replica: Replica) -> None:
    found = await replica.likelihood.score(asked("ab", "ac", model="a"))
    assert replica.engine.asked == [
        (text, "lora of a@1") for text in ("<u>q<a>|a", "<u>q<a>a|b", "<u>q<a>a|c")
    ]  # what two answers share is asked for once
    assert replica.engine.idle == [True, True, True]
    assert replica.engine.held == ["a@1"]
    assert found == {
        "version": "a@1",
        "answers": [
            {"log_prob": pytest.approx(likely("ab", 7)), "tokens": 2, "greedy": True},
            {"log_prob": pytest.approx(likely("ac", 7)), "tokens": 2, "greedy": False},
        ],
    }


async def test_the_end_of_turn_the_first_tokens_and_a_completions_text(replica: Replica) -> None:
    found = await replica.likelihood.score(asked("a", end=True, prompt="p:"))
    assert found is not None
    assert (found["version"], found["answers"][0]["tokens"]) == (None, 2)
    assert replica.engine.asked == [("p:|a", None), ("p:a|" + chr(EOS), None)]
    found = await replica.likelihood.score(asked("abcdef", most=2))
    assert found is not None
    assert found["answers"][0]["tokens"] == 2
    assert replica.engine.held == []


async def test_what_a_try_found_before_it_was_given_up_is_not_asked_for_again(replica: Replica) -> None:
    replica.engine.hang_at = 2
    scores = asyncio.create_task(replica.likelihood.score(asked("abab")))
    await until(lambda: replica.engine.hang_at is None)
    replica.gate.idle, replica.gate.entered = 1, 4
    await asyncio.sleep(0.02)
    replica.gate.idle = replica.gate.entered = 0
    found = await scores
    assert found is not None
    assert found["answers"][0]["log_prob"] == pytest.approx(likely("abab", 7))
    assert [text[-1] for text, _ in replica.engine.asked] == ["a", "b", "a", "b"]


async def test_without_idle_time_there_is_no_score_and_nothing_is_asked_for_later(replica: Replica) -> None:
    replica.gate.waiting = 1
    replica.likelihood._wait_s = 0.02
    assert await replica.likelihood.score(asked("a")) is None
    assert await replica.likelihood.score(asked("a")) is None
    assert replica.idle_work.waiting == 0, "what nobody waits for takes no place"
    replica.gate.waiting = 0
    await until(lambda: not replica.idle_work.waiting)
    await asyncio.sleep(0.01)
    assert not replica.engine.asked


async def test_a_caller_that_is_cancelled_leaves_nothing_to_do(replica: Replica) -> None:
    replica.gate.waiting = 1
    scores = asyncio.create_task(replica.likelihood.score(asked("a")))
    await asyncio.sleep(0.02)
    scores.cancel()
    with pytest.raises(asyncio.CancelledError):
        await scores
    replica.gate.waiting = 0
    await asyncio.sleep(0.02)
    assert not replica.engine.asked


async def test_an_engine_that_gives_processed_log_probabilities_scores_nothing(replica: Replica) -> None:
    replica.engine.vllm_config.model_config.logprobs_mode = "processed_logprobs"
    with pytest.raises(InvalidInput, match="logprobs_mode"):
        await replica.likelihood.score(asked("a"))


async def test_what_cannot_be_scored_is_said(replica: Replica) -> None:
    for wrong in (asked("a", model="gone"), asked("a" * 40), asked("")):
        with pytest.raises(InvalidInput):
            await replica.likelihood.score(wrong)
    own = OwnWork(
        replica.engine, replica.gate, Admission(NAMES), str, replica.engine.hold, SimpleNamespace(most_waiting=1)
    )  # type: ignore[arg-type]
    assert await own.likelihood(asked("a", model="gone")) == {"why_not": "gone is not served"}
    found = await own.likelihood(asked("a"))
    assert found is not None
    assert math.isfinite(found["answers"][0]["log_prob"])
    replica.gate.on_entry()  # a request that comes is looked at
    await own.close()
