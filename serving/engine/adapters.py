"""The adapters in a model's layers, over vLLM 0.29's manager: this project's layout and operators on CPU, and the
checks of an adapter when it is loaded."""

import math
from typing import Any

import torch
from vllm.lora.lora_model import LoRAModel
from vllm.lora.model_manager import LRUCacheLoRAModelManager

from serving.engine.operators import LayerWeights
from serving.engine.punica import GroupedPunicaWrapper
from serving.engine.slot_writer import Copies, SlotWriter
from specs.errors import InvalidLearnware

SHOWN = 3
"""Number of names quoted in a message."""


class LearnwareModelManager(LRUCacheLoRAModelManager):
    """Manages the adapters in the model's layers. On CPU the layers take this project's operators; on CUDA vLLM's
    kernels stay."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self._layers: dict[str, LayerWeights] = {}
        super().__init__(*args, **kwargs)

    def _init_punica_wrapper(self, max_num_batched_tokens: int, vllm_config: Any) -> None:
        super()._init_punica_wrapper(max_num_batched_tokens, vllm_config)
        if torch.device(self.device).type != "cpu":
            return
        ours: dict[int, GroupedPunicaWrapper] = {}  # one wrapper may stand under several prefixes
        for prefix, stock in self.punica_wrapper_mapping.items():
            if id(stock) not in ours:
                ours[id(stock)] = GroupedPunicaWrapper.like(stock, self.lora_slots)
            self.punica_wrapper_mapping[prefix] = ours[id(stock)]

    def _create_lora_modules(self) -> None:
        super()._create_lora_modules()
        for name, module in self.modules.items():
            if isinstance(module.punica_wrapper, GroupedPunicaWrapper):
                layer = module.punica_wrapper.adopt(module)
                if layer is not None:
                    self._layers[name] = layer

    def activate_adapter(self, lora_id: int) -> bool:
        """Gives the adapter a slot as vLLM's manager does, and tells the CPU operators which slices it fills."""
        activated: bool = super().activate_adapter(lora_id)
        if activated and self._layers:
            slot = self.lora_index_to_id.index(lora_id)
            lora = self._registered_adapters[lora_id]
            for name, layer in self._layers.items():
                layer.mark(slot, _filled(self._get_lora_layer_weights(lora, name), layer.slices))
        return activated

    def check_fits(self, lora: LoRAModel) -> None:
        """Checks a freshly read adapter, before anything is evicted for it.

        vLLM drops tensors whose path names no layer, pads ones that are too small, and lets non-finite ones spread; the
        answers are then the base model's or garbage, without a word.

        Raises:
            InvalidLearnware: a tensor belongs to no layer that takes adapters, lacks its other half, has a wrong shape,
                or is not finite.
        """
        if not lora.loras:
            raise InvalidLearnware("the adapter holds no LoRA tensors")
        shapes = self._shapes()
        unmatched = sorted(name for name in lora.loras if not self._takes(name, shapes))
        if unmatched:
            raise InvalidLearnware(
                f"{len(unmatched)} of the adapter's {len(lora.loras)} modules match no layer of the base model that "
                f"takes adapters: {_some(unmatched)}; it has, for example, {_some(sorted(shapes))}"
            )
        for name, weights in lora.loras.items():
            self._check_weights(name, weights, shapes.get(name))

    def _takes(self, name: str, shapes: dict[str, tuple[int, int] | None]) -> bool:
        if name in shapes or (self.is_pooling_model and f"model.{name}" in shapes):
            return True
        return bool(self._is_moe) and ".experts" in name  # packed by rules of their own, which vLLM checks

    def _shapes(self) -> dict[str, tuple[int, int] | None]:
        """Returns every module name that an adapter may hold with its (features in, features out), or None where they
        are not known: in sharded layers, experts, and layers that split one adapter over several slices."""
        shapes: dict[str, tuple[int, int] | None] = {}
        for name, module in self.modules.items():
            parts = self.packed_modules.get(name, [name])
            known = name in self._layers and getattr(module, "tp_size", 1) == 1
            layer = self._layers[name] if known else None
            for i, part in enumerate(parts):
                fits = layer is not None and len(parts) == layer.slices and layer.a.shape[-1] > 1
                shapes[part] = (layer.a.shape[-1], layer.b[i].shape[2]) if fits and layer is not None else None
        return shapes

    @staticmethod
    def _check_weights(name: str, weights: Any, shape: tuple[int, int] | None) -> None:
        a, b = weights.lora_a, weights.lora_b
        if a is None or b is None:
            raise InvalidLearnware(f"{name} has only one half of its pair, {'lora_B' if a is None else 'lora_A'}")
        if not isinstance(a, torch.Tensor) or not isinstance(b, torch.Tensor):
            return
        if shape is not None and (a.shape[1], b.shape[0]) != shape:
            raise InvalidLearnware(
                f"{name} maps {a.shape[1]} features to {b.shape[0]}; the base model's layer maps "
                f"{shape[0]} to {shape[1]}"
            )
        for half, tensor in (("lora_A", a), ("lora_B", b)):
            # a sum is finite only if every term is, or if it overflows: then each value is looked at
            if not math.isfinite(float(tensor.sum(dtype=torch.float32))) and not bool(torch.isfinite(tensor).all()):
                raise InvalidLearnware(f"{name}.{half} holds values that are not finite")


class PagedModelManager(LearnwareModelManager):
    """Writes into a slot only what differs from its content, all in one call (`serving.engine.slot_writer`)."""

    def _create_lora_modules(self) -> None:
        super()._create_lora_modules()
        self._writers = {name: SlotWriter(module, self.lora_slots) for name, module in self.modules.items()}

    def activate_adapter(self, lora_id: int) -> bool:
        """Gives the adapter a slot as vLLM's manager does, but marks the slot as taken only when all weights are in
        it."""
        if lora_id in self._active_adapters:
            self._active_adapters.touch(lora_id)
            return False
        if len(self._active_adapters) >= self.lora_slots:
            self._active_adapters.remove_oldest()
        slot = self.lora_index_to_id.index(None)
        lora = self._registered_adapters[lora_id]
        copies = Copies([], [], [])
        try:
            for name, writer in self._writers.items():
                writer.prepare(slot, self._get_lora_layer_weights(lora, name), copies)
            copies.run(non_blocking=torch.device(self.device).type != "cpu")
        except BaseException:
            for writer in self._writers.values():
                writer.distrust(slot)
            raise
        for name, layer in self._layers.items():
            ranks = self._writers[name].ranks(slot)
            layer.mark(slot, [rank > 0 for rank in ranks])
        self.lora_index_to_id[slot] = lora_id
        self._active_adapters[lora_id] = None
        return True


def _filled(weights: Any, slices: int) -> list[bool]:
    """Returns which slices of a layer an adapter's weights fill; all of them where vLLM splits the weights itself."""
    if weights is None:
        return [False] * slices
    if isinstance(weights.lora_b, list) and len(weights.lora_b) == slices:
        return [b is not None for b in weights.lora_b]
    return [True] * slices


def _some(names: list[str]) -> str:
    return ", ".join(names[:SHOWN]) + (", …" if len(names) > SHOWN else "")
