"""The engine's arguments that follow from a configuration."""

from typing import Any

import pytest

pytest.importorskip("vllm")
pytest.importorskip("ray.serve")

from vllm.entrypoints.openai.chat_completion.protocol import ChatCompletionRequest
from vllm.entrypoints.openai.completion.protocol import CompletionRequest
from vllm.entrypoints.openai.responses.protocol import ResponsesRequest

from serving.app import engine_arguments
from serving.base_model import EMBEDDED_SAMPLING
from serving.config import Config

pytestmark = [pytest.mark.vllm, pytest.mark.slow]


def arguments(engine: dict[str, Any] | None = None, **others: Any) -> dict[str, Any]:
    return engine_arguments(Config.model_validate({"engine": engine or {}, **others}))


def test_the_context_is_the_models_own_unless_one_is_named() -> None:
    assert arguments()["max_model_len"] == -1
    assert arguments({"max_model_len": 1024})["max_model_len"] == 1024


def test_the_front_door_alone_answers_for_keys_and_browsers() -> None:
    made = arguments(api_keys=["secret"])
    assert made["allowed_origins"] == []
    assert "api_key" not in made


def test_the_embedded_base_has_a_sane_temperature_that_options_change() -> None:
    assert arguments()["override_generation_config"] == {"temperature": 0.2, "top_p": 0.9}
    neutral = {"override_generation_config": {"temperature": 1.0}}
    assert arguments({"options": neutral})["override_generation_config"] == {"temperature": 1.0}
    assert "override_generation_config" not in arguments(base_model={"source": "/a/folder"})


@pytest.mark.parametrize(
    ("request_class", "body"),
    [
        (ChatCompletionRequest, {"messages": [{"role": "user", "content": "a"}]}),
        (CompletionRequest, {"prompt": "a"}),
        (ResponsesRequest, {"input": "a"}),
    ],
)
def test_vllm_takes_the_defaults_where_a_request_says_nothing(request_class: Any, body: dict[str, Any]) -> None:
    silent = request_class(**body).to_sampling_params(16, EMBEDDED_SAMPLING)
    assert (silent.temperature, silent.top_p) == (0.2, 0.9)
    explicit = request_class(**body, temperature=0.7, top_p=1.0).to_sampling_params(16, EMBEDDED_SAMPLING)
    assert (explicit.temperature, explicit.top_p) == (0.7, 1.0)
    greedy = request_class(**body, temperature=0).to_sampling_params(16, EMBEDDED_SAMPLING)
    assert (greedy.temperature, greedy.top_p) == (0.0, 1.0)
