"""Checks the engine's arguments and hands the stack's applications to Ray Serve, in a process of its own:
`python -m serving.launch.deploy_process`.

Building the applications imports Ray Serve LLM and vLLM. That takes ten seconds and more, which pass here while Ray
starts, and half a gigabyte, which the process that afterwards only waits for a signal need not keep. Serve's
applications outlive the driver that deployed them.
"""

import os
import pickle
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, Self

from serving.config import Config
from serving.engine_check import say_for_the_starter, what_it_said
from specs.errors import LearnwareError, StartupError

POLL_S = 0.1
"""Seconds between two checks whether the process has ended."""


class EngineCheck(NamedTuple):
    """The arguments of `serving.engine_check.check_engine`: a checked configuration and the base model's folder."""

    config: Config
    base: Path


class Deployment(NamedTuple):
    """The arguments of a deployment: a checked configuration, the folders of base model and market, Ray's address,
    the URL of HAProxy's exporter, and the socket on which the launcher takes records of decisions, or None."""

    config: Config
    base: Path
    market: Path
    address: str
    exporter: str
    lines: str | None = None


class Deployer:
    """The process that deploys. It begins its imports when this object is made, so make it early; leaving the `with`
    block ends it."""

    def __init__(self) -> None:
        self._said = tempfile.TemporaryFile()  # noqa: SIM115 (closed in __exit__)
        self._process = subprocess.Popen(
            [sys.executable, "-m", "serving.launch.deploy_process"],
            stdin=subprocess.PIPE,
            stdout=self._said,
            stderr=subprocess.STDOUT,
            start_new_session=True,  # Ctrl-C reaches only the process that waits for it
            env=os.environ | {"VLLM_LOGGING_LEVEL": "ERROR"},
        )

    def check(self, config: Config, base: Path) -> None:
        """Has the process check the engine's arguments as soon as its imports are done, before it deploys. What is
        wrong with them `deploy` raises, and `raise_if_ended` once it is known."""
        self._send(EngineCheck(config, base))

    def raise_if_ended(self) -> None:
        """Raises what the process said if it has ended with an error.

        Raises:
            StartupError: it has; the message is its own, or the end of its output.
        """
        if self._process.poll():
            self._said.seek(0)
            said = what_it_said(self._said.read().decode(errors="replace"))
            raise StartupError(said or f"deploying ended with {self._process.returncode}")

    def _send(self, order: NamedTuple) -> None:
        assert self._process.stdin is not None
        with suppress(BrokenPipeError):  # it has ended, and said why
            pickle.dump(order, self._process.stdin)
            self._process.stdin.flush()

    def deploy(self, deployment: Deployment, stop: threading.Event) -> None:
        """Sends the deployment to the process. Returns when Serve has the applications (they start from then on), or
        when `stop` is set.

        Raises:
            StartupError: they could not be built or deployed; the message is the end of the process's output.
        """
        self._send(deployment)
        while self._process.poll() is None:
            if stop.wait(POLL_S):
                return
        self.raise_if_ended()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            with suppress(BrokenPipeError):
                self._process.stdin.close()
        self._said.close()


def _deploy(deployment: Deployment) -> None:
    import ray
    from ray import serve

    from serving.app import build_application
    from serving.applications.access import configured_access
    from serving.applications.console import ROUTE_PREFIX as CONSOLE_PREFIX, console_application
    from serving.applications.decisions import ROUTE_PREFIX as DECISIONS_PREFIX, decisions_application
    from serving.applications.market import ROUTE_PREFIX as MARKET_PREFIX
    from serving.applications.market_server import market_application
    from serving.applications.metrics import ROUTE_PREFIX, metrics_application
    from serving.applications.task_specs import ROUTE_PREFIX as TASKS_PREFIX, task_specs_application
    from serving.names import (
        APPLICATION,
        CONSOLE_APPLICATION,
        DECISIONS_APPLICATION,
        ENGINE,
        MARKET_APPLICATION,
        METRICS_APPLICATION,
        ROUTER,
        TASKS_APPLICATION,
    )

    config, base, market = deployment.config, deployment.base, deployment.market
    ray.init(address=deployment.address, log_to_driver=False, logging_level="warning")
    targets = [
        serve.RunTarget(build_application(config, base, market, on_loopback=True), name=APPLICATION, route_prefix="/"),
        serve.RunTarget(
            metrics_application(APPLICATION, [ENGINE, ROUTER], deployment.exporter, access=configured_access(config)),
            name=METRICS_APPLICATION,
            route_prefix=ROUTE_PREFIX,
        ),
        serve.RunTarget(
            market_application(config, base, market, on_loopback=True),
            name=MARKET_APPLICATION,
            route_prefix=MARKET_PREFIX,
        ),
        serve.RunTarget(
            task_specs_application(config, market, on_loopback=True), name=TASKS_APPLICATION, route_prefix=TASKS_PREFIX
        ),
    ]
    if config.decisions.enabled:
        log = decisions_application(config, market, on_loopback=True, lines=deployment.lines)
        targets.append(serve.RunTarget(log, name=DECISIONS_APPLICATION, route_prefix=DECISIONS_PREFIX))
    if config.console.enabled:
        console = console_application(config, deployment.exporter, on_loopback=True)
        targets.append(serve.RunTarget(console, name=CONSOLE_APPLICATION, route_prefix=CONSOLE_PREFIX))
    targets = [with_logs(target, config) for target in targets]
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def with_logs(target: Any, config: Config) -> Any:
    """Returns Ray Serve's `RunTarget` with the form of log lines in it, for those that Ray writes in a replica before
    its class is made (`serving.tracing.logs`)."""
    if config.traces.logs != "json":
        return target
    return type(target)(target.target, target.name, target.route_prefix, {"encoding": "JSON"})


def main() -> int:
    """Imports what a deployment needs, then waits on standard input for a pickled `EngineCheck`, if there is one, and
    a `Deployment`. The input's end before that means that the process which started this one has gone. Returns the
    exit status."""
    import serving.app  # noqa: F401 (what takes its time)
    from serving.engine_check import check_engine

    try:
        while True:
            order = pickle.load(sys.stdin.buffer)  # noqa: S301 (from the process that started this one)
            if isinstance(order, Deployment):
                _deploy(order)
                return 0
            check_engine(*order)
    except EOFError:
        return 0
    except LearnwareError as error:
        say_for_the_starter(error)
        return 1


if __name__ == "__main__":
    # Under its own name, so that what is pickled from here is found again on the replicas.
    from serving.launch.deploy_process import main as run

    sys.exit(run())
