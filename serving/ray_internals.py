"""Every use of Ray Serve LLM 2.60.0's private names on the serving side (the router's own are in
`router.ray_internals`).

`tests/serving/test_ray_seams.py` checks each of them, so that a Ray upgrade which moves one fails there and not in
production.
"""

import dataclasses
from collections.abc import Mapping
from typing import Any

from fastapi import FastAPI
from ray import serve
from ray.llm._internal.common.callbacks.base import CallbackBase
from ray.llm._internal.serve.core.ingress.builder import _build_direct_streaming_llm_deployment
from ray.llm._internal.serve.core.server.llm_server import LLMServer
from ray.llm._internal.serve.engines.vllm.vllm_engine import _normalize_vllm_engine_kwargs
from ray.serve.deployment import Application
from ray.serve.llm import LLMConfig
from starlette.middleware import Middleware

__all__ = [
    "EngineServer",
    "LLMConfig",
    "ModelIsHere",
    "add_middleware",
    "attach_router",
    "engine_application",
    "router_application",
    "vllm_argument_names",
    "vllm_configuration",
]


class ModelIsHere(CallbackBase):
    """Callback for `LLMConfig.callback_config` that skips Ray's download of the model, which is a local folder.

    Ray would find that out in a task of its own: a process that imports vLLM first, while the engine waits for it.
    """

    async def on_before_node_init(self) -> None:
        """Tells Ray to skip the initialisation of the node."""
        self.ctx.run_init_node = False


class EngineServer(LLMServer):
    """Ray Serve LLM's server without its usage report.

    Even with usage statistics off, `LLMServer._start_engine` starts a `TelemetryAgent` actor to collect them: a process
    of about 390 MB that imports vLLM for nothing.
    """

    async def _start_engine(self) -> None:
        assert self.engine is not None
        await self.engine.start()


def engine_application(
    config: LLMConfig, server: type[EngineServer], name: str, arguments: Mapping[str, Any]
) -> Application:
    """Builds the engine deployment, whose replicas HAProxy talks to directly; `arguments` are passed to the server's
    constructor."""
    return _build_direct_streaming_llm_deployment(
        config, deployment_cls=server, bind_kwargs=dict(arguments), override_serve_options={"name": name}
    )


def router_application(router: type, options: Mapping[str, Any], arguments: Mapping[str, Any]) -> Application:
    """Builds a deployment from a class that makes its ASGI application on the replica (`__serve_build_asgi_app__`)."""
    application: Application = serve.deployment(serve.ingress()(router), **options).bind(**arguments)
    return application


def attach_router(engine: Application, router: Application) -> Application:
    """Makes HAProxy ask `router` for a replica before each POST to `engine` (Ray's ingress request router)."""
    return engine._with_ingress_request_router(router)


def vllm_configuration(config: LLMConfig) -> tuple[Any, Any]:
    """Builds vLLM's configuration (`VllmConfig`) and front end's arguments (`FrontendArgs`) as the engine's start does
    (`VLLMEngine._prepare_engine_config`). Raises whatever vLLM raises."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs
    from vllm.usage.usage_lib import UsageContext

    engine = config.get_engine_config()
    arguments = _normalize_vllm_engine_kwargs(engine.get_initialization_kwargs())
    made = AsyncEngineArgs(**arguments).create_engine_config(usage_context=UsageContext.OPENAI_API_SERVER)
    return made, FrontendArgs(**engine.frontend_kwargs)


def vllm_argument_names() -> set[str]:
    """Returns the names of vLLM's engine and front-end arguments that Ray Serve LLM passes on."""
    from vllm.engine.arg_utils import AsyncEngineArgs
    from vllm.entrypoints.launchers.cli_args import FrontendArgs

    fields = {field.name for kind in (AsyncEngineArgs, FrontendArgs) for field in dataclasses.fields(kind)}
    return fields - {"model", "served_model_name"}


def add_middleware(app: FastAPI, middleware: type, **options: Any) -> None:
    """Adds the innermost middleware to vLLM's application, so that vLLM's own check of API keys comes first.

    vLLM builds its middleware stack early; without the cached stack Starlette builds it again at the next request.
    """
    app.user_middleware.append(Middleware(middleware, **options))
    app.middleware_stack = None
