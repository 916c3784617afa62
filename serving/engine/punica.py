"""vLLM 0.29's interface of LoRA operators (`PunicaWrapperCPU`) over this project's. It is for CPU only: CUDA keeps
vLLM's kernels."""

from typing import Any

import torch
from torch import Tensor
from vllm.lora.layers import LogitsProcessorWithLoRA, VocabParallelEmbeddingWithLoRA
from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU

from serving.engine.operators import (
    NO_ADAPTERS,
    BatchPlan,
    LayerWeights,
    Run,
    add_lora,
    plan_batch,
)


class GroupedPunicaWrapper(PunicaWrapperCPU):
    """Adds to each row its own adapter's product, and leaves rows without an adapter bit for bit as they are."""

    def __init__(self, max_num_batched_tokens: int, max_batches: int, slots: int) -> None:
        super().__init__(max_num_batched_tokens, max_batches, torch.device("cpu"))
        self._slots = slots
        self._layers: dict[int, LayerWeights] = {}
        self._tokens: BatchPlan = NO_ADAPTERS
        self._samples: BatchPlan = NO_ADAPTERS
        self._sample_rows = 0

    @classmethod
    def like(cls, stock: PunicaWrapperCPU, slots: int) -> "GroupedPunicaWrapper":
        """Makes a wrapper with the capacity of one that vLLM made."""
        tokens, batches = stock._token_lora_indices.numel(), stock._seq_lengths.numel()  # noqa: SLF001
        return cls(tokens, batches, slots)

    def adopt(self, module: object) -> LayerWeights | None:
        """Moves a layer's (still empty) adapter stacks into the layout of `operators`; vLLM goes on writing into them
        through views.

        Returns None for layers whose stacks have another form (mixture of experts); those keep vLLM's.
        """
        if not isinstance(module, BaseLinearLayerWithLoRA | LogitsProcessorWithLoRA | VocabParallelEmbeddingWithLoRA):
            return None
        single = isinstance(module.lora_b_stacked, Tensor)
        b_stacked = (module.lora_b_stacked,) if single else tuple(module.lora_b_stacked)
        outputs = [b.shape[2] for b in b_stacked]
        if isinstance(module, VocabParallelEmbeddingWithLoRA):
            # its A is a table that vLLM looks rows up in; only B is a product, over one "feature" per rank
            features = 1
        else:
            a_stacked = (module.lora_a_stacked,) if single else tuple(module.lora_a_stacked)
            if any(a.shape != a_stacked[0].shape for a in a_stacked):
                return None
            features = a_stacked[0].shape[-1]
        layer = LayerWeights.zeros(self._slots, b_stacked[0].shape[-1], features, outputs, b_stacked[0].dtype)
        a_views, b_views = self.adopt_layer(layer)
        if not isinstance(module, VocabParallelEmbeddingWithLoRA):
            module.lora_a_stacked = a_views[0] if single else a_views
        module.lora_b_stacked = b_views[0] if single else b_views
        return layer

    def adopt_layer(self, layer: LayerWeights) -> tuple[tuple[Tensor, ...], tuple[Tensor, ...]]:
        """Registers a layer; returns the stacks of A and B by which it is found again."""
        a_views, b_views = layer.stacks()
        self._layers[b_views[0].data_ptr()] = layer
        return a_views, b_views

    def update_metadata(
        self, mapping: Any, lora_index_to_id: list[int | None], max_loras: int, vocab_size: int, **kwargs: Any
    ) -> None:
        """Takes note of each row's slot, as vLLM's wrapper does, and plans the products of the batch."""
        super().update_metadata(mapping, lora_index_to_id, max_loras, vocab_size, **kwargs)
        self._tokens = self._plan(self.token_lora_indices)
        self._samples = self._plan(self.sampler_indices)
        self._sample_rows = self.sampler_indices.numel()

    def _plan(self, slot_of_rows: Tensor) -> BatchPlan:
        slots, lengths = torch.unique_consecutive(slot_of_rows, return_counts=True)
        runs, start = [], 0
        for slot, length in zip(slots.tolist(), lengths.tolist(), strict=True):
            runs.append(Run(start, start + length, slot))
            start += length
        return plan_batch(runs)

    def _layer(self, a_stacked: Any, b_stacked: Any) -> LayerWeights:
        """Returns the adopted layer behind these stacks, or a copy of a layer that was not adopted in the layout of
        `operators`."""
        layer = self._layers.get(b_stacked[0].data_ptr())
        return layer if layer is not None else LayerWeights.of_stacks(a_stacked, b_stacked)

    def add_lora_linear(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        lora_b_stacked: tuple[Tensor, ...],
        scale: float,
        output_slices: tuple[int, ...],
        *,
        buffer: tuple[Tensor, ...] | None = None,  # noqa: ARG002  # vLLM's interface
        add_inputs: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Adds the adapters' products to a linear layer's output; with `add_inputs` False they replace it."""
        if not add_inputs:
            y.zero_()
        if self._tokens.slots:
            layer = self._layer(lora_a_stacked, lora_b_stacked)
            add_lora(_rows(y), _rows(x), layer, self._tokens, output_slices, scale=scale)

    def add_lora_logits(
        self,
        y: Tensor,
        x: Tensor,
        lora_a_stacked: Tensor,
        lora_b_stacked: Tensor,
        scale: float,
        *,
        buffer: Tensor | None = None,  # noqa: ARG002
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Adds the adapters' products to the logits, one row for each sampled token.

        Raises:
            RuntimeError: an adapter changes `lm_head`, and the rows are not the sampled ones (vLLM asks for logits of
                prompt tokens without saying whose they are). vLLM's own wrapper raises there too.
        """
        layer = self._layers.get(lora_b_stacked.data_ptr())
        if layer is None:
            layer = LayerWeights.of_stacks((lora_a_stacked,), (lora_b_stacked,))
        if not layer.occupied[0] & self._samples.slots:
            return
        y, x = _rows(y), _rows(x)
        if x.shape[0] != self._sample_rows:
            raise RuntimeError(
                f"{x.shape[0]} rows of logits were asked for where {self._sample_rows} are sampled; log-probabilities "
                "of the prompt are not available for an adapter of lm_head"
            )
        add_lora(y, x, layer, self._samples, (min(y.shape[1], layer.b[0].shape[2]),), scale=scale)

    def add_lora_embedding(
        self,
        y: Tensor,
        x: Tensor,
        lora_b_stacked: Tensor,
        add_inputs: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Adds B's product to embeddings whose row of A vLLM has looked up already (`x`); with `add_inputs` False it
        replaces them."""
        if not add_inputs:
            y.zero_()
        self._expand(_rows(y), (x,), (lora_b_stacked,), (lora_b_stacked.shape[2],), 0)

    def add_shrink(
        self,
        y: tuple[Tensor, ...] | Tensor,
        x: Tensor,
        lora_a_stacked: tuple[Tensor, ...],
        scale: float,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Sets `y[i] = scale · A_i[slot] x`, zero in rows without an adapter (used alone when LoRA is fully
        sharded)."""
        x = _rows(x)
        for i, a in enumerate(lora_a_stacked):
            out = y[i].view(-1, y[i].shape[-1])
            out.zero_()
            for slot, rows in self._tokens.parts():
                out[rows] = (x[rows].to(a.dtype) @ a[slot, 0].t() * scale).to(out.dtype)

    def add_expand(
        self,
        y: Tensor,
        x: tuple[Tensor, ...] | Tensor,
        lora_b_stacked: tuple[Tensor, ...],
        output_slices: tuple[int, ...],
        offset_start: int = 0,
        add_inputs: bool = True,
        **kwargs: Any,  # noqa: ARG002
    ) -> None:
        """Adds the product of B with each slice of `x` to y's columns from `offset_start` on; with `add_inputs` False
        it replaces them."""
        y = _rows(y)
        if not add_inputs:
            y[:, offset_start : offset_start + sum(output_slices)] = 0
        self._expand(y, x, lora_b_stacked, output_slices, offset_start)

    def _expand(
        self, y: Tensor, x: Any, lora_b_stacked: tuple[Tensor, ...], output_slices: tuple[int, ...], offset: int
    ) -> None:
        """Adds `B_i[slot] x[i]` to slice i of y's columns, for x[i] of shape (T, R)."""
        for i, (b, width) in enumerate(zip(lora_b_stacked, output_slices, strict=True)):
            columns = slice(offset, offset + width)
            offset += width
            layer = self._layers.get(b.data_ptr())
            if layer is not None and not layer.occupied[0] & self._tokens.slots:
                continue
            for slot, rows in self._tokens.parts():
                y[rows, columns] += (x[i][rows].to(b.dtype) @ b[slot, 0].t()).to(y.dtype)


def _rows(tensor: Tensor) -> Tensor:
    """Views a tensor (…, features) as (T, features), sharing memory."""
    return tensor.view(-1, tensor.shape[-1])
