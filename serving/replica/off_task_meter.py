"""Measures on the running engine what a learnware does to requests off its task (`specs.off_task`).

Through vLLM's own request path, as a client would, so that it is measured as it is served, at any size and on any
device; and so that running requests are not harmed:

- Requests off the task have the lowest priority, and few run at a time: `IDLE_SEATS` of the batch's seats while nobody
  else is there, `BUSY_REQUESTS` otherwise.
- The prompt's log-probabilities, which would give the drift in one pass, are not asked for: with an adapter of
  `lm_head` in the batch they raise inside the engine (`serving.engine.punica`), and everybody's requests with them. Nor
  are those of chosen tokens (`logprob_token_ids`): vLLM 0.29 then gives everybody in the batch only theirs. Instead the
  greedy answer comes with the likeliest tokens of each step. While it agrees with the base model's answer they say how
  likely the base's next token is, the first one that differs included. Of those beyond one is drawn by the prompt's
  hash, and asked for alone, after the base's tokens before it; it stands for all of them, so drift has the same
  expectation as where it is measured without an engine, and a larger error. A token that is not among the likeliest
  counts as the last of them: in the learnware's favour.
- After `LIMIT_S` nothing more is asked, unless fewer than `LEAST` prompts were; what was not asked makes the intervals
  wider.

The base model's answers are made once, and kept in a file for the next start.
"""

import asyncio
import hashlib
import json
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterable, Mapping, Sequence
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple, TypeVar

from vllm import SamplingParams
from vllm.sampling_params import RequestOutputKind

from serving.paging.gate import AdapterGate
from serving.paths import cache_folder
from serving.training.generation import FOLDER, weights_fingerprint
from serving.training.loops import is_looping
from serving.training.rows import encode_prompt
from specs.errors import InvalidLearnware
from specs.off_task import MAX_TOKENS, PROMPTS, Answered, Kind, OffTaskScore, off_task_prompts, score

logger = logging.getLogger("ray.serve")

MAX_PROMPT_TOKENS = 512
LOGPROBS = 20
"""Likeliest tokens of a step: as many as vLLM gives by default."""
LIMIT_S = 12.0
LEAST = 24
"""Prompts that are asked however long it takes, up to `HARD_LIMIT_S`: beside many other requests."""
HARD_LIMIT_S = 40.0
BASE_LIMIT_S = 30.0
"""For the base model's answers, the first time; those that are missing are made the next time."""
IDLE_SEATS = 0.75
"""Share of the seats in the batch: who comes meanwhile finds one free."""
BUSY_REQUESTS = 2
LOOK_S = 0.05
"""How often those that wait look whether the others are gone."""
LOWEST_PRIORITY = 1 << 20

Result = TypeVar("Result")


class Said(NamedTuple):
    """A greedy answer: its text and tokens, and for each of them the log-probabilities of the likeliest ones."""

    text: str
    tokens: tuple[int, ...]
    likeliest: tuple[Mapping[int, float], ...]


class BaseSaid(NamedTuple):
    """The base model's answer, with each token's log-probability."""

    text: str
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


