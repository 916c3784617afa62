"""Serves one real engine over HTTP as a replica does: `health_engine.py ORDER.json PORT`.

vLLM's own application, behind the middleware that answers for the engine, the gate and the watchdog. Requests are
cancelled as Ray cancels them when their client hangs up. `/state` tells what the engine has and which processes there
are.
"""

import asyncio
import json
import logging
import sys
import types
from pathlib import Path
from typing import Any

import psutil
import uvicorn
from ray.serve._private.direct_ingress_http_util import ASGIDIReceiveProxy
from starlette.middleware import Middleware
from starlette.responses import JSONResponse
from vllm.engine.arg_utils import AsyncEngineArgs
from vllm.entrypoints.launchers.cli_args import make_arg_parser
from vllm.entrypoints.openai.api_server import build_app, init_app_state
from vllm.utils.argparse_utils import FlexibleArgumentParser
from vllm.v1.engine.async_llm import AsyncLLM

from serving.paging.gate import AdapterGate, open_gate
from serving.replica.answering import Answering
from serving.replica.vllm_metrics import leave_adapter_mixes_out
from serving.replica.watchdog import Watchdog, kill_engine


class Replica:
    """The outermost application."""

    def __init__(self, app: Any, gate: AdapterGate, watchdog: Watchdog) -> None:
        self.app, self.gate, self.watchdog = app, gate, watchdog

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        if scope["type"] != "http":
            return
        if scope["path"] == "/state":
            await self.state()(scope, receive, send)
            return
        proxy = ASGIDIReceiveProxy(scope, receive, asyncio.get_running_loop())
        gone = proxy.fetch_until_disconnect_task()
        request = asyncio.create_task(self.app(scope, proxy, send))
        await asyncio.wait([gone, request], return_when=asyncio.FIRST_COMPLETED)
        if not request.done():
            request.cancel()
        gone.cancel()
        await asyncio.gather(request, return_exceptions=True)

    def state(self) -> JSONResponse:
        (core,) = [one for one in psutil.Process().children() if "EngineCore" in _title(one)] or [None]
        scheduler = self.gate.residency.scheduler or {}
        return JSONResponse(
            {
                "entered": self.gate.entered,
                "running": scheduler.get("running"),
                "waiting": sum(scheduler.get("waiting", {}).values()),
                "failure": self.watchdog.failure,
                "core": core.pid if core else None,
                "workers": [one.pid for one in core.children(recursive=True)] if core else [],
            }
        )


def _title(process: psutil.Process) -> str:
    try:
        return " ".join(process.cmdline())
    except psutil.Error:
        return ""


async def serve(order: dict[str, Any], port: int) -> None:
    arguments = AsyncEngineArgs(**order["engine"])
    engine = AsyncLLM.from_engine_args(arguments)
    parsed = make_arg_parser(FlexibleArgumentParser()).parse_args([])
    for name, value in order["engine"].items():
        setattr(parsed, name, value)
    parsed.served_model_name = ["base"]
    app = build_app(parsed, await engine.get_supported_tasks(), engine.model_config)
    await init_app_state(engine, app.state, parsed, await engine.get_supported_tasks())
    app.state.server = types.SimpleNamespace()
    gate = await open_gate(engine)
    watchdog = Watchdog(gate, errored=lambda: engine.errored, kill=lambda: kill_engine(engine), stuck_step_s=120)
    watchdog.start()
    leave_adapter_mixes_out(engine)
    app.user_middleware.append(Middleware(Answering, failure=lambda: watchdog.failure))
    app.middleware_stack = None
    await uvicorn.Server(
        uvicorn.Config(Replica(app, gate, watchdog), port=port, lifespan="off", log_level="warning")
    ).serve()


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO)
    asyncio.run(serve(json.loads(Path(sys.argv[1]).read_text()), int(sys.argv[2])))
