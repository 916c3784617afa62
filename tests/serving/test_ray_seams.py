"""The private names of Ray 2.60.0 that the project stands on: an upgrade that moves one fails here, by name."""

import ast
import asyncio
import inspect
import pickle
from pathlib import Path

import pytest
import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.llm._internal.common.callbacks.base import CallbackConfig, CallbackCtx
from ray.llm._internal.serve.core.ingress import builder
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve._private.common import ReplicaID
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve._private.router import AsyncioRouter, CurrentLoopRouter
from ray.serve.config import RequestRouterConfig
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentHandle
from ray.serve.llm import LLMConfig

from serving.ray_internals import ModelIsHere
from specs.errors import Overloaded

ROOT = Path(__file__).parents[2]


def parameters(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read():
    assert ray.__version__ == "2.60.0"


def test_the_direct_streaming_builder_takes_what_we_pass():
    wanted = {"llm_config", "deployment_cls", "bind_kwargs", "override_serve_options"}
    assert wanted <= parameters(builder._build_direct_streaming_llm_deployment)


def test_a_router_can_be_attached():
    assert parameters(Application._with_ingress_request_router) == {"self", "ingress_request_router"}


def test_the_server_builds_its_application_in_the_hook_that_we_extend():
    assert inspect.iscoroutinefunction(LLMServer.__serve_build_asgi_app__)
    assert inspect.iscoroutinefunction(VLLMEngine.build_asgi_app)
    assert "__serve_build_asgi_app__" in inspect.getsource(serve.ingress)


def test_the_engine_is_started_where_we_leave_out_the_usage_report():
    assert inspect.iscoroutinefunction(LLMServer._start_engine)
    assert "push_telemetry_report_for_all_models" in inspect.getsource(LLMServer._start_engine)
    assert inspect.getsource(LLMServer._start_engine).count("await") == 1


def test_a_model_that_is_here_is_not_looked_for_on_other_nodes():
    start = inspect.getsource(VLLMEngine.start)
    assert start.index('run_callback("on_before_node_init")') < start.index("if callback.ctx.run_init_node:")
    assert CallbackCtx().run_init_node
    model = {"model_id": "a model", "model_source": "/a/folder"}
    config = LLMConfig(model_loading_config=model, callback_config={"callback_class": ModelIsHere})
    assert isinstance(config.callback_config, CallbackConfig)
    callback = ModelIsHere(llm_config=None)
    asyncio.run(callback.on_before_node_init())
    assert not callback.ctx.run_init_node


def test_a_handle_chooses_a_replica_without_reserving_it():
    assert callable(DeploymentHandle._init)
    assert 'request_kwargs.pop("_reserve", True)' in inspect.getsource(AsyncioRouter)
    assert callable(ReplicaID.to_full_id_str)


def test_a_handle_shows_the_running_replicas_and_what_they_said_of_themselves():
    assert isinstance(AsyncioRouter.request_router, property)
    assert isinstance(RequestRouter.curr_replicas, property)
    for name in ("replica_id", "routing_stats", "backend_http_endpoint"):
        assert isinstance(getattr(RunningReplica, name), property)
    assert "self._asyncio_router = " in inspect.getsource(CurrentLoopRouter)
    assert RequestRouterConfig(request_routing_stats_period_s=1.0).request_routing_stats_period_s == 1.0


def test_one_replica_can_be_called_by_a_handle():
    assert "with_rejection" in parameters(RunningReplica.try_send_request)
    assert {"args", "kwargs", "metadata", "resolved"} <= parameters(PendingRequest)
    assert callable(DeploymentHandle._init_router_and_get_metadata)


def test_an_error_of_ours_in_another_replica_is_one_of_ours_here():
    """With what it says in `cause`: `LearnwareServer._explain` reads it there."""
    raised = RayTaskError("explain", "Traceback ...", pickle.loads(pickle.dumps(Overloaded("Too much.", 7))))
    error = raised.as_instanceof_cause()
    assert isinstance(error, Overloaded)
    assert (str(error.cause), error.cause.retry_after_s) == ("Too much.", 7)


def test_metrics_stay_in_the_replica_when_told():
    assert "log_engine_metrics" in LLMConfig.model_fields


@pytest.mark.parametrize("folder", ["serving", "router", "specs", "benchmarks"])
def test_no_other_module_imports_rays_private_packages(folder):
    """The few places to look at when Ray moves something."""
    allowed = {"serving/ray_internals.py", "router/ray_internals.py"}
    found = {
        str(path.relative_to(ROOT))
        for path in (ROOT / folder).rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ImportFrom) and node.module and node.module.startswith("ray.") and "._" in node.module
    }
    assert found <= allowed
