"""The managers of adapters, over vLLM's real ones, without a model: which adapters are loaded for a batch, and which
are refused."""

import random
import threading
import warnings
from types import SimpleNamespace
from typing import Any

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.lora_weights import LoRALayerWeights
    from vllm.lora.model_manager import AdapterLRUCache
    from vllm.lora.request import LoRARequest

    from serving.engine.adapters import LearnwareModelManager
    from serving.engine.operators import LayerWeights
    from serving.engine.staging import ROOM, Staging
    from serving.engine.worker_manager import DeviceCounts, LearnwareWorkerManager

from serving.paging.settings import PagingSettings
from serving.paging.tier import HostTier
from specs.errors import InvalidLearnware

pytestmark = pytest.mark.vllm

ADAPTERS, SLOTS, HOST = 12, 4, 6


BYTES = 256
"""Of one adapter in host memory: two halves, each padded to a cache line."""


class CountingManager(LearnwareWorkerManager):
    """Reads no files: notes what would have been read. Host memory holds HOST adapters."""

    def __init__(self, manager: LearnwareModelManager) -> None:
        self._adapter_manager, self.reads = manager, []
        self.device_counts, self.changed, self.names = DeviceCounts(), threading.Event(), {}
        self._placed, self._pinned, self._page_lock = {}, set(), False
        self.staging = Staging(torch.device("cpu"))
        self._settings = PagingSettings(host_bytes=HOST * BYTES)
        self.host = HostTier(
            HOST * BYTES, key_of=lambda lora: lora.lora_int_id, size_of=lambda _: BYTES, read=self._read
        )

    def _load_adapter(self, lora_request: LoRARequest) -> LoRAModel:
        self.reads.append(lora_request.lora_int_id)
        return adapter(lora_request.lora_int_id, {"model.o_proj": (8, 6)})


def adapter(number: int, modules: dict[str, tuple[int, int]], rank: int = 4) -> LoRAModel:
    weights = {
        name: LoRALayerWeights(name, rank, rank, torch.ones(rank, features), torch.ones(outputs, rank))
        for name, (features, outputs) in modules.items()
    }
    return LoRAModel(number, rank, weights)


def model_manager(**layers: Any) -> LearnwareModelManager:
    """A manager without a model: vLLM's own tables, and the given layers."""
    manager = object.__new__(LearnwareModelManager)
    manager.lora_config = SimpleNamespace(max_loras=SLOTS, max_cpu_loras=HOST)
    manager._registered_adapters = AdapterLRUCache(HOST, manager.deactivate_adapter)
    manager._active_adapters = AdapterLRUCache(SLOTS, manager._deactivate_adapter)
    manager.lora_index_to_id = [None] * SLOTS
    manager.packed_modules, manager.modules = {}, {}
    manager._is_moe = manager.is_pooling_model = False
    manager._layers = layers
    return manager


def requests(numbers: set[int]) -> set[LoRARequest]:
    return {LoRARequest(f"adapter-{number}", number, f"/adapters/{number}") for number in numbers}


def residents(manager: LearnwareModelManager) -> set[int]:
    return {number for number in manager.lora_index_to_id if number is not None}


def test_a_batch_loads_what_is_missing_and_never_evicts_what_it_needs():
    manager = model_manager()
    worker = CountingManager(manager)
    choose = random.Random(0)
    for _ in range(300):
        batch = set(choose.sample(range(1, ADAPTERS + 1), choose.randint(1, SLOTS)))
        needed, in_host, loads = batch - residents(manager), set(worker.host.sizes()), worker.device_counts.loads
        worker.reads.clear()
        worker._apply_adapters(requests(batch))
        assert worker.device_counts.loads - loads == len(needed)
        assert set(worker.reads) >= needed - in_host
        assert set(worker.reads) <= needed
        assert batch <= residents(manager)
        assert sum(worker.host.sizes().values()) <= HOST * BYTES


def test_a_resident_keeps_its_slot_when_newcomers_take_the_others():
    manager = model_manager()
    worker = CountingManager(manager)
    worker._apply_adapters(requests({9, 8, 7, 6}))
    slot = manager.lora_index_to_id.index(9)
    for newcomer in (1, 2, 3, 4, 5):
        worker._apply_adapters(requests({9, newcomer, newcomer + 10}))
        assert manager.lora_index_to_id[slot] == 9


