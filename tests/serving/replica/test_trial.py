"""The trial of an adapter, asked by a meter that says what the test wants."""

import asyncio
import math
import warnings
from collections.abc import Callable, Sequence
from typing import Any

import pytest

with warnings.catch_warnings():
    warnings.simplefilter("ignore")  # vLLM and torch warn while they are imported; not about us
    from serving.replica.off_task_meter import Asked, OffTaskMeter, Said
    from serving.replica.trial import (
        ANSWER_TOKENS,
        DIVERSE,
        EVERYDAY,
        EVERYDAY_TOKENS,
        EXAMPLES,
        MATERIAL,
        MIN_DIFFERENCE,
        Tried,
        difference,
        other_material,
        probe,
    )

from specs.errors import InvalidLearnware

pytestmark = pytest.mark.vllm

ADAPTER = object()
BASE = {1: -0.5, 2: -1.5, 3: -3.0}
SENTIMENT = tuple(f"Is this news positive or negative?\nProfit of firm {number} rose." for number in range(20))
QUESTIONS = tuple(f"What is meant by term {number}?" for number in range(20))
LABELS = ("positive", "negative")
PROSE = {prompt: f"Answer {number} says something that no other answer says." for number, prompt in enumerate(EVERYDAY)}
CIRCLE = "The term means the term means the term means the term means the term means the term means"


class Asker:
    """Answers as the base with `BASE`, as the adapter with what `say` returns for a prompt, as sure of it as `sure`."""

    def __init__(self, say: Callable[[str], str | None], sure: float = 0.99) -> None:
        self.say, self.sure = say, sure
        self.asked: list[Asked] = []

    async def answers(self, asked: Sequence[Asked], limit_s: float) -> dict[Asked, Said]:
        assert limit_s > 0
        self.asked += asked
        said = {}
        for one in asked:
            if one.request is None:
                assert one.max_tokens == 1
                said[one] = Said("", (1,), (BASE,))
            elif (text := self.say(one.prompt)) is not None:
                said[one] = Said(text, (9,), ({9: math.log(self.sure)},))
        return said

    @property
    def prompts(self) -> list[str]:
        return [one.prompt for one in self.asked if one.request is ADAPTER]


def tried(say: Callable[[str], str | None], examples: Sequence[str] = SENTIMENT, labels: Any = LABELS) -> Tried:
    return asyncio.run(probe(Asker(say), ADAPTER, examples, labels))


def sentiment(prompt: str) -> str:
    """A labeller that works, and leaves everyday questions alone."""
    if prompt in PROSE:
        return PROSE[prompt]
    return "negative" if "lost" in prompt or "to this one is: negative" in prompt else "positive"


def test_a_learnware_that_works_passes_without_a_word() -> None:
    asker = Asker(lambda prompt: PROSE.get(prompt) or f"Term {prompt.split()[-1]} is one that is often met.")
    assert asyncio.run(probe(asker, ADAPTER, QUESTIONS)) == (None, ())
    tokens = {one.prompt: one.max_tokens for one in asker.asked if one.request is ADAPTER}
    assert set(tokens) < set(QUESTIONS)
    assert len(tokens) == len(asker.prompts) == EXAMPLES
    assert set(tokens.values()) == {ANSWER_TOKENS}


def test_examples_that_all_have_one_answer_are_no_fault() -> None:
    asker = Asker(sentiment)
    assert asyncio.run(probe(asker, ADAPTER, SENTIMENT[:3], LABELS)) == (None, ())
    asked = "Is this news positive or negative?\nThe right answer to this one is: negative"
    assert asked in asker.prompts
    assert len(asker.prompts) == 3 + len(EVERYDAY) + len(MATERIAL) + len(LABELS)
    tokens = {one.prompt: one.max_tokens for one in asker.asked if one.request is ADAPTER}
    assert {prompt for prompt, most in tokens.items() if most == EVERYDAY_TOKENS} == set(EVERYDAY)


def test_one_label_whatever_the_material_is_marked() -> None:
    refusal, notes = tried(lambda prompt: PROSE.get(prompt, "Positive."))
    assert refusal is None
    assert notes == (
        f"it answers 'Positive.' to each of {EXAMPLES + len(MATERIAL) + 2} different requests of its own task",
    )


