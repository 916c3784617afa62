"""Starts the whole stack on this machine, reports its progress, serves until a signal, and takes everything down again.

The order matters: the environment is set before Ray is imported (Ray 2.60 reads it then), ports are checked before
anything is started, and the learnwares are checked before the minute that an engine takes to start.
"""

import logging
import os
import threading
import time
from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import httpx

from router.choice import NO_CHOICE
from serving.access.keyring import keys_required
from serving.base_model import ensure_base_model
from serving.config import Config
from serving.launch.decision_lines import DecisionLines, socket_of
from serving.launch.deploy_process import Deployer, Deployment
from serving.launch.drain import StopSignals, stop_stack
from serving.launch.edge_settings import check_exposure, edge_settings
from serving.launch.environment import instance_environment
from serving.launch.haproxy_admin import unrouted, wait_until_routed
from serving.launch.instance import LOOPBACK, Instance, claim, local_url, plan, prepare
from serving.launch.local_key import admin_key, make_local_key
from serving.launch.market_setup import announce_market, market_folder
from serving.launch.start_failure import told
from serving.names import ENGINE
from serving.paths import cache_folder
from serving.requirements import check_folder, fill_market
from serving.tracing.logs import LOGS_VARIABLE
from specs.errors import StartupError

Say = Callable[[str], None]

START_DEADLINE_S = 900.0
"""Seconds that a start may take: loading an 8B model from a cold disk takes minutes; past a quarter of an hour
something is wrong."""

ROUTED_WAIT_S = 2.0
"""Seconds of one look at whether the proxy knows the router; short, so that Ctrl-C is heard in between."""

UNROUTED_DEADLINE_S = 120.0
"""How long the proxy may take to learn of running replicas; it takes a second or two. Past it, waiting is no use."""

_EXAMPLE = (
    "Is the sentiment of this financial news positive, neutral or negative? "
    "Operating profit rose to EUR 13.1 mn from EUR 8.7 mn."
)
"""The question in the printed curl command. It has no quotes, so that it survives every shell."""


def cluster_environment(config: Config) -> dict[str, str]:
    """Returns the variables that `ray start` must find on this node, for a Ray cluster that the operator starts.

    It also writes this node's HAProxy launcher, which one of the variables names.
    """
    check_exposure(config)
    instance = plan(config.http.host, config.http.port)
    prepare(instance, edge_settings(instance.host, config))
    return _environment(config, instance, one_machine=False)


def serve(config: Config, say: Say, *, strict: bool = False) -> int:
    """Starts the stack, serves until SIGINT or SIGTERM, drains. Returns the command's exit status. A learnware that
    cannot be served is said and left out; with `strict` it is an error.

    Raises:
        LearnwareError: something is wrong that the operator can mend; nothing is left running.
    """
    started = time.monotonic()
    check_exposure(config)
    instance = plan(config.http.host, config.http.port)
    with claim(instance, say) as claimed:
        os.environ.update(_environment(config, instance, one_machine=True))
        make_local_key(config, instance)
        prepare(instance, edge_settings(instance.host, config))  # with the key of this run, which the edge must know
        with (
            _printing(config, instance),
            Deployer() as deployer,
        ):  # imports what it needs while this process checks and prepares
            check_folder(config, market_folder(config))
            base = ensure_base_model(config.base_model.source, cache_folder(), say, config.base_model.revision)
            deployer.check(config, base)
            market = fill_market(config, market_folder(config), base, say, strict=strict)
            announce_market(claimed, config, market)
            signals = StopSignals()
            signals.install()
            try:
                _start(config, instance, base, market, deployer, signals, say)
                _wait_until_running(config, instance, signals.stop, say)
                if not signals.stop.is_set():
                    _announce(config, time.monotonic() - started, say)
                    signals.stop.wait()
            finally:
                stop_stack(instance, say=say, drain_seconds=config.drain_seconds, hurry=signals.hurry)
    return 0


def _environment(config: Config, instance: Instance, *, one_machine: bool) -> dict[str, str]:
    environment = instance_environment(instance, router_replicas=config.router.replicas, one_machine=one_machine)
    environment["VLLM_MAX_N_SEQUENCES"] = str(config.limits.max_choices)  # vLLM's own bound of `n`: 16,384
    environment[LOGS_VARIABLE] = config.traces.logs
    if config.engine.device == "cpu":
        environment["VLLM_CPU_KVCACHE_SPACE"] = f"{config.engine.kv_cache_gib:g}"
    return environment


