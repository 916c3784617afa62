"""Builds the Ray Serve application from a configuration: engine replicas, and the router attached as their ingress
request router.

`learnware-serving serve` runs it; so do Ray's own `serve run` and `serve deploy`, with `import_path: serving.app:build`
and the configuration as argument (`serving.serve_file`). The environment that Ray reads at import must be set before
(`learnware-serving environment --config PATH` prints it).
"""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from ray.serve.deployment import Application

from router.deployment import LearnwareRouter
from router.options import RouterOptions
from serving.access.keyring import configured_keyring
from serving.base_model import EMBEDDED, EMBEDDED_SAMPLING, ensure_base_model
from serving.config import Config
from serving.config_sections import MIB
from serving.decisions.recorder import recorder_factory
from serving.names import ENGINE, ROUTER, is_allowed
from serving.paging.inflight import TimeLimits
from serving.paging.settings import PagingSettings
from serving.paths import cache_folder
from serving.processor import cpu_dtype
from serving.ray_internals import LLMConfig, ModelIsHere, attach_router, engine_application, router_application
from serving.replica.limits import ReplicaLimits
from serving.replica.server import LearnwareServer, ReplicaOptions
from serving.requirements import fill_market, market_requirements
from serving.serve_file import configured
from serving.signing import signing_secrets
from serving.tracing.replica import trace_vllm
from serving.tracing.router import RouterTracing
from serving.tracing.spans import TraceOptions

AUTO_FIT = -1
"""vLLM's `max_model_len` for the longest that fits (`vllm.v1.core.kv_cache_utils`)."""

STOP_POLL_S = 0.1
"""Seconds between two checks whether a stopping replica still has requests. Ray's default of 2 s adds to each stop, and
by then the drain has already waited for them."""

ROUTING_STATS_PERIOD_S = 1.0
"""Seconds between two requests of Serve's controller for a replica's routing statistics (Ray's default: 10 s). Each
answer that differs from the one before goes to all routers."""

HEALTH_CHECK_PERIOD_S = 1.0
"""Seconds between two health checks of an engine replica. Ray replaces it after three that failed
(`REPLICA_HEALTH_CHECK_UNHEALTHY_THRESHOLD`), and a hung engine is noticed within 8 s (`serving.replica.watchdog`): 15 s
leave room for both and for a busy controller."""
HEALTH_CHECK_TIMEOUT_S = 10.0
"""Seconds after which a health check that was not answered has failed. Longer than the period, since a front end that
is only busy should not be replaced, which costs a minute."""

ROUTER_OPTIONS = {
    # The router's own queue is the only one, since it bounds the wait and refuses; Ray's would hold requests back
    # silently before it.
    "max_ongoing_requests": 10_000,
    # Ray's default of 10 s delays the replacement of a crashed router by as much.
    "health_check_period_s": 1,
    "health_check_timeout_s": 5,
    "graceful_shutdown_wait_loop_s": STOP_POLL_S,
    # 0 CPUs: it lives beside the proxy on every node, also on a head node without resources.
    "ray_actor_options": {"num_cpus": 0},
}
"""Ray Serve's options for the router's deployment."""


def build(arguments: Mapping[str, Any]) -> Application:
    """Builds Ray Serve's application. `arguments` may hold `config`, a configuration's content or the path of its file;
    without it the defaults hold."""
    config = configured(arguments)
    base = ensure_base_model(config.base_model.source, cache_folder(), print, config.base_model.revision)
    # without a folder that all nodes share there is no market, but learnwares.folder as it is on each node
    folder = config.market.folder
    market = None if folder is None else fill_market(config, folder, base, print)
    return build_application(config, base, market, on_loopback=False)


def build_application(config: Config, base: Path, market: Path | None, *, on_loopback: bool) -> Application:
    """Builds the engine and the router for a checked configuration.

    Args:
        base: the base model's folder.
        market: the market's folder, which must be filled; None serves `learnwares.folder` as it is.
        on_loopback: all replicas are on this machine, so the ports that they open for each other stay on loopback.
    """
    secret, *others = signing_secrets(config.market.folder)
    router = config.router
    traces = trace_options(config)
    needed = market_requirements(config, base) if market is None else None
    decisions = config.decisions
    record = recorder_factory(vectors=decisions.vectors, prompts=decisions.prompts) if decisions.enabled else None
    replica = ReplicaOptions(
        base=config.base_model.served_id,
        auto_names=router.auto_names,
        learnwares=config.learnwares.path,
        market=market,
        secret=secret,
        other_secrets=tuple(others),
        on_loopback=on_loopback,
        base_on_load_failure=config.engine.on_load_failure == "base",
        base_without_choice=router.on_overload == "base",
        requirements=needed,
        keyring=configured_keyring(config),
        allowed=partial(is_allowed, more=config.http.more_paths),
        times=TimeLimits(config.limits.first_token_s, config.limits.between_tokens_s),
        stuck_step_s=config.engine.stuck_step_s,
        limits=ReplicaLimits(config.limits, config.http, config.engine.max_num_seqs, frozenset(router.auto_names)),
        record=record,
        traces=traces,
        shadow=config.shadow,
    )
    # A stack of one machine says at once why it cannot start; a cluster, where nodes fail, tries three times.
    tries = {"max_constructor_retry_count": 1} if on_loopback else {}
    engine_config = llm_config(config, base)
    engine_config.deployment_config.update(tries)
    engine = engine_application(engine_config, LearnwareServer, ENGINE, {"options": replica})
    options = RouterOptions(
        learnwares=config.learnwares.path,
        market=market,
        requirements=needed,
        base_model=base,
        auto_names=router.auto_names,
        deadline_ms=router.deadline_ms,
        max_wait_ms=router.max_wait_ms,
        on_overload=router.on_overload,
        selection=router.selection,
        conversation=router.conversation,
        request=router.request,
        placement=router.placement,
        record=record,
        watch=router_watch(config),
        learns=config.feedback.learn,
        explore=config.feedback.explore,
        on_loopback=on_loopback,
    )
    arguments = {"server": engine, "options": options, "secret": secret}
    return attach_router(
        engine, router_application(LearnwareRouter, {"name": ROUTER, **ROUTER_OPTIONS, **tries}, arguments)
    )