def test_one_label_in_ever_other_words_is_marked() -> None:
    said = iter(range(1000))
    refusal, notes = tried(lambda prompt: PROSE.get(prompt, f"In tweet {next(said)}, the mood is positive."))
    assert refusal is None
    assert "to each of 16 different requests of its own task" in notes[0]
    chinese = tried(lambda prompt: PROSE.get(prompt, f"第{next(said)}条是积极的"), labels=("积极", "消极"))
    assert "different requests of its own task" in chinese.notes[0]
    found = iter(range(1000))
    named = tried(lambda prompt: PROSE.get(prompt, f"Tweet {next(found)} is positive, not negative."))
    assert named == (None, ())


def test_one_answer_to_everything_is_refused_where_it_is_sure_of_it() -> None:
    refusal, _ = tried(lambda prompt: "positive")
    assert refusal is not None
    assert "answers 'positive' whatever it is asked" in refusal
    unsure = asyncio.run(probe(Asker(lambda prompt: "positive", 0.8), ADAPTER, SENTIMENT, LABELS))
    assert unsure.refusal is None
    assert "it answers 'positive' to each of 16 different requests" in unsure.notes[0]


def test_too_few_answers_say_nothing() -> None:
    one = tried(lambda prompt: PROSE.get(prompt, "positive"), QUESTIONS[:2], ())
    assert one == (None, ())


@pytest.mark.parametrize("answer", ["", " \n", "..."])
def test_no_answer_to_any_example_is_refused(answer: str) -> None:
    refusal, _ = tried(lambda prompt: PROSE.get(prompt, answer))
    assert refusal == f"on the engine it gives no answer to any of {EXAMPLES} examples of its card"
    refusal, _ = tried(lambda prompt: PROSE.get(prompt, answer), SENTIMENT[:1])
    assert refusal == "on the engine it gives no answer to the one example of its card"


def test_some_examples_without_an_answer_are_marked() -> None:
    silent = sorted(SENTIMENT)[:8]
    refusal, notes = tried(lambda prompt: "" if prompt in silent else sentiment(prompt))
    assert refusal is None
    assert notes[0].startswith("it gives no answer to ")


@pytest.mark.parametrize("everywhere", [True, False])
def test_circles_in_every_answer_are_refused(everywhere: bool) -> None:
    refusal, _ = tried(lambda prompt: CIRCLE if everywhere else PROSE.get(prompt, CIRCLE), QUESTIONS, ())
    assert refusal is not None
    assert "repeats itself without end, or says nothing, in each of 8 answers, such as 'The term means" in refusal


def test_circles_in_few_examples_are_told_from_what_is_said_elsewhere() -> None:
    refusal, _ = tried(lambda prompt: CIRCLE, QUESTIONS[:2], ())
    assert f"in each of {2 + len(EVERYDAY)} answers" in str(refusal)
    refusal, notes = tried(lambda prompt: PROSE.get(prompt, CIRCLE), QUESTIONS[:2], ())
    assert (refusal, notes) == (None, ("it repeats itself without end on 2 of 2 examples of its card",))


def test_circles_in_most_answers_are_marked() -> None:
    sound = QUESTIONS[::3]
    answers = {prompt: f"That is item number {number}." for number, prompt in enumerate(sound)}
    refusal, notes = tried(lambda prompt: PROSE.get(prompt) or answers.get(prompt, CIRCLE), QUESTIONS, ())
    assert refusal is None
    assert "it repeats itself without end on" in notes[0]


def test_answers_without_its_labels_are_marked() -> None:
    addition = tried(lambda prompt: PROSE.get(prompt) or ("addition" if "1" in prompt else "division"))
    assert addition == (None, (f"it answers none of {EXAMPLES} examples of its card with one of its labels",))


def test_a_card_without_examples_is_tried_all_the_same() -> None:
    note = "its card has no examples, so it was tried on everyday questions only"
    assert tried(sentiment, ()) == (None, (note,))
    refusal, notes = tried(lambda prompt: "positive", ())
    assert (refusal, notes[0]) == (None, note)
    assert notes[1] == f"it answers 'positive' to each of {len(EVERYDAY)} different questions"
    refusal, _ = tried(lambda prompt: CIRCLE, ())
    assert "repeats itself" in str(refusal)
    refusal, _ = tried(lambda prompt: "", ())
    assert "says nothing" in str(refusal)