def _start(
    config: Config, instance: Instance, base: Path, market: Path, deployer: Deployer, signals: StopSignals, say: Say
) -> None:
    say("starting Ray")
    import ray
    from ray import serve as ray_serve

    ray.init(
        address="local",  # never a cluster that RAY_ADDRESS happens to name
        # Engine replicas ask for one CPU each, routers for none. Ray counts, it does not confine: an engine's threads
        # use all cores.
        num_cpus=config.engine.replicas,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="warning",
    )
    _silence_the_driver()
    signals.install()  # over the handlers that ray.init has just set
    deployer.raise_if_ended()
    say("starting the proxy")
    ray_serve.start(
        # Where replicas listen: loopback, also when clients come from elsewhere. They reach HAProxy's frontend alone,
        # whose address `edge_settings` sets.
        http_options={"host": LOOPBACK, "port": config.http.port},
        logging_config={"enable_access_log": False, "encoding": config.traces.logs.upper()},
    )
    say(f"starting {config.engine.replicas} engine and {config.router.replicas} router replicas")
    exporter = f"http://127.0.0.1:{instance.ports.exporter}/metrics"
    address = ray.get_runtime_context().gcs_address
    lines = str(socket_of(instance)) if _prints(config) else None
    deployer.deploy(Deployment(config, base, market, address, exporter, lines), signals.stop)


def _prints(config: Config) -> bool:
    """Whether records of decisions are printed here."""
    return config.decisions.enabled and config.decisions.stdout


def _printing(config: Config, instance: Instance) -> AbstractContextManager[object]:
    return DecisionLines(socket_of(instance)) if _prints(config) else nullcontext()


def _silence_the_driver() -> None:
    """Silences Ray's own progress messages: they are in the logs below the run folder, and this process reports what
    matters."""
    for name in ("ray", "ray.serve"):
        logging.getLogger(name).setLevel(logging.ERROR)


def _wait_until_running(config: Config, instance: Instance, stop: threading.Event, say: Say) -> None:
    """Returns when every application runs and a request has come back through the router, or when `stop` is set.

    Raises:
        StartupError: an application failed, with the cause; the proxy does not know the router although every
            application runs, with what it knows instead; or the deadline passed.
    """
    from ray import serve as ray_serve

    deadline = time.monotonic() + START_DEADLINE_S
    running_since = float("inf")
    last = ""
    while not stop.wait(0.5):
        applications = ray_serve.status().applications
        for name, application in applications.items():
            if application.status in ("DEPLOY_FAILED", "UNHEALTHY"):
                raise StartupError(told(name, application, instance.folder))
        phase = _phase(applications)
        if phase != last:
            say(phase)
            last = phase
        running = all(application.status == "RUNNING" for application in applications.values())
        if running and wait_until_routed(instance, ROUTED_WAIT_S) and _answers(config):
            return
        now = time.monotonic()
        running_since = min(running_since, now) if running else float("inf")
        if now - running_since > UNROUTED_DEADLINE_S and (reason := unrouted(instance)):
            raise StartupError(
                f"every application runs, but the proxy sends no request through the router: {reason}. "
                f"Its configuration and Ray's logs are below {instance.folder}"
            )
        if now > deadline:
            raise StartupError(f"not ready after {START_DEADLINE_S:.0f} s; last: {phase}")


def _phase(applications: Any) -> str:
    waiting = [
        f"{deployment} ({status.status.lower()})"
        for application in applications.values()
        for deployment, status in application.deployments.items()
        if status.status != "HEALTHY"
    ]
    if not waiting:
        return "all replicas are up; checking with a request"
    what = ", ".join(sorted(waiting))
    return f"waiting for {what}" + ("; the engine loads the model, about 40 s" if ENGINE in what else "")


def _answers(config: Config) -> bool:
    """Returns whether requests for `auto` come back with a choice from every engine replica (the router takes them in
    turn), and the stack reports itself ready."""
    body = {"model": config.router.auto_names[0], "messages": [{"role": "user", "content": _EXAMPLE}], "max_tokens": 1}
    key = admin_key(config)
    headers = {"authorization": f"Bearer {key}"} if key else {}
    try:
        # The certificate is for the name by which clients come, and this comes by an address.
        with httpx.Client(base_url=local_url(config), headers=headers, timeout=60, verify=False) as client:  # noqa: S501
            for _ in range(config.engine.replicas):
                response = client.post("/v1/chat/completions", json=body)
                if response.status_code != 200 or response.headers.get("x-learnware-reason") in (None, NO_CHOICE):
                    return False
            return client.get("/v1/models").status_code == 200
    except httpx.HTTPError:
        return False


def _announce(config: Config, seconds: float, say: Say) -> None:
    url = local_url(config)
    key = " -H 'Authorization: Bearer YOUR_KEY'" if keys_required(config) else ""
    message = f'{{"role": "user", "content": "{_EXAMPLE}"}}'
    body = f'{{"model": "{config.router.auto_names[0]}", "messages": [{message}], "max_tokens": 8, "temperature": 0}}'
    say(f"ready after {seconds:.0f} s: {url}/v1  (Ctrl-C stops it)")
    say(f"try: curl -si {url}/v1/chat/completions -H 'Content-Type: application/json'{key} -d '{body}'")
