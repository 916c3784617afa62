"""Requests that leave the choice to the router, with a choice, with none, and with one that cannot be used."""

import json

import pytest
from prometheus_client import CollectorRegistry
from starlette.applications import Starlette
from starlette.routing import Route

from router.choice import MATCHED, RESIDENT
from serving.replica.admission import Admission
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.request_metrics import ReplicaMetrics
from tests.serving.replica.middleware_client import NAMES, SECRET, TASK, choice, echo, echo_app, failed, send


@pytest.mark.parametrize("model", ["auto", TASK])
@pytest.mark.parametrize(
    ("headers", "status", "code", "reason"),
    [
        ({}, 503, "router_unavailable", "base:no-choice"),
        (choice(secret=b"x" * 32), 503, "router_unavailable", "base:no-choice"),
        (failed("router_non_200"), 503, "router_unavailable", "base:router-unreachable"),
        (failed("router_unreachable"), 429, "router_overloaded", "base:router-timeout"),
        (failed("router_timeout"), 429, "router_overloaded", "base:router-timeout"),
        (choice(None, "base:router-overload"), 429, "router_overloaded", "base:router-overload"),
    ],
)
def test_without_a_choice_the_base_answers_only_where_the_configuration_says_so(
    registry, model, headers, status, code, reason
):
    for base_answers in (True, False):
        app = LearnwareMiddleware(
            echo_app,
            admission=Admission(NAMES),
            secret=SECRET,
            metrics=ReplicaMetrics(CollectorRegistry()),
            base_without_choice=base_answers,
        )
        response = send(app, {"model": model, "messages": []}, headers)
        if base_answers:
            assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("base-8b", reason)
        else:
            assert (response.status_code, response.json()["error"]["code"]) == (status, code)
            assert int(response.headers["retry-after"]) >= 1
        assert send(app, {"model": "finance-tfns"}, headers).headers["x-learnware"] == "finance-tfns"
        assert send(app, {"messages": []}, headers).headers["x-learnware-reason"] == "base:no-model"


@pytest.mark.parametrize("reason", ["base:low-confidence", "base:router-deadline", "base:router-error", "base:better"])
def test_a_choice_of_the_base_is_a_choice(registry, reason):
    app = LearnwareMiddleware(
        echo_app, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry), base_without_choice=False
    )
    response = send(app, {"model": "auto"}, choice(None, reason))
    assert (response.status_code, response.headers["x-learnware-reason"]) == (200, reason)


@pytest.mark.parametrize("base_answers", [True, False])
def test_what_generates_nothing_needs_no_choice_and_is_not_counted(registry, base_answers):
    inner = Starlette(routes=[Route("/tokenize", echo, methods=["POST"])])
    app = LearnwareMiddleware(
        inner,
        admission=Admission(NAMES),
        secret=SECRET,
        metrics=ReplicaMetrics(registry),
        base_without_choice=base_answers,
    )
    for model, answers in (("auto", "base-8b"), (TASK, "base-8b"), ("finance-tfns", "finance-tfns")):
        response = send(app, {"model": model, "prompt": "x"}, path="/tokenize")
        assert json.loads(response.json()["body"])["model"] == answers
        assert response.headers["x-learnware"] == answers
    assert response.headers["x-learnware-reason"] == "named"
    samples = [sample for family in registry.collect() for sample in family.samples]
    assert not [sample for sample in samples if sample.name.endswith("_total") and sample.value]


def test_a_task_is_answered_by_the_learnware_chosen_for_it(app):
    response = send(app, {"model": TASK, "messages": []}, choice(reason="task"))
    assert json.loads(response.json()["body"])["model"] == "finance-tfns"
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("finance-tfns", "task")


def test_an_unknown_task_is_a_404_that_says_what_to_do(app):
    response = send(app, {"model": TASK}, choice(None, "base:unknown-task"))
    error = response.json()["error"]
    assert (response.status_code, error["code"], error["type"]) == (404, "model_not_found", "invalid_request_error")
    assert f"no task '{TASK}'" in error["message"]
    assert "spec make" in error["message"]
    assert "/v1/task-specs" in error["message"]


@pytest.mark.parametrize(
    ("headers", "reason"),
    [
        ({}, "base:no-choice"),
        (choice(None, "base:low-confidence"), "base:low-confidence"),
        (choice(reason="matched"), "base:no-choice"),
        (choice(reason=MATCHED + RESIDENT), "base:no-choice"),
        (choice("withdrawn-yesterday", "task"), "base:not-served"),
    ],
)
def test_a_task_without_a_choice_of_its_own_is_answered_by_the_base(app, headers, reason):
    response = send(app, {"model": TASK}, headers)
    assert json.loads(response.json()["body"])["model"] == "base-8b"
    assert response.headers["x-learnware-reason"] == reason
