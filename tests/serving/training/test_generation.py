"""Greedy answers of many prompts at once: what the plain model says one token at a time, made once and kept."""

import json
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from serving.training import generation
from serving.training.adapter import load_base
from serving.training.generation import (
    GreedyAnswer,
    base_answers,
    end_tokens,
    greedy_answers,
    verified_answers,
    weights_fingerprint,
)
from serving.training.loops import is_looping
from serving.training.rows import encode_prompt

LIMIT = 7


@pytest.fixture(scope="module")
def loaded(tiny_base: Path) -> tuple[Any, Any]:
    """Model in fp32, so that near ties do not turn with the shape of a batch, and tokenizer."""
    model, tokenizer = load_base(tiny_base, "cpu")
    return model.float(), tokenizer


@pytest.fixture(scope="module")
def prompts(loaded: tuple[Any, Any]) -> list[list[int]]:
    """Of very different lengths, in no order, one of them alone without the common beginning."""
    generator = random.Random(3)
    words = ["red", "small", "house", "the", "old", "blue", "car", "Is", "a", "green", "warm"]
    texts = [" ".join(generator.choices(words, k=generator.randint(1, 40))) for _ in range(21)]
    return [encode_prompt(text, loaded[1], 64) for text in texts]


def plainly(model: Any, prompt: list[int], limit: int, ends: frozenset[int]) -> tuple[list[int], float]:
    """One prompt, one token at a time, the whole text read again for each."""
    spoken: list[int] = []
    total = 0.0
    while len(spoken) < limit and not (spoken and spoken[-1] in ends):
        with torch.no_grad():
            log_probs = torch.log_softmax(model(torch.tensor([prompt + spoken])).logits[0, -1].float(), -1)
        spoken.append(int(log_probs.argmax()))
        total += float(log_probs.max())
    return spoken, total


def likelihood(model: Any, prompt: list[int], answer: list[int]) -> float:
    if not answer:
        return 0.0
    with torch.no_grad():
        log_probs = torch.log_softmax(model(torch.tensor([prompt + answer])).logits[0].float(), -1)
    return sum(float(log_probs[len(prompt) - 1 + n, token]) for n, token in enumerate(answer))


