"""Workers that count what adapter paging does, for `benchmarks.paging`:
`worker_cls="benchmarks.paging.counting_workers.…"`.

`CountedLearnwareWorker`  this project's worker, as it is served
`CountedStockWorker`      vLLM 0.29's paging with this project's CPU operators: what differs is paging alone
`CountedPlainWorker`      vLLM 0.29's paging and operators

and this project's worker with one part off, to see what each is worth:

`AnyOrderWorker`          a batch's adapters are loaded in the order of a set, as vLLM does
`ReadInStepWorker`        requests do not wait for host memory: the step that needs an adapter reads it
`WholeSlotWorker`         a slot is cleared and written by vLLM, module by module

The counts go into a file that the variable LEARNWARE_PAGING_COUNTS names, as six 64-bit integers (`COUNTS`) that the
worker maps into memory: counting costs no system call, and a reader needs no answer from the engine.
"""

import os
import threading
from collections.abc import Callable, Iterable
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from vllm.lora.lora_model import LoRAModel
from vllm.lora.request import LoRARequest
from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager
from vllm.v1.worker.cpu_worker import CPUWorker

from serving.engine.adapters import LearnwareModelManager
from serving.engine.worker import LearnwareCPUWorker
from serving.engine.worker_manager import LearnwareWorkerManager

COUNTS = ("steps", "lora_steps", "needed", "loads", "disk_reads", "disk_reads_in_step")
"""Counted are: engine steps; steps with an adapter in the batch; adapters that a batch needed and no slot held, summed
over batches; copies of an adapter into a slot; adapters read from disk by any thread; those read by the thread of a
step during the step."""

COUNTS_FILE = "LEARNWARE_PAGING_COUNTS"

_STEPS, _LORA_STEPS, _NEEDED, _LOADS, _READS, _READS_IN_STEP = range(len(COUNTS))


class _StockOrderManager(LRUCacheWorkerLoRAManager):
    """Stock paging over this project's layers, and so with its operators."""

    _manager_cls = LearnwareModelManager


class CountingMixin:
    """Counts around the adapter managers that the worker class beside it makes."""

    model_runner: Any
    stock_manager: type[LRUCacheWorkerLoRAManager] | None = None
    """The manager that replaces the worker's own, where one does."""

    def init_device(self) -> None:
        super().init_device()  # type: ignore[misc]  # the worker beside this class in the bases has it
        self._counts: NDArray[np.int64] = np.memmap(
            os.environ[COUNTS_FILE], dtype=np.int64, mode="w+", shape=(len(COUNTS),)
        )
        self._stepping: int | None = None
        runner = self.model_runner
        load: Callable[..., Any] = runner.load_lora_model

        def load_lora_model(model: Any, vllm_config: Any, device: Any) -> Any:
            if self.stock_manager is None:
                made = load(model, vllm_config, device)
            else:
                runner.lora_manager = self.stock_manager(vllm_config, device, model.embedding_modules)
                made = runner.lora_manager.create_lora_manager(model, vllm_config)
            self._watch(runner.lora_manager)
            return made

        runner.load_lora_model = load_lora_model

    def execute_model(self, *args: Any, **kwargs: Any) -> Any:
        self._counts[_STEPS] += 1
        self._stepping = threading.get_ident()
        try:
            return super().execute_model(*args, **kwargs)  # type: ignore[misc]
        finally:
            self._stepping = None

    def _watch(self, manager: Any) -> None:
        slots = manager._adapter_manager  # noqa: SLF001
        apply, activate = manager._apply_adapters, slots.activate_adapter  # noqa: SLF001
        read = LoRAModel.from_lora_tensors  # both readers end there

        def counted_apply(requests: Any) -> Any:
            wanted = {request.lora_int_id for request in requests if request}
            self._counts[_LORA_STEPS] += bool(wanted)
            self._counts[_NEEDED] += len(wanted - set(slots._active_adapters))  # noqa: SLF001
            return apply(requests)

        def counted_activate(lora_id: int) -> bool:
            activated: bool = activate(lora_id)
            self._counts[_LOADS] += activated
            return activated

        def counted_read(*args: Any, **kwargs: Any) -> Any:
            self._counts[_READS] += 1
            self._counts[_READS_IN_STEP] += self._stepping == threading.get_ident()
            return read(*args, **kwargs)

        manager._apply_adapters = counted_apply  # noqa: SLF001
        slots.activate_adapter = counted_activate
        LoRAModel.from_lora_tensors = counted_read


class CountedLearnwareWorker(CountingMixin, LearnwareCPUWorker):
    """This project's worker with counting."""


class CountedStockWorker(CountingMixin, LearnwareCPUWorker):
    """Stock paging with this project's operators, with counting."""

    stock_manager = _StockOrderManager


class CountedPlainWorker(CountingMixin, CPUWorker):
    """Stock paging with stock operators, with counting."""


class _AnyOrderManager(LearnwareWorkerManager):
    def _in_order(self, lora_requests: Iterable[LoRARequest]) -> list[LoRARequest]:
        return list(filter(None, lora_requests))


class _ReadInStepManager(LearnwareWorkerManager):
    def __init__(self, vllm_config: Any, device: torch.device, embedding_modules: dict[str, str]) -> None:
        super().__init__(vllm_config, device, embedding_modules)
        self.host.acquire = self._grant  # type: ignore[method-assign]

    def _grant(self, request: LoRARequest, done: Callable[[str | None], None]) -> None:
        self.host.lease(request)
        done(None)


class _WholeSlotManager(LearnwareWorkerManager):
    _manager_cls = LearnwareModelManager


class AnyOrderWorker(CountingMixin, LearnwareCPUWorker):
    """This project's worker with one part off: a loaded adapter may evict one that the same batch needs."""

    manager_class = _AnyOrderManager


class ReadInStepWorker(CountingMixin, LearnwareCPUWorker):
    """This project's worker with one part off: adapters are read in the step that needs them."""

    manager_class = _ReadInStepManager


class WholeSlotWorker(CountingMixin, LearnwareCPUWorker):
    """This project's worker with one part off: slots are filled in vLLM's way."""

    manager_class = _WholeSlotManager
