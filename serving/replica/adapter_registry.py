"""The adapters that one engine knows: registered, replaced and unregistered while it answers.

Each version of a learnware has an engine name and a number of its own, which it keeps as long as the engine lives:
whatever vLLM keys by name (prefix cache) or by number (slots, host copies) can never mix two versions. vLLM's front end
finds a version under the learnware's public id, and answers carry the public id.
"""

import asyncio
import logging
from collections.abc import Iterable, Mapping
from typing import Any, NamedTuple

from safetensors import SafetensorError
from vllm.entrypoints.openai.models.serving import OpenAIServingModels
from vllm.lora.request import LoRARequest

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
        self._requests: dict[str, LoRARequest] = {}  # every version ever registered: its number must never change
        self._entries: dict[str, Entry] = {}
        self._loading = asyncio.Lock()
        self._retiring: set[asyncio.Task[None]] = set()
        self.cards: dict[str, Card] = {}
        """Cards of the served learnwares, by id."""
        self.left_out = 0
        """Number of learnwares of the catalogue in effect that cannot be read here."""
        self.unserved: Mapping[str, int] = {}
        """Number of learnwares that the market has and does not serve, by the reason's kind."""
        models.model_name = self._public_name

    async def apply(self, catalogue: Catalogue) -> None:
        """Serves in one step exactly what the catalogue names; a version that it no longer names leaves the engine when
        its requests are done. New adapters are registered without being loaded: their values are read and checked when
        a request, or the warm-up, first needs them. One whose card or header cannot be read is left out, with the
        reason in the log."""
        before = self._admission.names.learnwares
        new = [entry for entry in catalogue.entries if before.get(entry.id) != entry.engine_name]
        read = await asyncio.to_thread(_read_all, new)
        served: dict[str, LoRARequest] = {}
        cards: dict[str, Card] = {}
        for entry in catalogue.entries:
            found = read.get(entry.engine_name)
            if found is None:
                served[entry.id], cards[entry.id] = self._requests[entry.engine_name], self.cards[entry.id]
            elif found.card is None:
                logger.error("learnware %s is not served here: %s", entry.id, found.fault)
            else:
                if found.output_layer:
                    await self._prompt_logprobs.exclude(entry.engine_name)
                served[entry.id], cards[entry.id] = self._register(entry), found.card
        # no await from here on, so that a request sees the change completely or not at all
        self._models.lora_requests.update(served)
        self.cards = cards
        self.left_out = len(catalogue.entries) - len(served)
        self.unserved = catalogue.unserved
        self._admission.names = self._admission.names._replace(
            learnwares={name: request.lora_name for name, request in served.items()}
        )
        for learnware_id, engine_name in before.items():
            if self._admission.names.learnwares.get(learnware_id) != engine_name:
                task = asyncio.create_task(self._retire(learnware_id, engine_name))
                self._retiring.add(task)
                task.add_done_callback(self._retiring.discard)
        logger.info("%d learnwares are served, change number %d", len(served), catalogue.sequence)

    async def load(self, entry: Entry) -> LoRARequest:
        """Loads a version into the engine, which checks it and keeps it in host memory; returns vLLM's `LoRARequest`
        for it.

        Raises:
            InvalidLearnware: the engine refused it; the message has its reason.
        """
        async with self._loading:
            found = (await asyncio.to_thread(_read_all, [entry]))[entry.engine_name]
            if found.output_layer:
                await self._prompt_logprobs.exclude(entry.engine_name)
            request = self._register(entry)
            try:
                await self._models.engine_client.add_lora(request)
            except Exception as error:  # noqa: BLE001 - the engine's process hands on what its worker raised
                if entry.engine_name not in self._admission.names.learnwares.values():
                    self._prompt_logprobs.include(entry.engine_name)
                raise InvalidLearnware(f"learnware {entry.id!r}: the engine refused its adapter: {error}") from None
            return request

    def _register(self, entry: Entry) -> LoRARequest:
        """Makes vLLM's `LoRARequest` for a version, as vLLM 0.29's `load_lora_adapter` does, without loading it. A
        version that comes back keeps its number."""
        request = LoRARequest(
            lora_name=entry.engine_name,
            lora_int_id=self._requests[entry.engine_name].lora_int_id
            if entry.engine_name in self._requests
            else self._models.lora_id_counter.inc(1),
            lora_path=str(entry.folder),
            base_model_name=self._models.base_model_paths[0].name,
        )
        self._requests[entry.engine_name] = request
        self._entries[entry.engine_name] = entry
        return request

    def entry(self, engine_name: str) -> Entry | None:
        """Returns the catalogue's entry of a version that was registered, or None."""
        return self._entries.get(engine_name)

    @property
    def served(self) -> tuple[LoRARequest, ...]:
        """The requests of all versions that are served, in the catalogue's order."""
        return tuple(self._requests[name] for name in self._admission.names.learnwares.values())

    def request(self, engine_name: str) -> Any:
        """Returns vLLM's `LoRARequest` for a version that is served, None for any other."""
        if engine_name not in self._admission.names.learnwares.values():
            return None
        return self._requests[engine_name]

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


class _Found(NamedTuple):
    """The facts that a folder says before its adapter is loaded: its card, or None and the fault; and whether the
    adapter changes `lm_head`."""

    card: Card | None
    output_layer: bool
    fault: str = ""


def _read_all(entries: Iterable[Entry]) -> dict[str, _Found]:
    return {entry.engine_name: _read(entry) for entry in entries}


def _read(entry: Entry) -> _Found:
    try:
        output_layer = adapts_output_layer(entry.folder)
    except (OSError, SafetensorError) as error:
        return _Found(None, output_layer=False, fault=f"its adapter cannot be read: {error}")
    try:
        return _Found(load_card(entry.folder / CARD_FILE), output_layer)
    except (InvalidLearnware, OSError) as error:
        return _Found(None, output_layer, str(error))
