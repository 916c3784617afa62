"""Fetches greedy answers of a running stack over HTTP and keeps them in a file, so that an interrupted measurement goes
on."""

import asyncio
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp

from benchmarks.common.questions import prompt_hash
from specs.errors import InvalidInput

MAX_TOKENS = 48
"""Answers have at most so many tokens, enough to see a label or a repeated phrase."""
CONCURRENCY = 8
TIMEOUT_S = 600.0
OVERLOADED = (429, 503)
MOST_TRIES = 8

Key = tuple[str, str]
"""An answer's key: the prompt's hash and the model that answers it."""


class TooLong(InvalidInput):
    """The prompt and its answer do not fit into the base model's context."""


class KeptAnswers:
    """Answers by prompt and model. Those that are in the file are not asked for again."""

    def __init__(self, url: str, file: Path | None) -> None:
        """Raises InvalidInput when the file is there and holds something else."""
        self._url = url.rstrip("/")
        self._file = file
        self.too_long: set[str] = set()
        """Hashes of prompts that do not fit into the base model's context, so that no model answers them."""
        self._known: dict[Key, str] = {} if file is None or not file.exists() else _read(file)

    def of(self, prompt: str, model: str) -> str:
        """Returns an answer that was fetched before."""
        return self._known[prompt_hash(prompt), model]

    async def fetch(self, wanted: Sequence[tuple[str, str]]) -> None:
        """Fetches the answers to (prompt, model) pairs that are not known yet.

        Raises:
            InvalidInput: the stack does not answer them.
        """
        missing = {(prompt_hash(prompt), model): prompt for prompt, model in wanted}
        missing = {key: prompt for key, prompt in missing.items() if key not in self._known}
        limit = asyncio.Semaphore(CONCURRENCY)
        done = 0

        async def one(session: aiohttp.ClientSession, key: Key, prompt: str) -> None:
            nonlocal done
            async with limit:
                try:
                    content = await _post(session, f"{self._url}/v1/chat/completions", _body(prompt, key[1]))
                except TooLong:
                    self.too_long.add(key[0])
                    return
            self._keep(key, content["choices"][0]["message"]["content"] or "")
            done += 1
            if done % 100 == 0:
                print(f"{done} of {len(missing)} answers", flush=True)

        async with _session() as session:
            try:
                async with asyncio.TaskGroup() as group:
                    for key, prompt in missing.items():
                        group.create_task(one(session, key, prompt))
            except* InvalidInput as failed:
                raise InvalidInput(str(failed.exceptions[0])) from None

    def _keep(self, key: Key, answer: str) -> None:
        self._known[key] = answer
        if self._file is not None:
            self._file.parent.mkdir(parents=True, exist_ok=True)
            with self._file.open("a", encoding="utf-8") as file:
                file.write(json.dumps({"prompt": key[0], "model": key[1], "answer": answer}, ensure_ascii=False) + "\n")


async def routed_by(url: str, prompts: Sequence[str]) -> list[str | None]:
    """Returns the stack's own choice for each prompt (`POST /v1/route`); None is the base model.

    Raises:
        InvalidInput: the stack does not answer.
    """
    limit = asyncio.Semaphore(CONCURRENCY)

    async def one(session: aiohttp.ClientSession, prompt: str) -> str | None:
        async with limit:
            body = {"model": "auto", "messages": [{"role": "user", "content": prompt}]}
            chosen = (await _post(session, f"{url.rstrip('/')}/v1/route", body)).get("learnware")
        return None if chosen is None else str(chosen)

    async with _session() as session:
        return list(await asyncio.gather(*(one(session, prompt) for prompt in prompts)))


async def base_model_of(url: str) -> str:
    """Returns the id of the stack's base model: the one that others name as their parent.

    Raises:
        InvalidInput: the stack does not list any.
    """
    async with _session() as session:
        try:
            async with session.get(f"{url.rstrip('/')}/v1/models") as response:
                cards = (await response.json())["data"]
        except (aiohttp.ClientError, ValueError, KeyError) as error:
            raise InvalidInput(f"{url}/v1/models cannot be read: {error!r}") from None
    parents = [card["parent"] for card in cards if card.get("parent")]
    if not parents:
        raise InvalidInput(f"{url}/v1/models names no parent model: give --base-model")
    return str(parents[0])


def _session() -> aiohttp.ClientSession:
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=TIMEOUT_S))


def _body(prompt: str, model: str) -> dict[str, Any]:
    return {
        "model": model,
        "messages": [{"role": "user", "content": prompt}],
        "max_tokens": MAX_TOKENS,
        "temperature": 0,
    }


async def _post(session: aiohttp.ClientSession, url: str, body: dict[str, Any]) -> dict[str, Any]:
    for _ in range(MOST_TRIES):
        try:
            async with session.post(url, json=body) as response:
                if response.status in OVERLOADED:
                    await asyncio.sleep(float(response.headers.get("retry-after", 1)))
                    continue
                if response.status == 400 and "maximum context length" in (text := await response.text()):
                    raise TooLong(text)
                if response.status != 200:
                    raise InvalidInput(f"{url} answered {response.status}: {(await response.text())[:300]}")
                return dict(await response.json())
        except aiohttp.ClientError as error:
            raise InvalidInput(f"{url}: {error!r}") from None
    raise InvalidInput(f"{url} stayed overloaded")


def _read(file: Path) -> dict[Key, str]:
    known: dict[Key, str] = {}
    try:
        for line in file.read_text(encoding="utf-8").split("\n"):
            if line:
                row = json.loads(line)
                known[row["prompt"], row["model"]] = row["answer"]
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InvalidInput(f"{file} holds no answers of benchmarks.harm: {error!r}") from None
    return known
