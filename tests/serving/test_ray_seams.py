"""The private names of Ray 2.60.0 that the project stands on: an upgrade that moves one fails here, by name."""

import ast
import asyncio
import inspect
import pickle
import types
from pathlib import Path
from typing import get_args, get_type_hints

import grpc
import psutil
import pytest
import ray
from ray import serve
from ray.exceptions import RayTaskError
from ray.llm._internal.common.callbacks.base import CallbackConfig, CallbackCtx
from ray.llm._internal.serve.core.ingress import builder
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import VLLMEngine
from ray.serve._private import replica as replicas
from ray.serve._private.common import ReplicaID
from ray.serve._private.constants import REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD
from ray.serve._private.replica_result import ActorReplicaResult, ReplicaResult, gRPCReplicaResult
from ray.serve._private.request_router.common import PendingRequest
from ray.serve._private.request_router.replica_wrapper import RunningReplica
from ray.serve._private.request_router.request_router import RequestRouter
from ray.serve._private.router import AsyncioRouter, CurrentLoopRouter
from ray.serve.config import RequestRouterConfig
from ray.serve.deployment import Application
from ray.serve.handle import DeploymentBroadcastResponse, DeploymentHandle
from ray.serve.llm import LLMConfig

from router.ray_internals import RayChanged, keep_grpc_on_loopback
from serving.ray_internals import ModelIsHere
from specs.errors import Overloaded

pytestmark = pytest.mark.vllm

ROOT = Path(__file__).parents[2]


def parameters(function) -> set[str]:
    return set(inspect.signature(function).parameters)


def test_the_version_is_the_one_that_was_read():
    assert ray.__version__ == "2.60.0"


def test_the_direct_streaming_builder_takes_what_we_pass():
    wanted = {"llm_config", "deployment_cls", "bind_kwargs", "override_serve_options"}
    assert wanted <= parameters(builder._build_direct_streaming_llm_deployment)


def test_three_failed_health_checks_replace_a_replica():
    """The periods of `serving.app` and `serving.applications.liveness` are made for that."""
    assert REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD == 3
    assert inspect.iscoroutinefunction(LLMServer.check_health)


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


def test_each_replicas_answer_to_a_broadcast_can_be_awaited_alone():
    fetch = DeploymentBroadcastResponse._fetch_replica_results_async
    assert inspect.iscoroutinefunction(fetch)
    assert parameters(fetch) == {"self"}
    assert get_args(get_type_hints(fetch)["return"]) == (ReplicaResult,)
    for result in (ReplicaResult, ActorReplicaResult, gRPCReplicaResult):
        assert inspect.iscoroutinefunction(result.get_async), result
        assert parameters(result.get_async) == {"self"}, result
    # the reason for this seam: once the public method awaits each replica by itself, the seam can go
    assert "timeout=remaining_timeout_s" in inspect.getsource(DeploymentBroadcastResponse.results_async)


@pytest.fixture
def unpatched(monkeypatch: pytest.MonkeyPatch):
    """Ray's own function, which is put back after the test."""
    assert not hasattr(replicas.add_port_to_grpc_server, "on_loopback")
    monkeypatch.setattr(replicas, "add_port_to_grpc_server", replicas.add_port_to_grpc_server)


async def start_of_a_replica(monkeypatch: pytest.MonkeyPatch) -> set[str]:
    """The addresses that listen after Ray's own start of a replica's gRPC server."""
    replica = object.__new__(replicas.Replica)
    replica._server = grpc.aio.server()

    async def no_direct_ingress() -> None:
        pass

    monkeypatch.setattr(replica, "_maybe_start_direct_ingress_servers", no_direct_ingress)
    monkeypatch.setattr(replica, "_set_internal_replica_context", lambda **_: None)
    monkeypatch.setattr(replica, "_user_callable_wrapper", types.SimpleNamespace(user_callable=None), raising=False)
    monkeypatch.setattr(replica, "_initialization_latency", 0.0, raising=False)
    context = types.SimpleNamespace(rank=None)
    monkeypatch.setattr(ray.serve.context, "_get_internal_replica_context", lambda: context)
    await replica._on_initialized()
    try:
        listening = [entry.laddr for entry in psutil.Process().net_connections("tcp") if entry.status == "LISTEN"]
        return {address.ip for address in listening if address.port == replica._internal_grpc_port}
    finally:
        await replica._server.stop(None)


async def test_a_replicas_grpc_port_is_on_loopback(monkeypatch, unpatched):
    """And on every interface without us: once Ray itself keeps it on the node's address, the seam can go."""
    assert await start_of_a_replica(monkeypatch) & {"::", "0.0.0.0"}
    keep_grpc_on_loopback()
    keep_grpc_on_loopback()
    (address,) = await start_of_a_replica(monkeypatch)
    assert address in {"127.0.0.1", "::ffff:127.0.0.1"}


def test_a_replica_that_opens_its_port_in_another_way_is_refused(monkeypatch, unpatched):
    async def opens_it_itself(self) -> None:
        self._internal_grpc_port = self._server.add_insecure_port("[::]:0")

    monkeypatch.setattr(replicas.Replica, "_on_initialized", opens_it_itself)
    with pytest.raises(RayChanged, match="the port would be open on every interface"):
        keep_grpc_on_loopback()
    monkeypatch.undo()
    monkeypatch.delattr(replicas, "add_port_to_grpc_server")
    with pytest.raises(RayChanged, match="add_port_to_grpc_server"):
        keep_grpc_on_loopback()


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
