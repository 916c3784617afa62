"""Measures on the running engine how a learnware changes answers to requests off its task (`specs.off_task`).

It asks through vLLM's own request path, as a client would, so that a learnware is measured as it is served, at any size
and on any device. Running requests are not harmed:

- Requests off the task have the lowest priority, and few run at a time: `IDLE_SEATS` of the batch's seats while no
  other request is there, `BUSY_REQUESTS` otherwise.
- The prompt's log-probabilities, which would give the drift in one pass, are not asked for: with an adapter of
  `lm_head` in the batch they raise inside the engine (`serving.engine.punica`), which fails every request. Nor are
  those of chosen tokens (`logprob_token_ids`): vLLM 0.29 then gives every request of the batch only those tokens.
  Instead the greedy answer is asked for with the likeliest tokens of each step. While it agrees with the base model's
  answer, these say how likely the base's next token is, the first differing one included. Of the base's tokens beyond,
  one is drawn by the prompt's hash and asked for alone, after the tokens before it; it stands for all of them, so the
  drift has the same expectation as where it is measured without an engine, and a larger error. A token that is not
  among the likeliest counts as the last of them, which favours the learnware.
- After `LIMIT_S` no further prompt is asked, unless fewer than `LEAST` were; prompts that were not asked widen the
  intervals.

The base model's answers are made once and kept in a file for the next start.
"""

import asyncio
import hashlib
import json
import logging
import math
import time
import uuid
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Hashable, Iterable, Mapping, Sequence
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
"""Largest length of a prompt in tokens; longer ones lose their middle."""
LOGPROBS = 20
"""Number of likeliest tokens asked for at each step: the most that vLLM gives by default."""
LIMIT_S = 12.0
"""Seconds after which no further prompt is asked of a learnware once `LEAST` are answered."""
LEAST = 24
"""Number of prompts that are asked for beyond `LIMIT_S`, up to `HARD_LIMIT_S`, when other requests slow the measurement
down."""
HARD_LIMIT_S = 40.0
"""Seconds after which the measurement of a learnware ends in any case."""
BASE_LIMIT_S = 30.0
"""Seconds for the base model's answers at the first measurement; missing ones are made at the next."""
IDLE_SEATS = 0.75
"""Share of the batch's seats that the measurement takes on an idle engine, so that a request which comes meanwhile
finds a free one."""
BUSY_REQUESTS = 2
"""Number of the measurement's requests that run at a time beside other requests."""
LOOK_S = 0.05
"""Seconds between two checks whether the engine has become idle."""
LOWEST_PRIORITY = 1 << 20
"""Priority of the measurement's requests: smaller values run first (`serving.paging.queue`), and clients' requests have
0 by default."""

Question = TypeVar("Question", bound=Hashable)
Result = TypeVar("Result")


class Said(NamedTuple):
    """A greedy answer: its text, its tokens, and for each token the log-probabilities of the likeliest ones at its
    place."""

    text: str
    tokens: tuple[int, ...]
    likeliest: tuple[Mapping[int, float], ...]


class Asked(NamedTuple):
    """A prompt as one user turn, the adapter that is asked (vLLM's `LoRARequest`; None: the base), and the largest
    length of its answer in tokens."""

    prompt: str
    request: Any
    max_tokens: int


class BaseSaid(NamedTuple):
    """The base model's answer: its text, its tokens, and the log-probability of each token."""

    text: str
    tokens: tuple[int, ...]
    log_probs: tuple[float, ...]