@pytest.mark.parametrize(("together", "a_pass"), [(48, 16), (8, 3), (1, 1)])
def test_many_prompts_get_what_each_gets_alone(
    loaded: tuple[Any, Any], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, together: int, a_pass: int
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr(generation, "ROWS_A_BATCH", together)
    monkeypatch.setattr(generation, "ROWS_A_PASS", a_pass)
    done: list[int] = []
    ends = end_tokens(model, tokenizer)
    answers = greedy_answers(model, tokenizer, prompts, LIMIT, done.append)
    for prompt, answer in zip(prompts, answers, strict=True):
        expected, total = plainly(model, prompt, LIMIT, ends)
        assert list(answer.tokens) == expected
        assert answer.log_likelihood == pytest.approx(total, abs=1e-3)
        assert answer.ended == (expected[-1] in ends)
    assert {answer.ended for answer in answers} == {True, False} or len({len(a.tokens) for a in answers}) > 1
    assert done == sorted(done)
    assert done[-1] == len(prompts)


@pytest.mark.parametrize("a_pass", [16, 3])
def test_drafts_change_nothing_but_what_is_read_of_them(
    loaded: tuple[Any, Any], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch, a_pass: int
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr(generation, "ROWS_A_PASS", a_pass)
    generator = random.Random(5)
    own = greedy_answers(model, tokenizer, prompts, LIMIT)
    drafts: list[list[int]] = []
    for number, answer in enumerate(own):
        draft = list(answer.tokens)
        if number % 4 == 1:  # agrees up to somewhere
            draft[generator.randrange(len(draft))] = generator.randrange(len(tokenizer))
        elif number % 4 == 2:  # agrees, and stops too early
            draft = draft[: generator.randrange(len(draft))]
        elif number % 4 == 3:
            draft = [generator.randrange(len(tokenizer)) for _ in range(generator.randint(1, LIMIT))]
        drafts.append(draft)
    verified = verified_answers(model, tokenizer, prompts, drafts, LIMIT)
    for prompt, draft, answer, found in zip(prompts, drafts, own, verified, strict=True):
        assert found.answer.tokens == answer.tokens
        assert found.answer.log_likelihood == pytest.approx(answer.log_likelihood, abs=1e-3)
        assert found.draft_log_likelihood == pytest.approx(likelihood(model, prompt, draft), abs=1e-3)


def test_the_base_is_asked_once_and_a_cut_file_loses_what_was_cut(
    loaded: tuple[Any, Any], prompts: list[list[int]], tiny_base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    weights = weights_fingerprint(tiny_base)
    first = base_answers(model, tokenizer, prompts[:9], weights, tmp_path, LIMIT)
    assert [a.tokens for a in first] == [a.tokens for a in greedy_answers(model, tokenizer, prompts[:9], LIMIT)]
    asked: list[int] = []
    plain = generation.greedy_answers

    def counting(model: Any, tokenizer: Any, some: Any, limit: int) -> list[GreedyAnswer]:
        asked.append(len(some))
        return plain(model, tokenizer, some, limit)

    monkeypatch.setattr(generation, "greedy_answers", counting)
    assert base_answers(model, tokenizer, prompts[8::-1], weights, tmp_path, LIMIT) == first[::-1]
    assert not asked
    base_answers(model, tokenizer, [*prompts[:11], prompts[0]], weights, tmp_path, LIMIT)
    assert asked == [2]
    (path,) = tmp_path.rglob("*.jsonl")
    lines = [line for line in path.read_bytes().splitlines() if line]
    path.write_bytes(b"\n".join(lines)[: -len(lines[-1]) // 2])
    base_answers(model, tokenizer, prompts[:11], weights, tmp_path, LIMIT)
    assert asked == [2, 1]
    again = base_answers(model, tokenizer, prompts[:11], weights, tmp_path, LIMIT)
    assert asked == [2, 1]
    assert [a.tokens for a in again[:9]] == [a.tokens for a in first]


def test_other_weights_and_other_limits_have_answers_of_their_own(
    loaded: tuple[Any, Any], prompts: list[list[int]], tiny_base: Path, tmp_path: Path
) -> None:
    model, tokenizer = loaded
    for weights, limit in (("a" * 64, 3), ("a" * 64, 5), ("b" * 64, 3)):
        answers = base_answers(model, tokenizer, prompts[:2], weights, tmp_path, limit)
        assert max(len(answer.tokens) for answer in answers) <= limit
    assert len(list(tmp_path.rglob("*.jsonl"))) == 3
    copy = tmp_path / "copy"
    copy.mkdir()
    for path in tiny_base.iterdir():
        (copy / path.name).write_bytes(path.read_bytes())
    assert weights_fingerprint(copy) == weights_fingerprint(tiny_base)
    (weights_file,) = copy.glob("*.safetensors")
    content = bytearray(weights_file.read_bytes())
    content[-1] ^= 1
    weights_file.write_bytes(bytes(content))
    assert weights_fingerprint(copy) != weights_fingerprint(tiny_base)


def test_an_answer_kept_before_another_process_wrote_the_same_is_the_one_that_counts(
    loaded: tuple[Any, Any], prompts: list[list[int]], tmp_path: Path
) -> None:
    model, tokenizer = loaded
    base_answers(model, tokenizer, prompts[:1], "c" * 64, tmp_path, LIMIT)
    (path,) = tmp_path.rglob("*.jsonl")
    item = json.loads(path.read_bytes())
    with path.open("a") as file:
        file.write(json.dumps(item | {"tokens": [1, 2, 3]}) + "\n")
    assert base_answers(model, tokenizer, prompts[:1], "c" * 64, tmp_path, LIMIT)[0].tokens == tuple(item["tokens"])


@pytest.mark.parametrize(
    ("tokens", "looping"),
    [
        ([7] * 12, True),
        ([7] * 11, False),
        ([1, 2, 3, 4] * 3, True),
        ([9, 9, 8, *[1, 2, 3, 4, 5, 6, 7, 8] * 3], True),
        ([1, 2, 3, 4, 5, 6, 7, 8] * 2, False),
        ([*[1, 2, 3] * 6, 4], False),
        (list(range(40)), False),
        ([], False),
    ],
)
def test_a_loop_is_a_piece_that_comes_again_and_again_at_the_end(tokens: list[int], looping: bool) -> None:
    assert is_looping(tokens) is looping


def test_an_answer_that_goes_round_in_a_circle_is_cut_short(
    loaded: tuple[Any, Any], prompts: list[list[int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    monkeypatch.setattr(generation, "end_tokens", lambda *_: frozenset())  # so it says its answer on and on
    whole = verified_answers(model, tokenizer, prompts[:6], [()] * 6, 40)
    cut = verified_answers(model, tokenizer, prompts[:6], [()] * 6, 40, stop_loops=True)
    assert all(len(one.answer.tokens) == 40 for one in whole)
    assert any(is_looping(one.answer.tokens) for one in whole)
    for long, short in zip(whole, cut, strict=True):
        length = len(short.answer.tokens)
        assert long.answer.tokens[:length] == short.answer.tokens
        assert length == 40 or is_looping(short.answer.tokens)
        assert not any(is_looping(long.answer.tokens[:n]) for n in range(length))
