"""The worker classes that vLLM 0.29 is started with: `worker_cls="serving.engine.worker.LearnwareCPUWorker"`.

vLLM hard-codes the class of its adapter manager in `LoRAModelRunnerMixin.load_lora_model`. Every model runner (V1, V2,
CPU, CUDA) calls that through `self`, after the worker's `init_device` has made the runner: this is where ours goes in.
"""

from typing import Any

from torch import nn
from vllm.model_executor.models import supports_lora
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_worker import Worker

from serving.engine.adapters import LearnwareWorkerManager


class LearnwareWorkerMixin:
    """Gives a worker's model runner our adapter manager."""

    model_runner: Any

    def init_device(self) -> None:
        super().init_device()  # type: ignore[misc]  # the worker beside this class in the bases has it
        runner = self.model_runner

        def load_lora_model(model: nn.Module, vllm_config: Any, device: Any) -> nn.Module:
            if not supports_lora(model):
                raise ValueError(f"{type(model).__name__} does not take LoRA adapters in this version of vLLM")
            runner.lora_manager = LearnwareWorkerManager(vllm_config, device, model.embedding_modules)
            return runner.lora_manager.create_lora_manager(model, vllm_config)

        runner.load_lora_model = load_lora_model


class LearnwareGPUWorker(LearnwareWorkerMixin, Worker):
    """A CUDA worker: our managers, vLLM's kernels."""


if current_platform.is_cpu():  # on other platforms the import would replace parts of torch (vllm/v1/worker/cpu/shm.py)
    from vllm.v1.worker.cpu_worker import CPUWorker

    class LearnwareCPUWorker(LearnwareWorkerMixin, CPUWorker):
        """A CPU worker: our managers and our LoRA operators."""
