"""The middleware in front of an application that says what reached it."""

import pytest
from prometheus_client import CollectorRegistry

from serving.replica.admission import Admission
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.request_metrics import ReplicaMetrics
from tests.serving.replica.middleware_client import NAMES, SECRET, echo_app


@pytest.fixture
def registry():
    return CollectorRegistry()


@pytest.fixture
def app(registry):
    return LearnwareMiddleware(echo_app, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry))
