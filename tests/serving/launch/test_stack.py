"""The start of a stack whose applications run while the proxy does not learn of them."""

import threading
from types import SimpleNamespace

import pytest

pytest.importorskip("ray.serve")

from ray import serve

from serving.config import Config
from serving.launch import stack
from serving.launch.instance import plan
from specs.errors import StartupError


@pytest.mark.slow
def test_applications_that_run_without_being_routed_end_the_start_with_the_reason(monkeypatch: pytest.MonkeyPatch):
    """Instead of a wait for `START_DEADLINE_S` that ends in `not ready`."""
    running = SimpleNamespace(applications={"learnware": SimpleNamespace(status="RUNNING", deployments={})})
    monkeypatch.setattr(serve, "status", lambda: running)
    monkeypatch.setattr(stack, "ROUTED_WAIT_S", 0.01)
    monkeypatch.setattr(stack, "UNROUTED_DEADLINE_S", 0.1)
    instance = plan("127.0.0.1", 18_099)
    with pytest.raises(StartupError, match=r"no request through the router: no HAProxy answers.*are below /"):
        stack._wait_until_running(Config(), instance, threading.Event(), lambda _: None)


def test_the_printed_address_is_one_that_this_machine_reaches() -> None:
    said: list[str] = []
    stack._announce(Config.model_validate({"http": {"host": "::", "tls_certificate": "door.pem"}}), 1.0, said.append)
    ready, example = said
    assert "https://127.0.0.1:8000/v1 " in ready
    assert "curl -si https://127.0.0.1:8000/v1/chat/completions" in example
