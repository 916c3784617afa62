"""The trial of an adapter, on an engine that says what the test wants."""

import math
import warnings
from types import SimpleNamespace

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from serving.replica.trial import MIN_DIFFERENCE, PROBES, difference, probe

pytestmark = pytest.mark.vllm

ADAPTER = object()
BASE = {1: -0.5, 2: -1.5, 3: -3.0}


class Engine:
    """Answers with these log-probabilities; `own` is asked for each prompt."""

    def __init__(self, *own: dict[int, float]) -> None:
        self.own = own
        self.prompts: list[str] = []

    async def generate(self, prompt, parameters, *, request_id, lora_request):
        assert (parameters.temperature, parameters.max_tokens) == (0, 1)
        if lora_request is ADAPTER:
            self.prompts.append(prompt["prompt"])
            values = self.own[(len(self.prompts) - 1) % len(self.own)]
        else:
            values = BASE
        logprobs = [{token: SimpleNamespace(logprob=value) for token, value in values.items()}] if values else None
        yield SimpleNamespace(outputs=[])
        yield SimpleNamespace(outputs=[SimpleNamespace(logprobs=logprobs)])


async def test_an_adapter_that_moves_one_answer_passes():
    moved = BASE | {2: BASE[2] - 2 * MIN_DIFFERENCE}
    engine = Engine(BASE, BASE, moved)
    assert await probe(engine, ADAPTER, ("from the card",)) is None
    assert len(engine.prompts) == PROBES
    assert engine.prompts[0] == "from the card"


async def test_other_tokens_altogether_are_a_difference():
    assert difference({7: -1.0}, BASE) == math.inf
    assert await probe(Engine({7: -1.0}), ADAPTER, ()) is None


@pytest.mark.parametrize("noise", [0.0, MIN_DIFFERENCE / 2])
async def test_an_adapter_that_answers_as_the_base_does_is_refused(noise: float):
    refusal = await probe(Engine({token: value + noise for token, value in BASE.items()}), ADAPTER, ())
    assert refusal is not None
    assert "answers as the base model does" in refusal


@pytest.mark.parametrize("answer", [{}, {1: math.nan}, {1: -0.5, 2: -math.inf}])
async def test_an_adapter_whose_answers_are_no_numbers_is_refused(answer: dict[int, float]):
    assert "not finite numbers" in str(await probe(Engine(answer), ADAPTER, ()))