def test_what_was_announced_is_brought_to_the_device_ahead_and_used_once():
    manager = model_manager()
    worker = CountingManager(manager)
    worker.staging.ahead = True  # as on CUDA; here the device's memory is the host's
    for number in (1, 2, 3):
        (request,) = requests({number})
        worker.host.load_now(request)
    worker._apply_adapters(requests({1}))
    worker.stage([1, 2, 99])
    assert [number in worker.staging for number in (1, 2, 3, 99)] == [False, True, False, False]
    placed = []
    manager.activate_adapter = lambda number: placed.append(manager._registered_adapters[number]) or True
    worker._apply_adapters(requests({2}))
    worker._apply_adapters(requests({3}))
    assert 2 not in worker.staging
    in_host = {number: worker.host.held(number).buffer.untyped_storage().data_ptr() for number in (2, 3)}
    origins = [lora.loras["model.o_proj"].lora_a.untyped_storage().data_ptr() for lora in placed]
    assert origins[0] != in_host[2], "taken from where it was staged"
    assert origins[1] == in_host[3], "taken from host memory"


def test_staging_keeps_the_newest_and_forgets_what_is_removed():
    worker = CountingManager(model_manager())
    worker.staging.ahead = True
    for number in range(1, ROOM + 2):
        (request,) = requests({number})
        worker.host.load_now(request)
        worker.stage([number])
    assert 1 not in worker.staging
    assert all(number in worker.staging for number in range(2, ROOM + 2))
    worker.remove_adapter(ROOM + 1)
    assert ROOM + 1 not in worker.staging


def test_more_adapters_than_slots_are_refused():
    with pytest.raises(RuntimeError, match="greater than the number of GPU LoRA slots"):
        CountingManager(model_manager())._apply_adapters(requests(set(range(1, SLOTS + 2))))


@pytest.fixture
def fitted() -> LearnwareModelManager:
    """One packed layer of two slices and one of a single one."""
    layers = {
        "model.gate_up_proj": LayerWeights.zeros(SLOTS, 4, 8, (6, 6), torch.float32),
        "model.o_proj": LayerWeights.zeros(SLOTS, 4, 8, (6,), torch.float32),
    }
    manager = model_manager(**layers)
    manager.modules = {name: SimpleNamespace(tp_size=1) for name in layers}
    manager.packed_modules = {"model.gate_up_proj": ["model.gate_proj", "model.up_proj"]}
    return manager


def test_an_adapter_of_all_or_some_layers_fits(fitted):
    fitted.check_fits(adapter(1, {"model.o_proj": (8, 6), "model.gate_proj": (8, 6), "model.up_proj": (8, 6)}))
    fitted.check_fits(adapter(1, {"model.up_proj": (8, 6)}))


@pytest.mark.parametrize(
    ("modules", "reason"),
    [
        ({}, "no LoRA tensors"),
        ({"other.o_proj": (8, 6)}, "1 of the adapter's 1 modules match no layer"),
        ({"model.o_proj": (8, 6), "model.layers.1.o_proj": (8, 6)}, r"1 of the adapter's 2 .*model\.layers\.1\.o_proj"),
        ({"model.o_proj": (7, 6)}, r"model\.o_proj maps 7 features to 6; .* maps 8 to 6"),
        ({"model.up_proj": (8, 5)}, r"model\.up_proj maps 8 features to 5"),
    ],
    ids=["empty", "another model", "one layer too many", "narrower", "shorter"],
)
def test_an_adapter_that_does_not_fit_is_refused(fitted, modules, reason):
    with pytest.raises(InvalidLearnware, match=reason):
        fitted.check_fits(adapter(1, modules))


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_not_finite_are_refused(fitted, value):
    broken = adapter(1, {"model.o_proj": (8, 6)})
    broken.loras["model.o_proj"].lora_b[3, 1] = value
    with pytest.raises(InvalidLearnware, match="lora_B holds values that are not finite"):
        fitted.check_fits(broken)


def test_large_finite_weights_are_not_mistaken_for_infinite_ones(fitted):
    large = adapter(1, {"model.o_proj": (8, 6)})
    large.loras["model.o_proj"].lora_a.fill_(3e38)
    fitted.check_fits(large)
