"""A worker's adapters, over vLLM 0.29's manager: host memory limited by bytes and filled beside the engine's steps, and
the order in which a batch's adapters take their slots."""

import threading
import time
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.platforms import current_platform

from serving.engine.adapter_reader import adapter_folder, read_adapter
from serving.engine.adapters import PagedModelManager
from serving.engine.staging import Staging
from serving.paging.buffer import PackedAdapter, in_one_buffer
from serving.paging.settings import PagingSettings
from serving.paging.tier import HostTier, Loaded
from specs.adapter import WEIGHTS_FILE
from specs.errors import InvalidLearnware


@dataclass
class DeviceCounts:
    """Counts of the device's slots since the start."""

    loads: int = 0
    """Number of adapters copied into a slot."""
    hits: int = 0
    """Number of adapters that a batch needed and a slot held, summed over batches."""
    evictions: int = 0
    """Number of adapters that lost their slot to another."""
    load_seconds: float = 0.0
    load_bytes: int = 0
    disk_reads_in_step: int = 0
    """Number of adapters that an engine's step had to read from disk itself."""


class LearnwareWorkerManager(LRUCacheWorkerLoRAManager):
    """Reads, checks and places adapters for one worker.

    Host memory is `HostTier`'s. The worker's own table in vLLM (`_registered_adapters`) holds the adapters on the
    device alone: an adapter stands there with its weights while it is copied into its slot, and without them
    afterwards.
    """

    _manager_cls = PagedModelManager

    def __init__(self, vllm_config: Any, device: torch.device, embedding_modules: dict[str, str]) -> None:
        super().__init__(vllm_config, device, embedding_modules)
        self.device_counts = DeviceCounts()
        self.changed = threading.Event()
        """Set when an adapter has changed its place, by any thread; cleared by the thread that reports it."""
        self.names: dict[int, str] = {}
        """Engine names of the adapters that requests have named, by number."""
        self._placed: dict[int, int] = {}
        """Bytes of the adapters in the slots, without those that vLLM makes for warm-up."""
        self._settings = PagingSettings.of(vllm_config.additional_config)
        self._base = Path(vllm_config.model_config.model)
        self._pinned: set[int] = set()
        """Numbers of the adapters that keep their slot."""
        self._page_lock = device.type == "cuda"
        self.staging = Staging(device)
        self.host: HostTier[LoRARequest, PackedAdapter] = HostTier(
            self._settings.host_bytes,
            key_of=lambda request: request.lora_int_id,
            size_of=adapter_bytes,
            read=self._read,
            changed=self.changed.set,
            settled=self._pinned.__contains__,
        )

    def _load_adapter(self, lora_request: LoRARequest) -> LoRAModel:
        """Reads and checks an adapter, without vLLM's own reader, which has one scaling for all of an adapter's layers
        (`serving.engine.adapter_reader`).

        Raises:
            InvalidLearnware: it cannot be served right.
        """
        manager = self._adapter_manager
        lora = read_adapter(
            adapter_folder(lora_request),
            lora_request.lora_int_id,
            manager.model,
            dtype=self.lora_config.lora_dtype,
            max_rank=self.lora_config.max_lora_rank,
            vocabulary=self.vocab_size,
            base=self._base,
        )
        lora.is_3d_lora_weight = lora_request.is_3d_lora_weight
        manager.check_fits(lora)
        return lora

    def _read(self, lora_request: LoRARequest) -> Loaded[PackedAdapter]:
        """Reads, checks and packs an adapter; runs in the loader's thread, beside the engine's steps."""
        if self._page_lock:
            current_platform.set_device(self.device)  # of this thread, where the page-locked memory is made
        self.names[lora_request.lora_int_id] = lora_request.lora_name
        lora = self._load_adapter(lora_request)
        self._adapter_manager._create_merged_loras_inplace(lora)  # noqa: SLF001
        packed = in_one_buffer(lora, self._page_lock, by_rank=not self._page_lock)
        return Loaded(packed, packed.buffer.nbytes)

    def stage(self, upcoming: Iterable[int]) -> None:
        """Starts to bring adapters that later steps will need to the device, if they are in host memory."""
        if self.staging.ahead:
            active = self._adapter_manager._active_adapters  # noqa: SLF001
            held = ((number, self.host.held(number)) for number in upcoming if number not in active)
            self.staging.start((number, packed) for number, packed in held if packed is not None)

    def add_adapter(self, lora_request: LoRARequest) -> bool:
        """Gives an adapter a slot; returns False when it holds one already.

        Raises:
            RuntimeError: every slot is pinned.
        """
        manager, number = self._adapter_manager, lora_request.lora_int_id
        if lora_request.load_inplace:
            self.remove_adapter(number)
        if number in manager._active_adapters:  # noqa: SLF001
            manager._active_adapters.touch(number)  # noqa: SLF001
            self.device_counts.hits += 1
            return False
        registered = manager._registered_adapters  # noqa: SLF001
        weights = None if number in registered else self._weights(lora_request)
        start = time.perf_counter()
        while len(manager._active_adapters) >= manager.lora_slots:  # noqa: SLF001
            self._evict()
        if weights is not None:
            registered[number] = weights
        try:
            manager.activate_adapter(number)
        except BaseException:
            manager.remove_adapter(number)  # vLLM marks the slot as taken before it copies
            raise
        if weights is not None:
            registered[number] = LoRAModel(number, weights.rank, {})
            self._placed[number] = self.host.size(number)
            self.device_counts.load_bytes += self._placed[number]
        if self._settings.pins(lora_request.lora_name):
            self._pinned.add(number)
        self.device_counts.loads += 1
        self.device_counts.load_seconds += time.perf_counter() - start
        self.changed.set()
        return True

    def _weights(self, lora_request: LoRARequest) -> LoRAModel:
        """Returns the adapter from the device, if it was staged there, from host memory, or else from disk, in this
        very step."""
        staged = self.staging.take(lora_request.lora_int_id)
        if staged is not None:
            return staged
        packed = self.host.held(lora_request.lora_int_id) or self.host.load_now(lora_request)
        return packed.model

    def _evict(self) -> None:
        """Frees the slot that was used least recently and is not pinned.

        Raises:
            RuntimeError: every slot is pinned.
        """
        active = self._adapter_manager._active_adapters  # noqa: SLF001
        oldest = next((number for number in active.order if number not in self._pinned), None)
        if oldest is None:
            raise RuntimeError("every adapter slot is pinned")
        if oldest in self._placed:
            del self._placed[oldest]
            self._adapter_manager.remove_adapter(oldest)
        else:  # vLLM's own, for warm-up: they stay registered
            self._adapter_manager.deactivate_adapter(oldest)
        self.device_counts.evictions += 1

    def remove_adapter(self, adapter_id: int) -> bool:
        """Frees the adapter's slot and its host memory; returns False when it had neither."""
        self._placed.pop(adapter_id, None)
        self._pinned.discard(adapter_id)
        self.staging.forget(adapter_id)
        on_device: bool = super().remove_adapter(adapter_id)
        in_host = self.host.remove(adapter_id)
        self.names.pop(adapter_id, None)
        self.changed.set()
        return on_device or in_host

    def remove_all_adapters(self) -> None:
        """Frees all slots and the host memory of all adapters."""
        super().remove_all_adapters()
        self._placed.clear()
        self._pinned.clear()
        self.host.clear()
        self.changed.set()

    def list_adapters(self) -> set[int]:
        """Returns the numbers of the adapters on the device or in host memory."""
        return set(super().list_adapters()) | self.host.sizes().keys()

    def _apply_adapters(self, lora_requests: set[LoRARequest]) -> None:
        """Touches the residents that a batch needs before it loads the others, so that no newcomer evicts one of them.

        vLLM's own method takes them in the order of a set: some residents are evicted, and loaded again in the same
        step.
        """
        reads = self.host.counts.reads_by_callers
        super()._apply_adapters(self._in_order(lora_requests))
        self.device_counts.disk_reads_in_step += self.host.counts.reads_by_callers - reads

    def _in_order(self, lora_requests: Iterable[LoRARequest]) -> list[LoRARequest]:
        active = self._adapter_manager._active_adapters  # noqa: SLF001
        return sorted(filter(None, lora_requests), key=lambda lora: (lora.lora_int_id not in active, lora.lora_int_id))

    def report(self) -> dict[str, Any]:
        """Returns where each adapter is, and the counts, as JSON values."""
        manager, cache = self._adapter_manager, self.host.cache
        slots, host = list(manager.lora_index_to_id), self.host.sizes()
        return {
            "slots": slots,
            "names": {str(number): self.names[number] for number in {*slots, *host} if number in self.names},
            "host": {str(number): size for number, size in host.items()},
            "slot_bytes": sum(self._placed.get(number, 0) for number in slots if number is not None),
            "host_budget": cache.budget,
            "host_waiting": self.host.waiting(),
            "host_hits": cache.hits,
            "host_misses": cache.misses,
            "host_evictions": cache.evictions,
            "device_counts": asdict(self.device_counts),
            "host_counts": asdict(self.host.counts),
        }


def adapter_bytes(request: LoRARequest) -> int:
    """Returns the bytes of an adapter's weights on disk.

    Raises:
        InvalidLearnware: the folder holds no weights.
    """
    path = adapter_folder(request) / WEIGHTS_FILE
    if not path.is_file():
        raise InvalidLearnware(f"its folder holds no {WEIGHTS_FILE}")
    return path.stat().st_size
