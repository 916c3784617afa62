"""Hands the stack's applications to Ray Serve, in a process of its own: `python -m serving.launch.deploy_process`.

Building the applications imports Ray Serve LLM and vLLM. That takes ten seconds and more, which pass here while Ray
starts, and half a gigabyte, which the process that afterwards only waits for a signal need not keep. Serve's
applications outlive the driver that deployed them.
"""

import pickle
import subprocess
import sys
import tempfile
import threading
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import NamedTuple, Self

from serving.config import Config
from specs.errors import LearnwareError, StartupError

POLL_S = 0.1
"""Seconds between two checks whether the process has ended."""
SHOWN_LINES = 12
"""Number of last lines shown of the output of a deployment that failed."""


class Deployment(NamedTuple):
    """The arguments of a deployment: a checked configuration, the folders of base model and market, Ray's address, and
    the URL of HAProxy's exporter."""

    config: Config
    base: Path
    market: Path
    address: str
    exporter: str


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
        )

    def deploy(self, deployment: Deployment, stop: threading.Event) -> None:
        """Sends the deployment to the process. Returns when Serve has the applications (they start from then on), or
        when `stop` is set.

        Raises:
            StartupError: they could not be built or deployed; the message is the end of the process's output.
        """
        assert self._process.stdin is not None
        with suppress(BrokenPipeError), self._process.stdin as pipe:  # broken: it has ended, and said why
            pipe.write(pickle.dumps(deployment))
        while self._process.poll() is None:
            if stop.wait(POLL_S):
                return
        if self._process.returncode:
            self._said.seek(0)
            lines = self._said.read().decode(errors="replace").strip().splitlines()
            raise StartupError("\n".join(lines[-SHOWN_LINES:]) or f"deploying ended with {self._process.returncode}")

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._process.kill()
        self._process.wait()
        if self._process.stdin is not None:
            self._process.stdin.close()
        self._said.close()


def _deploy(deployment: Deployment) -> None:
    import ray
    from ray import serve

    from serving.app import build_application
    from serving.applications.access import configured_access
    from serving.applications.market import ROUTE_PREFIX as MARKET_PREFIX, market_application
    from serving.applications.metrics import ROUTE_PREFIX, metrics_application
    from serving.applications.task_specs import ROUTE_PREFIX as TASKS_PREFIX, task_specs_application
    from serving.names import APPLICATION, ENGINE, MARKET_APPLICATION, METRICS_APPLICATION, ROUTER, TASKS_APPLICATION

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
    serve.run_many(targets, wait_for_ingress_deployment_creation=False, wait_for_applications_running=False)


def main() -> int:
    """Imports what a deployment needs, then waits for a pickled `Deployment` on standard input. An empty input means
    that the process which started this one has gone. Returns the exit status."""
    import serving.app  # noqa: F401 (what takes its time)

    received = sys.stdin.buffer.read()
    if not received:
        return 0
    try:
        _deploy(pickle.loads(received))  # noqa: S301 (from the process that started this one)
    except LearnwareError as error:
        print(error, file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    # Under its own name, so that what is pickled from here is found again on the replicas.
    from serving.launch.deploy_process import main as run

    sys.exit(run())