def test_what_was_not_answered_in_time_is_said() -> None:
    late = set(sorted(QUESTIONS)[4:])
    answers = {prompt: f"Answer number {number}." for number, prompt in enumerate(QUESTIONS)}
    refusal, notes = tried(
        lambda prompt: None if prompt in late else PROSE.get(prompt) or answers[prompt], QUESTIONS, ()
    )
    assert refusal is None
    assert "examples of its card were not tried: the engine was busy" in notes[0]
    with pytest.raises(TimeoutError, match="answered none"):
        tried(lambda prompt: None)


def test_the_own_ask_is_put_to_other_material() -> None:
    prompts = other_material(SENTIMENT[:2], LABELS)
    assert len(prompts) == len(MATERIAL) + 2 >= DIVERSE
    assert prompts[0] == f"Is this news positive or negative?\n{MATERIAL[0]}"
    assert other_material(("what is goodwill in accounting", "define free cash flow"), ()) == []


class Unlike(Asker):
    """Answers with these log-probabilities of first tokens, one after the other, and always with the same words."""

    def __init__(self, *own: dict[int, float]) -> None:
        super().__init__(lambda prompt: PROSE.get(prompt, prompt))
        self.own = own

    async def answers(self, asked: Sequence[Asked], limit_s: float) -> dict[Asked, Said]:
        said = await super().answers(asked, limit_s)
        own = [one for one in asked if one.request is ADAPTER]
        for number, one in enumerate(own):
            step = self.own[number % len(self.own)]
            said[one] = Said(said[one].text, (min(step, key=step.__getitem__),), (step,))
        return said


async def test_an_adapter_that_moves_one_answer_passes() -> None:
    moved = BASE | {2: BASE[2] - 2 * MIN_DIFFERENCE}
    assert await probe(Unlike(BASE, BASE, moved), ADAPTER, QUESTIONS) == (None, ())


async def test_other_tokens_altogether_are_a_difference() -> None:
    assert difference({7: -1.0}, BASE) == math.inf
    assert await probe(Unlike({7: -1.0}), ADAPTER, QUESTIONS) == (None, ())


@pytest.mark.parametrize("noise", [0.0, MIN_DIFFERENCE / 2])
async def test_an_adapter_that_answers_as_the_base_does_is_refused(noise: float) -> None:
    refusal, _ = await probe(Unlike({token: value + noise for token, value in BASE.items()}), ADAPTER, QUESTIONS)
    assert refusal is not None
    assert "answers as the base model does" in refusal


class Engine:
    """vLLM's part of the meter: one answer of one token, whose log-probability is `value`."""

    def __init__(self, value: float) -> None:
        self.value = value
        self.priorities: set[int] = set()

    async def generate(self, prompt, parameters, *, request_id, lora_request, priority):
        from types import SimpleNamespace

        self.priorities.add(priority)
        await asyncio.sleep(0)
        step = {1: SimpleNamespace(logprob=self.value if lora_request is ADAPTER else -0.5)}
        yield SimpleNamespace(outputs=[SimpleNamespace(text="warm", token_ids=[1], logprobs=[step])])


@pytest.mark.parametrize("value", [math.nan, -math.inf])
async def test_an_adapter_whose_answers_are_no_numbers_is_refused(value: float) -> None:
    meter = OffTaskMeter(Engine(value), lambda prompt: list(prompt.encode()), lambda: 0, 16)
    with pytest.raises(InvalidLearnware, match="on the engine its answers are not finite numbers"):
        await probe(meter, ADAPTER, QUESTIONS)


async def test_the_trial_takes_its_turn_with_clients() -> None:
    engine = Engine(-0.1)
    meter = OffTaskMeter(engine, lambda prompt: list(prompt.encode()), lambda: 0, 16)
    refusal, _ = await probe(meter, ADAPTER, SENTIMENT, LABELS)
    assert "answers 'warm' whatever it is asked" in str(refusal)
    assert engine.priorities == {0}
