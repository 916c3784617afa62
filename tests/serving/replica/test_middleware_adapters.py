"""Adapters that requests hold while they run, and who answers when one cannot be loaded."""

import asyncio
import json

import pytest
from starlette.applications import Starlette
from starlette.routing import Route

from router.choice import CHOICE_HEADER, RoutedChoice, encode_choice
from serving.replica.admission import Admission
from serving.replica.middleware import LearnwareMiddleware
from serving.replica.prompt_logprobs import PromptLogprobs
from serving.replica.request_metrics import ReplicaMetrics
from tests.serving.replica.middleware_client import NAMES, SECRET, TASK, Adapters, choice, echo, send


@pytest.mark.parametrize(("model", "held"), [("finance-tfns", ["finance-tfns@1"]), ("base-8b", [])])
def test_an_adapter_is_held_while_its_request_runs(registry, model, held):
    adapters = Adapters()
    app = LearnwareMiddleware(
        adapters.app, admission=Admission(NAMES), secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    assert send(app, {"model": model}).status_code == 200
    assert adapters.seen == [held]
    assert adapters.held == []


def test_a_load_failure_fails_its_own_request_with_the_reason(registry):
    adapters, admission = Adapters(), Admission(NAMES)
    app = LearnwareMiddleware(
        adapters.app, admission=admission, secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    response = send(app, {"model": "healthcare-pubmedqa"}, choice("healthcare-pubmedqa"))
    assert response.status_code == 503
    assert response.json()["error"] == {
        "message": "The adapter of 'healthcare-pubmedqa@1' could not be loaded: no such file",
        "type": "service_unavailable",
        "param": None,
        "code": "adapter_unavailable",
    }
    assert adapters.seen == []
    asyncio.run(asyncio.wait_for(admission.unused("healthcare-pubmedqa@1"), 1))
    assert send(app, {"model": "finance-tfns"}).status_code == 200


@pytest.mark.parametrize(
    ("after", "who", "reason"),
    [
        (None, "base-8b", "base:not-loaded"),
        ("gone-meanwhile", "base-8b", "base:not-loaded"),
        ("finance-tfns", "finance-tfns", "matched:next"),
    ],
)
def test_when_the_choice_cannot_be_loaded_the_next_best_answers(registry, after, who, reason):
    adapters, admission = Adapters(), Admission(NAMES)
    app = LearnwareMiddleware(
        adapters.app, admission=admission, secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    routed = RoutedChoice("healthcare-pubmedqa", "matched", 0.875, 0.42, after)
    response = send(app, {"model": "auto"}, {CHOICE_HEADER: encode_choice(routed, SECRET)})
    assert response.status_code == 200
    assert json.loads(response.json()["body"]) == {"model": who}
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == (who, reason)
    assert adapters.seen == [[NAMES.learnwares[who]] if who in NAMES.learnwares else []]
    assert registry.get_sample_value("learnware_requests_total", {"learnware": who, "reason": reason}) == 1
    asyncio.run(asyncio.wait_for(admission.unused("healthcare-pubmedqa@1"), 1))


def test_when_neither_the_choice_nor_the_next_best_can_be_loaded_the_base_model_answers(registry):
    adapters = Adapters()
    names = NAMES._replace(learnwares=NAMES.learnwares | {"other": "healthcare-pubmedqa@1"})
    app = LearnwareMiddleware(
        adapters.app, admission=Admission(names), secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    routed = RoutedChoice("healthcare-pubmedqa", "matched", 0.875, 0.42, "other")
    response = send(app, {"model": "auto"}, {CHOICE_HEADER: encode_choice(routed, SECRET)})
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("base-8b", "base:not-loaded")


def test_when_the_choice_is_not_served_here_the_next_best_answers(app):
    routed = RoutedChoice("withdrawn-yesterday", "matched", 0.875, 0.42, "finance-tfns")
    response = send(app, {"model": "auto"}, {CHOICE_HEADER: encode_choice(routed, SECRET)})
    assert json.loads(response.json()["body"])["model"] == "finance-tfns"
    assert response.headers["x-learnware-reason"] == "matched:next"


@pytest.mark.parametrize("served", [True, False])
@pytest.mark.parametrize("reason", ["matched", "session", "task", "matched:explore"])
def test_where_a_canary_cannot_be_loaded_or_is_not_there_its_learnware_answers(registry, reason, served):
    adapters = Adapters()
    canary = {"finance-tfns@canary": "healthcare-pubmedqa@1"} if served else {}
    names = NAMES._replace(learnwares=NAMES.learnwares | canary)
    app = LearnwareMiddleware(
        adapters.app, admission=Admission(names), secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    routed = RoutedChoice("finance-tfns@canary", f"{reason}:canary", 0.875, 0.42, "finance-tfns")
    headers = {CHOICE_HEADER: encode_choice(routed, SECRET)}
    response = send(app, {"model": TASK if reason == "task" else "auto"}, headers)
    assert json.loads(response.json()["body"]) == {"model": "finance-tfns"}
    assert response.headers["x-learnware-reason"] == f"{reason}:canary:next"
    assert adapters.seen == [["finance-tfns@1"]]


def test_a_canary_answers_under_its_own_id_by_choice_and_by_name(registry):
    names = NAMES._replace(learnwares=NAMES.learnwares | {"finance-tfns@canary": "finance-tfns@canary@2"})
    adapters = Adapters()
    app = LearnwareMiddleware(
        adapters.app, admission=Admission(names), secret=SECRET, metrics=ReplicaMetrics(registry), hold=adapters.hold
    )
    routed = RoutedChoice("finance-tfns@canary", "matched:canary", 0.875, 0.42, "finance-tfns")
    response = send(app, {"model": "auto"}, {CHOICE_HEADER: encode_choice(routed, SECRET)})
    named = send(app, {"model": "finance-tfns@canary"})
    for answer, reason in ((response, "matched:canary"), (named, "named")):
        assert json.loads(answer.json()["body"]) == {"model": "finance-tfns@canary"}
        found = (answer.headers["x-learnware"], answer.headers["x-learnware-reason"])
        assert found == ("finance-tfns@canary", reason)
    assert adapters.seen == [["finance-tfns@canary@2"]] * 2
    canary = {"learnware": "finance-tfns@canary", "reason": "matched:canary"}
    assert registry.get_sample_value("learnware_requests_total", canary) == 1


def test_after_a_load_failure_the_base_model_answers_where_the_configuration_says_so(registry):
    adapters = Adapters()
    app = LearnwareMiddleware(
        adapters.app,
        admission=Admission(NAMES),
        secret=SECRET,
        metrics=ReplicaMetrics(registry),
        hold=adapters.hold,
        base_on_load_failure=True,
    )
    response = send(app, {"model": "healthcare-pubmedqa", "messages": []})
    assert response.status_code == 200
    assert json.loads(response.json()["body"]) == {"model": "base-8b", "messages": []}
    assert (response.headers["x-learnware"], response.headers["x-learnware-reason"]) == ("base-8b", "base:not-loaded")
    assert registry.get_sample_value("learnware_fallbacks_total", {"reason": "base:not-loaded"}) == 1


@pytest.mark.parametrize("model", ["base-8b", "finance-tfns", "auto"])
def test_prompt_logprobs_are_refused_whoever_is_asked_while_an_adapter_of_lm_head_is_there(registry, model):
    guard = PromptLogprobs()
    inner = Starlette(routes=[Route("/v1/chat/completions", echo, methods=["POST"])])
    admission = Admission(NAMES)
    app = LearnwareMiddleware(
        inner, admission=admission, secret=SECRET, metrics=ReplicaMetrics(registry), prompt_logprobs=guard
    )
    asking = {"model": model, "prompt_logprobs": 1}
    assert send(app, asking, choice()).status_code == 200
    asyncio.run(guard.exclude("healthcare-pubmedqa@1"))
    response = send(app, asking, choice())
    assert response.status_code == 400
    error = response.json()["error"]
    assert error["type"] == "invalid_request_error"
    assert "adapts lm_head" in error["message"]
    assert "healthcare-pubmedqa" in error["message"]
    assert send(app, {"model": model, "logprobs": True}, choice()).status_code == 200
    asyncio.run(asyncio.wait_for(admission.unused("finance-tfns@1"), 1))
    guard.include("healthcare-pubmedqa@1")
    assert send(app, asking, choice()).status_code == 200
