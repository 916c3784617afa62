"""The worker classes that vLLM 0.29 is started with, such as `worker_cls="serving.engine.worker.LearnwareCPUWorker"`.

vLLM hard-codes the class of its adapter manager in `LoRAModelRunnerMixin.load_lora_model`. Every model runner (V1, V2,
CPU, CUDA) calls that through `self`, after the worker's `init_device` has made the runner; the runner's method is
replaced there.
"""

from typing import Any

from torch import nn
from vllm.lora.request import LoRARequest
from vllm.model_executor.models import supports_lora
from vllm.platforms import current_platform
from vllm.v1.worker.gpu_worker import Worker

from serving.engine.memory import bound_generated_code, keep_giving_back
from serving.engine.worker_manager import LearnwareWorkerManager
from serving.paging.orphan import end_with_parent
from serving.paging.settings import UPCOMING
from serving.paging.sockets import WorkerSocket, socket_path


class LearnwareWorkerMixin:
    """Gives a worker's model runner this project's adapter manager, and the front end a socket to reach it."""

    model_runner: Any
    vllm_config: Any
    rank: int
    manager_class = LearnwareWorkerManager
    _manager: LearnwareWorkerManager | None = None
    """The adapter manager, None until the model is loaded."""

    def init_device(self) -> None:
        """Initialises the device and replaces the model runner's `load_lora_model`."""
        end_with_parent()
        bound_generated_code()
        self._giving_back = keep_giving_back()
        super().init_device()  # type: ignore[misc]  # the worker beside this class in the bases has it
        runner = self.model_runner

        def load_lora_model(model: nn.Module, vllm_config: Any, device: Any) -> nn.Module:
            if not supports_lora(model):
                raise ValueError(f"{type(model).__name__} does not take LoRA adapters in this version of vLLM")
            manager = self.manager_class(vllm_config, device, model.embedding_modules)
            runner.lora_manager = self._manager = manager
            made = manager.create_lora_manager(model, vllm_config)
            path = socket_path(vllm_config.instance_id, str(self.rank))
            self._socket = WorkerSocket(path, manager.changed, manager.report, manager.host, adapter_request)
            return made

        runner.load_lora_model = load_lora_model

    def execute_model(self, scheduler_output: Any, *args: Any, **kwargs: Any) -> Any:
        """Starts to stage the adapters that the scheduler announces, then runs the step."""
        if self._manager is not None:
            self._manager.stage(getattr(scheduler_output, UPCOMING, ()))
        return super().execute_model(scheduler_output, *args, **kwargs)  # type: ignore[misc]

    def adapter_report(self) -> dict[str, Any]:
        """Returns the report that the socket also pushes, for `collective_rpc`."""
        report: dict[str, Any] = self.model_runner.lora_manager.report()
        return report

    def shutdown(self) -> None:
        """Closes the socket and the host tier, then shuts vLLM's worker down."""
        if hasattr(self, "_giving_back"):
            self._giving_back.set()
        if hasattr(self, "_socket"):
            self._socket.close()
            self.model_runner.lora_manager.host.close()
        super().shutdown()  # type: ignore[misc]


def adapter_request(message: dict[str, Any]) -> LoRARequest:
    """Makes vLLM's request for the adapter that a message of the front end names."""
    return LoRARequest(message["name"], message["id"], message["path"])


class LearnwareGPUWorker(LearnwareWorkerMixin, Worker):
    """A CUDA worker with this project's managers and vLLM's kernels."""


if current_platform.is_cpu():  # on other platforms the import would replace parts of torch (vllm/v1/worker/cpu/shm.py)
    from vllm.v1.worker.cpu_worker import CPUWorker

    class LearnwareCPUWorker(LearnwareWorkerMixin, CPUWorker):
        """A CPU worker with this project's managers and LoRA operators."""