class OffTaskMeter:
    """Measures learnwares off their task on one engine, one learnware at a time."""

    def __init__(
        self,
        engine: Any,
        encode: Callable[[str], Sequence[int]],
        others: Callable[[], int],
        seats: int,
        kept: Path | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Makes a meter.

        Args:
            engine: vLLM's `AsyncLLM`.
            encode: makes token ids of a prompt as one user turn.
            others: returns how many requests the engine has in all, the meter's own included.
            seats: how many requests the engine runs at a time (`max_num_seqs`).
            kept: the file of the base model's answers, which must be this base model's alone; None keeps none.
            clock: monotonic time in seconds.
        """
        self._engine, self._encode, self._others, self._clock = engine, encode, others, clock
        self._workers = max(BUSY_REQUESTS, int(seats * IDLE_SEATS))
        self._running = 0
        self._kept = kept
        self._base: dict[str, BaseSaid] = {}
        self._one = asyncio.Lock()

    async def measure(
        self, request: Any, domain: str, examples: Sequence[str], labels: Collection[str] = ()
    ) -> dict[Kind, OffTaskScore]:
        """Returns the scores of the adapter of `request` (vLLM's `LoRARequest`) by kind of prompt; kinds without an
        answer are left out.

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

    async def answers(self, asked: Sequence[Asked], limit_s: float) -> dict[Asked, Said]:
        """Returns the greedy answers that were made within `limit_s` seconds, for the trial of a learnware
        (`serving.replica.trial`). They take their turn with clients' requests, a few at a time beside these.

        Raises:
            InvalidLearnware: an answer's log-probabilities are not finite numbers.
        """

        async def ask(one: Asked) -> Said:
            return await self._ask(self._encode(one.prompt), one.request, one.max_tokens, priority=0)

        async with self._one:
            return await self._all(asked, ask, limit_s, limit_s)

    async def _ask_base(self, prompts: Sequence[str]) -> None:
        """Makes the base model's answers to the prompts for which none is known."""
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
        self,
        prompts: Iterable[Question],
        ask: Callable[[Question], Awaitable[Result]],
        limit_s: float,
        hard_limit_s: float,
    ) -> dict[Question, Result]:
        """Returns what `ask` gives for each prompt that was answered in time. Prompts are taken in their order, after
        `limit_s` seconds only until `LEAST` are answered, and none after `hard_limit_s`."""
        waiting = deque(prompts)
        answers: dict[Question, Result] = {}
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
        """Asks the learnware and compares its answer with the base model's."""
        encoded, base = self._encode(prompt), self._base[prompt]
        own = await self._ask(encoded, request)
        ratio, followed = follow(own, base)
        if rest := len(base.tokens) - followed:
            drawn = followed + int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:8]) % rest
            said = await self._ask([*encoded, *base.tokens[:drawn]], request, max_tokens=1)
            ratio += rest * (_likelihood(said.likeliest[0], base.tokens[drawn]) - base.log_probs[drawn])
        return Answered(own.text, base.text, ratio, len(base.tokens))

    async def _ask(
        self, prompt: Sequence[int], request: Any, max_tokens: int = MAX_TOKENS, priority: int = LOWEST_PRIORITY
    ) -> Said:
        """Asks for one greedy answer; a learnware's answer that has begun to repeat itself is ended there.

        Raises:
            InvalidLearnware: the log-probabilities are not finite numbers.
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
            priority=priority,
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
            raise InvalidLearnware("on the engine its answers are not finite numbers")
        return Said("".join(text), tuple(tokens), tuple(likeliest))


def off_task_meter(engine: Any, gate: AdapterGate) -> OffTaskMeter:
    """Makes the meter for vLLM's `AsyncLLM` behind this gate; the base model's answers are kept in the cache folder."""
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
    """Compares the log-likelihood of the base's tokens as far as the learnware says the same, one token further
    included. Returns the summed difference (nats, learnware less base) and how many tokens it covers."""
    ratio, followed = 0.0, 0
    for token, log_prob, said, step in zip(base.tokens, base.log_probs, own.tokens, own.likeliest, strict=False):
        ratio += _likelihood(step, token) - log_prob
        followed += 1
        if said != token:
            break
    return ratio, followed


def _likelihood(likeliest: Mapping[int, float], token: int) -> float:
    """Returns a token's log-probability; for a token that is not listed, that of the least likely one listed."""
    return likeliest.get(token, min(likeliest.values()))


def read_answers(path: Path) -> dict[str, BaseSaid]:
    """Reads the base model's answers from a file, by prompt; incomplete lines are skipped, and a missing file holds
    none."""
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
    """Appends answers to the file. A failure is logged only: the answers are then made again at the next start."""
    lines = [json.dumps({"prompt": prompt, **answer._asdict()}) for prompt, answer in answers.items()]
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(("\n" + "\n".join(lines) + "\n").encode())  # after half a line of a writer that was killed
    except OSError as error:
        logger.warning("the base model's answers cannot be kept in %s: %s", path, error)


def _in_turn(prompts: Mapping[Kind, Sequence[str]]) -> list[tuple[Kind, str]]:
    """Orders all prompts so that any beginning of the list holds about the same share of each kind."""
    placed = [
        ((number + 0.5) / len(some), kind, prompt)
        for kind, some in prompts.items()
        for number, prompt in enumerate(some)
    ]
    return [(kind, prompt) for _, kind, prompt in sorted(placed)]
