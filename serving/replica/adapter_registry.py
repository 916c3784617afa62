"""The adapters that one engine knows: registered, replaced and unregistered while it answers.

Each version of a learnware has an engine name and a number of its own, which it keeps as long as the engine lives:
whatever vLLM keys by name (prefix cache) or by number (slots, host copies) can never mix two versions. vLLM's front end
finds a version under the learnware's public id, and answers carry the public id.
"""

import asyncio
import copy
import logging
from typing import Any

from safetensors import SafetensorError
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.entrypoints.serve.lora.protocol import LoadLoRAAdapterRequest

from serving.replica.admission import Admission
from serving.replica.prompt_logprobs import PromptLogprobs
from specs.adapter import adapts_output_layer
from specs.card import CARD_FILE, Card, load_card
from specs.engine_name import split_engine_name
from specs.errors import InvalidLearnware
from specs.market.catalogue import Catalogue, Entry

logger = logging.getLogger("ray.serve")


class AdapterRegistry:
    """Registers adapters with an engine, and keeps the served names of `admission` equal to a catalogue."""

    def __init__(
        self, models: OpenAIServingModels, admission: Admission, prompt_logprobs: PromptLogprobs | None = None
    ) -> None:
        """Starts with no adapter; `prompt_logprobs` is told of adapters of `lm_head` that come and go."""
        self._models = models
        self._admission = admission
        self._prompt_logprobs = prompt_logprobs or PromptLogprobs()
        self._requests: dict[str, Any] = {}  # every version ever loaded: its number must never change
        self._loading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.cards: dict[str, Card] = {}
        """Cards of the served learnwares, by id."""
        models.model_name = self._public_name

    async def apply(self, catalogue: Catalogue, *, strict: bool = False) -> None:
        """Loads new versions, then serves in one step exactly what the catalogue names; a version that it no longer
        names leaves the engine when its requests are done. A learnware that the engine refuses is left out, with the
        reason in the log.

        Raises:
            InvalidLearnware: with `strict`, the engine refused a learnware.
        """
        before = self._admission.names.learnwares
        served: dict[str, Any] = {}
        cards: dict[str, Card] = {}
        for entry in catalogue.entries:
            try:
                if before.get(entry.id) == entry.engine_name:
                    served[entry.id], cards[entry.id] = self._requests[entry.engine_name], self.cards[entry.id]
                else:
                    card = await asyncio.to_thread(load_card, entry.folder / CARD_FILE)
                    served[entry.id], cards[entry.id] = await self.load(entry), card
            except InvalidLearnware:
                if strict:
                    raise
                logger.exception("a learnware of the market is not served here")
        # no await from here on, so that a request sees the change completely or not at all
        self._models.lora_requests.update(served)
        self.cards = cards
        self._admission.names = self._admission.names._replace(
            learnwares={name: request.lora_name for name, request in served.items()}
        )
        for learnware_id, engine_name in before.items():
            if self._admission.names.learnwares.get(learnware_id) != engine_name:
                task = asyncio.create_task(self._retire(learnware_id, engine_name))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
        logger.info("%d learnwares are served, change number %d", len(served), catalogue.sequence)

    async def load(self, entry: Entry) -> Any:
        """Loads a version into the engine, which checks it and keeps it in host memory; returns vLLM's `LoRARequest`
        for it.

        Raises:
            InvalidLearnware: the engine refused it; the message has its reason.
        """
        async with self._loading:
            request = self._requests.get(entry.engine_name)
            if await asyncio.to_thread(_adapts_output_layer, entry):
                await self._prompt_logprobs.exclude(entry.engine_name)
            try:
                request = await (self._load_first(entry) if request is None else self._load_again(entry, request))
            except InvalidLearnware:
                if entry.engine_name not in self._admission.names.learnwares.values():
                    self._prompt_logprobs.include(entry.engine_name)
                raise
            self._requests[entry.engine_name] = request
            return request

    def request(self, engine_name: str) -> Any:
        """Returns vLLM's `LoRARequest` for a version that is served, None for any other."""
        if engine_name not in self._admission.names.learnwares.values():
            return None
        return self._requests[engine_name]

    async def _load_first(self, entry: Entry) -> Any:
        answer = await self._models.load_lora_adapter(
            LoadLoRAAdapterRequest(lora_name=entry.engine_name, lora_path=str(entry.folder)),
            base_model_name=self._models.base_model_paths[0].name,
        )
        if not isinstance(answer, str):
            raise InvalidLearnware(f"learnware {entry.id!r}: the engine refused its adapter: {answer.error.message}")
        return self._models.lora_requests.pop(entry.engine_name)

    async def _load_again(self, entry: Entry, known: Any) -> Any:
        request = copy.copy(known)
        request.lora_path = str(entry.folder)
        try:
            await self._models.engine_client.add_lora(request)
        except Exception as error:  # noqa: BLE001 - the engine's process hands on what its worker raised
            raise InvalidLearnware(f"learnware {entry.id!r}: the engine refused its adapter: {error}") from None
        return request

    async def unload(self, engine_name: str) -> None:
        """Frees the slot and the host copy of a version that is not served; any other is left alone."""
        if engine_name not in self._admission.names.learnwares.values() and engine_name in self._requests:
            await self._models.engine_client.remove_lora(self._requests[engine_name].lora_int_id)
            self._prompt_logprobs.include(engine_name)

    async def _retire(self, learnware_id: str, engine_name: str) -> None:
        """Unregisters a version once the requests that were admitted under it are done.

        A request that comes later all the same, past the check of names, finds the version on disk, where the market
        keeps it for an hour (`specs.market.store.KEPT_S`).
        """
        await self._admission.unused(engine_name)
        if learnware_id not in self._admission.names.learnwares:
            self._models.lora_requests.pop(learnware_id, None)
        await self.unload(engine_name)

    def _public_name(self, request: Any = None) -> str:
        """Replaces vLLM's `model_name`, which fills `model` in answers, by the learnware's public id."""
        if request is None:
            name: str = self._models.base_model_paths[0].name
            return name
        return split_engine_name(request.lora_name)[0]


def _adapts_output_layer(entry: Entry) -> bool:
    try:
        return adapts_output_layer(entry.folder)
    except (OSError, SafetensorError):
        return False  # the engine reports the fault more clearly