class OffTaskMeter:
    """One engine's. `encode` makes token ids of a prompt as one user turn; `others` says how many requests the engine
    has in all; `seats` is how many run at a time."""

    def __init__(
        self,
        engine: Any,
        encode: Callable[[str], Sequence[int]],
        others: Callable[[], int],
        seats: int,
        kept: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """`kept`: the file of the base model's answers; it must be this base model's alone."""
        self._engine, self._encode, self._others, self._clock = engine, encode, others, clock
        self._workers = max(BUSY_REQUESTS, int(seats * IDLE_SEATS))
        self._running = 0
        self._kept = kept
        self._base: dict[str, BaseSaid] = {}
        self._one = asyncio.Lock()

    async def measure(
        self, request: Any, domain: str, examples: Sequence[str], labels: Collection[str] = ()
    ) -> dict[Kind, OffTaskScore]:
        """The scores of the adapter of `request` (vLLM's), one learnware at a time.

        Raises:
            InvalidLearnware: its answers are not finite numbers.
        """
        prompts = off_task_prompts(domain, examples, PROMPTS)
        in_turn = _in_turn(prompts)
        async with self._one:
            await self._ask_base([prompt for _, prompt in in_turn])
            known = [(kind, prompt) for kind, prompt in in_turn if prompt in self._base]
            answers = await self._all(
                [prompt for _, prompt in known], partial(self._compared, request=request), LIMIT_S, HARD_LIMIT_S
            )
        answered: dict[Kind, list[Answered]] = {}
        for kind, prompt in known:
            if prompt in answers:
                answered.setdefault(kind, []).append(answers[prompt])
        if len(answers) < len(in_turn):
            logger.info("off its task a learnware was asked %d of %d prompts", len(answers), len(in_turn))
        return {kind: score(some, labels) for kind, some in answered.items()}

    async def _ask_base(self, prompts: Sequence[str]) -> None:
        """Has the base model's answers made where they are not known."""
        if not self._base and self._kept is not None:
            self._base = await asyncio.to_thread(read_answers, self._kept)
        missing = [prompt for prompt in prompts if prompt not in self._base]
        fresh = {
            prompt: BaseSaid(
                said.text,
                said.tokens,
                tuple(step[token] for step, token in zip(said.likeliest, said.tokens, strict=True)),
            )
            for prompt, said in (await self._all(missing, self._said_by_base, BASE_LIMIT_S, BASE_LIMIT_S)).items()
        }
        self._base |= fresh
        if fresh and self._kept is not None:
            await asyncio.to_thread(append_answers, self._kept, fresh)

    async def _all(
        self, prompts: Iterable[str], ask: Callable[[str], Awaitable[Result]], limit_s: float, hard_limit_s: float
    ) -> dict[str, Result]:
        """What `ask` gives for each prompt, as far as it came in time. Prompts are taken in their order, after
        `limit_s` only until `LEAST` are answered."""
        waiting = deque(prompts)
        answers: dict[str, Result] = {}
        enough = self._clock() + limit_s

        async def work(number: int) -> None:
            while waiting and (self._clock() < enough or len(answers) < LEAST):
                if number >= BUSY_REQUESTS and self._others() > self._running:
                    await asyncio.sleep(LOOK_S)
                    continue
                prompt = waiting.popleft()
                async with self._counted():
                    answers[prompt] = await ask(prompt)

        workers = [asyncio.create_task(work(number)) for number in range(min(self._workers, len(waiting)))]
        if not workers:
            return answers
        try:
            done, _ = await asyncio.wait(workers, timeout=hard_limit_s, return_when=asyncio.FIRST_EXCEPTION)
            for worker in done:
                worker.result()  # raises what it raised
        finally:
            for worker in workers:
                worker.cancel()  # ends its request in the engine
            await asyncio.gather(*workers, return_exceptions=True)
        return answers

    @asynccontextmanager
    async def _counted(self) -> AsyncIterator[None]:
        self._running += 1
        try:
            yield
        finally:
            self._running -= 1

    async def _said_by_base(self, prompt: str) -> Said:
        return await self._ask(self._encode(prompt), None)

    async def _compared(self, prompt: str, request: Any) -> Answered:
        """The learnware's answer beside the base's."""
        encoded, base = self._encode(prompt), self._base[prompt]
        own = await self._ask(encoded, request)
        ratio, followed = follow(own, base)
        if rest := len(base.tokens) - followed:
            drawn = followed + int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % rest
            said = await self._ask([*encoded, *base.tokens[:drawn]], request, max_tokens=1)
            ratio += rest * (_likelihood(said.likeliest[0], base.tokens[drawn]) - base.log_probs[drawn])
        return Answered(own.text, base.text, ratio, len(base.tokens))

    async def _ask(self, prompt: Sequence[int], request: Any, max_tokens: int = MAX_TOKENS) -> Said:
        """One greedy answer; a learnware's that goes round in a circle ends there.

        Raises:
            InvalidLearnware: its probabilities are not finite numbers.
        """
        parameters = SamplingParams(
            temperature=0.0, max_tokens=max_tokens, logprobs=LOGPROBS, output_kind=RequestOutputKind.DELTA
        )
        text: list[str] = []
        tokens: list[int] = []
        likeliest: list[dict[int, float]] = []
        outputs = self._engine.generate(
            {"prompt_token_ids": list(prompt)},
            parameters,
            request_id=f"off-task-{uuid.uuid4()}",
            lora_request=request,
            priority=LOWEST_PRIORITY,
        )
        try:
            async for output in outputs:
                for part in output.outputs:
                    text.append(part.text)
                    tokens += part.token_ids
                    likeliest += [
                        {token: entry.logprob for token, entry in step.items()} for step in part.logprobs or ()
                    ]
                if request is not None and is_looping(tokens):
                    break
        finally:
            await outputs.aclose()
        values = [value for step in likeliest for value in step.values()]
        if not tokens or len(likeliest) != len(tokens) or not all(map(math.isfinite, values)):
            raise InvalidLearnware("off its task, on the engine, its answers are not finite numbers")
        return Said("".join(text), tuple(tokens), tuple(likeliest))


def off_task_meter(engine: Any, gate: AdapterGate) -> OffTaskMeter:
    """The meter of vLLM's `AsyncLLM` behind this gate; the base model's answers are kept in the cache folder."""
    base = Path(engine.vllm_config.model_config.model)
    tokenizer = engine.renderer.tokenizer
    kept = cache_folder() / FOLDER / f"{weights_fingerprint(base)[:16]}-engine-{MAX_TOKENS}.jsonl"
    return OffTaskMeter(
        engine,
        lambda prompt: encode_prompt(prompt, tokenizer, MAX_PROMPT_TOKENS),
        lambda: gate.entered + gate.waiting,
        engine.vllm_config.scheduler_config.max_num_seqs,
        kept,
    )


def follow(own: Said, base: BaseSaid) -> tuple[float, int]:
    """How much less likely (nats) the learnware finds the base's tokens, as far as it says the same and one token
    further, and how many those are."""
    ratio, followed = 0.0, 0
    for token, log_prob, said, step in zip(base.tokens, base.log_probs, own.tokens, own.likeliest, strict=False):
        ratio += _likelihood(step, token) - log_prob
        followed += 1
        if said != token:
            break
    return ratio, followed


def _likelihood(likeliest: Mapping[int, float], token: int) -> float:
    """A token's log-probability; that of the least likely one of those listed, where it is not listed."""
    return likeliest.get(token, min(likeliest.values()))


def read_answers(path: Path) -> dict[str, BaseSaid]:
    """The base model's answers in a file, by prompt; a line that was cut is no line."""
    known: dict[str, BaseSaid] = {}
    try:
        lines = path.read_bytes().splitlines()
    except OSError:
        return known
    for line in lines:
        try:
            item = json.loads(line)
            known[item["prompt"]] = BaseSaid(item["text"], tuple(item["tokens"]), tuple(item["log_probs"]))
        except (ValueError, KeyError, TypeError):
            continue
    return known


def append_answers(path: Path, answers: Mapping[str, BaseSaid]) -> None:
    """Adds answers to the file. Where that fails they are made again at the next start."""
    lines = [json.dumps({"prompt": prompt, **answer._asdict()}) for prompt, answer in answers.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(("\n" + "\n".join(lines) + "\n").encode())  # after half a line of a writer that was killed
    except OSError as error:
        logger.warning("the base model's answers cannot be kept in %s: %s", path, error)


def _in_turn(prompts: Mapping[Kind, Sequence[str]]) -> list[tuple[Kind, str]]:
    """All prompts, such that any beginning holds about the same share of each kind."""
    placed = [
        ((number + 0.5) / len(some), kind, prompt)
        for kind, some in prompts.items()
        for number, prompt in enumerate(some)
    ]
    return [(kind, prompt) for _, kind, prompt in sorted(placed)]