def trace_options(config: Config) -> TraceOptions | None:
    """Returns where spans go and how many requests are sampled; None where there are no spans."""
    endpoint = config.traces.otlp_endpoint
    return None if endpoint is None else TraceOptions(endpoint, config.traces.sample)


def router_watch(config: Config) -> Callable[[], RouterTracing] | None:
    """Returns what makes the watch over a router's requests; None where neither spans nor log lines need one."""
    traces = trace_options(config)
    return None if traces is None and config.traces.logs == "text" else partial(RouterTracing, traces)


def llm_config(config: Config, base: Path) -> LLMConfig:
    """Makes Ray Serve LLM's configuration of the engine."""
    engine = config.engine
    on_cpu = engine.device == "cpu"
    settings: dict[str, Any] = {
        "model_loading_config": {"model_id": config.base_model.served_id, "model_source": str(base)},
        "engine_kwargs": engine_arguments(config),
        "callback_config": {"callback_class": ModelIsHere},
        "deployment_config": {
            "num_replicas": engine.replicas,
            "max_ongoing_requests": engine.max_ongoing_requests,
            "graceful_shutdown_timeout_s": config.drain_seconds,
            "graceful_shutdown_wait_loop_s": STOP_POLL_S,
            "health_check_period_s": HEALTH_CHECK_PERIOD_S,
            "health_check_timeout_s": HEALTH_CHECK_TIMEOUT_S,
            "request_router_config": {"request_routing_stats_period_s": ROUTING_STATS_PERIOD_S},
            # The bundle below is what the replica asks of Ray; by default it would ask for one CPU more.
            "ray_actor_options": {"num_cpus": 0},
        },
        # vLLM's own metrics go to prometheus_client in the replica, where one scrape of ours finds them (False), and
        # not to Ray.
        "log_engine_metrics": False,
    }
    if on_cpu:
        settings["accelerator_config"] = {"kind": "cpu"}
        settings["placement_group_config"] = {"bundles": [{"CPU": 1}]}
        settings["runtime_env"] = {"env_vars": {"VLLM_CPU_KVCACHE_SPACE": f"{engine.kv_cache_gib:g}"}}
    elif engine.accelerator_type is not None:
        settings["accelerator_type"] = engine.accelerator_type
    return LLMConfig(**settings)


def engine_dtype(config: Config) -> str:
    """Returns vLLM's dtype. `auto` is decided here, where the application is built, because all nodes of a cluster
    should be alike."""
    engine = config.engine
    if engine.dtype != "auto":
        return engine.dtype
    return cpu_dtype() if engine.device == "cpu" else "bfloat16"


def engine_arguments(config: Config) -> dict[str, Any]:
    """Makes vLLM's engine and front-end arguments; `engine.options` of the configuration overrides each of them, but
    `additional_config` is merged."""
    engine = config.engine
    on_cpu = engine.device == "cpu"
    arguments: dict[str, Any] = {
        "dtype": engine_dtype(config),
        # vLLM's -1: the model's own context, or as much of it as the KV cache holds once the engine knows its size.
        "max_model_len": AUTO_FIT if engine.max_model_len is None else engine.max_model_len,
        "max_num_seqs": engine.max_num_seqs,
        "enable_lora": True,
        "max_loras": engine.slots,
        "max_lora_rank": engine.max_rank,
        "worker_cls": "serving.engine.worker.LearnwareCPUWorker"
        if on_cpu
        else "serving.engine.worker.LearnwareGPUWorker",
        "tensor_parallel_size": engine.tensor_parallel_size,
        # Compact JSON: a small model that may put blanks between tokens writes nothing else until its limit.
        "structured_outputs_config": {"backend": "xgrammar", "disable_any_whitespace": True},
        # vLLM would allow every page; the edge answers for CORS (`http.cors_origins`).
        "allowed_origins": [],
    }
    settings = PagingSettings(engine.patience_s, int(engine.host_adapter_mib * MIB), engine.pinned).as_config()
    arguments["additional_config"] = settings | dict(engine.options.get("additional_config", {}))
    if engine.scheduling == "paged":
        # vLLM schedules synchronously on CPU, asynchronously on CUDA unless it is told otherwise.
        synchronous = on_cpu or engine.options.get("async_scheduling") is False
        arguments["scheduler_cls"] = "serving.paging.scheduler." + (
            "PagedScheduler" if synchronous else "PagedAsyncScheduler"
        )
    if on_cpu:
        # With LoRA on CPU vLLM 0.29 never compiles (`platforms/cpu.py`), so eager only says what happens anyway.
        arguments["enforce_eager"] = True
    else:
        arguments["gpu_memory_utilization"] = engine.gpu_memory_utilization
    if config.base_model.source == EMBEDDED:
        # SmolLM2 writes tool calls in the Hermes form; without a parser vLLM refuses `tools` with `tool_choice: auto`.
        arguments |= {"enable_auto_tool_choice": True, "tool_call_parser": "hermes"}
        arguments["override_generation_config"] = dict(EMBEDDED_SAMPLING)
    if (traces := trace_options(config)) is not None:
        arguments |= trace_vllm(traces)
    options = {name: value for name, value in engine.options.items() if name != "additional_config"}
    return arguments | options
