"""The log-probabilities of given answers under a model of this replica, as idle work.

Each token is asked for alone, after the prompt and the tokens before it: an answer of one token of which only that one
is allowed, whose log-probability vLLM gives as the model has it, before anything was disallowed (`logprobs_mode`). So
no step is longer than that of any short answer, requests pass between two of them, and the log-probabilities of a
prompt are not asked for, which fail beside an adapter of `lm_head` (`serving.engine.punica`). The prompt is read once,
where the engine keeps prefixes.
"""

import asyncio
import uuid
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, nullcontext
from functools import partial
from typing import Any, NamedTuple

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from serving.replica.admission import Admission
from serving.replica.idle_work import DONE, PUT_BACK, IdleWork
from serving.training.rows import encode_answer
from specs.errors import InvalidInput

WAIT_S = 20.0
"""Seconds that a question may take, its wait for idle time included: fifty tokens of a slow engine, and less than a
stopping replica waits for what it was asked. Later it may be asked again."""

LoRA = Callable[[str], Any]
"""Returns vLLM's `LoRARequest` of an engine name, None where there is none."""


class TokenScore(NamedTuple):
    """One token's log-probability in nats, and whether it is the likeliest."""

    log_prob: float
    likeliest: bool


class Likelihood:
    """Scores answers on one engine."""

    def __init__(
        self,
        engine: Any,
        idle_work: IdleWork,
        admission: Admission,
        lora: LoRA,
        hold: Callable[[str], AbstractAsyncContextManager[None]],
        wait_s: float = WAIT_S,
    ) -> None:
        """Makes one.

        Args:
            engine: vLLM's `AsyncLLM`.
            idle_work: does what is asked.
            admission: the names that are served.
            lora: finds an adapter.
            hold: leases it (`serving.paging.gate.AdapterGate.hold`).
            wait_s: seconds that a question may take.
        """
        self._engine, self._idle_work, self._admission = engine, idle_work, admission
        self._lora, self._hold = lora, hold
        self._wait_s = wait_s
        self._longest: int = engine.vllm_config.model_config.max_model_len

    async def score(self, asked: Mapping[str, Any]) -> dict[str, Any] | None:
        """Returns the scores of answers under one model; None where the engine has no time for it now.

        Args:
            asked: `model` (a learnware's id, None: the base model), `prompt` (a completion's text or a chat's
                messages), `answers`, `end` (whether the end of turn is a part of each answer) and `most_tokens` (of
                each answer, the first ones; None: all).

        Returns:
            `version` (the adapter's engine name, None: the base model) and `answers`: `log_prob` (nats, summed),
            `tokens` and `greedy` (whether each token is the likeliest) of each.

        Raises:
            InvalidInput: the model is not served, prompt and answer are longer than the model can read, or the engine
                is told to give other log-probabilities than the model's.
        """
        if self._engine.vllm_config.model_config.logprobs_mode != "raw_logprobs":
            raise InvalidInput("log-probabilities are not the model's own here (engine.options.logprobs_mode)")
        model = asked["model"]
        version = None if model is None else self._admission.names.learnwares.get(model)
        if model is not None and version is None:
            raise InvalidInput(f"{model} is not served")
        prompt, answers = await asyncio.to_thread(_encoded, self._engine.renderer.tokenizer, asked)
        if not all(answers) or len(prompt) + max(map(len, answers)) > self._longest:
            raise InvalidInput(
                f"The prompt and an answer have more than {self._longest} tokens, or an answer has none."
            )
        one = _Asked(version, prompt, answers)
        job = partial(self._work, one)
        if not self._idle_work.offer(job, one.note):
            return None
        try:
            async with asyncio.timeout(self._wait_s):
                await one.ended.wait()
        except TimeoutError:
            return None
        finally:
            one.wanted = False
            self._idle_work.withdraw(job)  # else those that nobody waits for any more would fill the line
        return {"version": version, "answers": one.scores()} if one.outcome == DONE else None

    async def _work(self, one: "_Asked") -> None:
        with self._admission.use(one.version):
            async with nullcontext() if one.version is None else self._hold(one.version):
                adapter = None if one.version is None else self._lora(one.version)
                for beginning in one.missing():
                    if not one.wanted:
                        return
                    before = [*one.prompt, *beginning[:-1]]
                    one.known[beginning] = await self._ask_token(before, beginning[-1], adapter)

    async def _ask_token(self, before: list[int], token: int, adapter: Any) -> TokenScore:
        parameters = SamplingParams(
            temperature=0.0,
            max_tokens=1,
            logprobs=0,
            allowed_token_ids=[token],
            ignore_eos=True,
            output_kind=RequestOutputKind.FINAL_ONLY,
        )
        outputs = self._engine.generate(
            {"prompt_token_ids": before},
            parameters,
            request_id=f"likelihood-{uuid.uuid4()}",
            lora_request=adapter,
        )
        found = None
        try:
            async for output in outputs:
                found = output.outputs[0].logprobs[0][token]
        finally:
            await outputs.aclose()
        if found is None:
            raise RuntimeError("the engine gave no log-probability")
        return TokenScore(float(found.logprob), found.rank == 1)


class _Asked:
    """Answers that are scored, and what is known of them."""

    def __init__(self, version: str | None, prompt: Sequence[int], answers: Sequence[tuple[int, ...]]) -> None:
        self.version, self.prompt, self._answers = version, prompt, answers
        self.known: dict[tuple[int, ...], TokenScore] = {}
        """The score of the last token of each beginning of the answers, by that beginning. It outlasts a try that is
        given up."""
        self.wanted = True
        self.ended = asyncio.Event()
        self.outcome = PUT_BACK

    def note(self, outcome: str) -> None:
        """Takes note of what became of a try."""
        self.outcome = outcome
        if outcome != PUT_BACK:
            self.ended.set()

    def missing(self) -> Iterator[tuple[int, ...]]:
        """Yields the beginnings of the answers that have no score, the shorter ones of each first."""
        for answer in self._answers:
            for length in range(1, len(answer) + 1):
                if answer[:length] not in self.known:
                    yield answer[:length]

    def scores(self) -> list[dict[str, Any]]:
        """Returns the scores of the answers, all of whose beginnings are known."""
        found = [[self.known[answer[:length]] for length in range(1, len(answer) + 1)] for answer in self._answers]
        return [
            {
                "log_prob": sum(one.log_prob for one in scores),
                "tokens": len(scores),
                "greedy": all(one.likeliest for one in scores),
            }
            for scores in found
        ]


def _encoded(tokenizer: Any, asked: Mapping[str, Any]) -> tuple[list[int], list[tuple[int, ...]]]:
    """Returns the token ids of the prompt, up to where the assistant speaks, and of each answer."""
    prompt, most = asked["prompt"], asked["most_tokens"]
    if isinstance(prompt, str):
        ids = list(tokenizer(prompt)["input_ids"])
    elif tokenizer.chat_template:
        text = tokenizer.apply_chat_template(prompt, tokenize=False, add_generation_prompt=True)
        ids = list(tokenizer(str(text), add_special_tokens=False)["input_ids"])
    else:
        ids = list(tokenizer("\n".join(message["content"] for message in prompt))["input_ids"])
    return ids, [tuple(encode_answer(one, tokenizer, end=asked["end"])[:most]) for one in asked["answers"]]
