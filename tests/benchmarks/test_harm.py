"""Harm: who answers worse than the base model, and that a broken-off measurement goes on."""

import json
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from aiohttp import web
from aiohttp.test_utils import TestServer

from benchmarks.common.cases import Starters
from benchmarks.common.questions import prompt_hash
from benchmarks.common.scores import TaskScores
from benchmarks.common.tasks import data_folder
from benchmarks.harm.answers import KeptAnswers, base_model_of, routed_by
from benchmarks.harm.evaluate import OURS, Routed, figures_of, flat, harmed, judged, write_choices
from benchmarks.harm.requests import FreeForm, read_requests, sample_of
from specs.answers.degenerate import Fault
from specs.errors import InvalidInput

BASE_ID = "small"
SENTENCE = "Bonds usually gain when interest rates fall, since their coupons are worth more."
ANSWERS = {
    "labeller": "neutralneutralneutral",
    "speaker": "When rates fall, bonds tend to rise in price.",
    BASE_ID: SENTENCE,
}


class Stack:
    """What `benchmarks.harm` needs of a running stack."""

    def __init__(self) -> None:
        self.asked: list[tuple[str, str]] = []
        self.refuse_next = 0
        self.refused = 0

    def app(self) -> web.Application:
        app = web.Application()
        app.router.add_post("/v1/chat/completions", self._answer)
        app.router.add_post("/v1/route", self._route)
        app.router.add_get("/v1/models", self._models)
        return app

    async def _answer(self, request: web.Request) -> web.Response:
        body = await request.json()
        assert (body["temperature"], body["max_tokens"]) == (0, 48)
        if self.refuse_next:
            self.refuse_next -= 1
            self.refused += 1
            return web.json_response({}, status=429, headers={"Retry-After": "0"})
        if body["model"] not in ANSWERS:
            return web.json_response({"error": "no such model"}, status=404)
        self.asked.append((body["messages"][0]["content"], body["model"]))
        return web.json_response({"choices": [{"message": {"content": ANSWERS[body["model"]]}}]})

    async def _route(self, request: web.Request) -> web.Response:
        prompt = (await request.json())["messages"][0]["content"]
        return web.json_response({"learnware": "speaker" if "bond" in prompt else None})

    async def _models(self, _: web.Request) -> web.Response:
        cards: list[dict[str, Any]] = [{"id": BASE_ID, "parent": None}, {"id": "speaker", "parent": BASE_ID}]
        return web.json_response({"data": cards})


@pytest.fixture
async def stack() -> AsyncIterator[tuple[Stack, str]]:
    made = Stack()
    async with TestServer(made.app()) as server:
        yield made, str(server.make_url(""))


async def test_answers_are_asked_for_once_and_kept(stack: tuple[Stack, str], tmp_path: Path) -> None:
    made, url = stack
    file = tmp_path / "answers.jsonl"
    wanted = [("Bonds?", "speaker"), ("Bonds?", BASE_ID), ("Bonds?", "speaker")]
    await KeptAnswers(url, file).fetch(wanted)
    assert sorted(made.asked) == [("Bonds?", BASE_ID), ("Bonds?", "speaker")]
    later = KeptAnswers(url, file)
    await later.fetch([*wanted, ("Gold?", BASE_ID)])
    assert len(made.asked) == 3
    assert later.of("Bonds?", "speaker") == ANSWERS["speaker"]


async def test_a_stack_that_is_busy_is_asked_again_and_an_unknown_model_is_an_error(stack: tuple[Stack, str]) -> None:
    made, url = stack
    made.refuse_next = 2
    answers = KeptAnswers(url, None)
    await answers.fetch([("Bonds?", BASE_ID)])
    assert (made.refused, answers.of("Bonds?", BASE_ID)) == (2, SENTENCE)
    with pytest.raises(InvalidInput, match="answered 404"):
        await answers.fetch([("Bonds?", "nobody")])


async def test_the_stack_says_who_is_chosen_and_what_the_base_is(stack: tuple[Stack, str]) -> None:
    _, url = stack
    assert await routed_by(url, ["a bond?", "a poem"]) == ["speaker", None]
    assert await base_model_of(url) == BASE_ID


async def test_a_label_for_a_question_is_harm_and_a_sentence_is_not(stack: tuple[Stack, str]) -> None:
    _, url = stack
    found = [
        Routed(FreeForm("users", "Should I buy bonds?"), "labeller"),
        Routed(FreeForm("users", "Why do bonds rise?"), "speaker"),
        Routed(FreeForm("own", "A poem, please."), None),
    ]
    answers = KeptAnswers(url, None)
    await answers.fetch(
        [(one.request.prompt, name) for one in found if one.learnware for name in (one.learnware, BASE_ID)]
    )
    verdicts = judged(found, answers, BASE_ID, {"labeller": ("neutral", "positive")}, {})
    assert [one.fault for one in verdicts] == [Fault.CIRCLE, None]
    figures = flat(figures_of(OURS, found, verdicts))
    assert figures["routed_share"] == pytest.approx(2 / 3)
    assert figures["routed_requests"] == 2
    assert figures["harm_share"] == 0.5
    assert 0.5 < figures["harm_share_upper_95"] < 1
    assert (figures["routed_share_own"], "harm_share_own" in figures) == (0.0, False)
    (shown,) = harmed(verdicts, answers, BASE_ID)
    assert (shown["answer"], shown["base"]) == (ANSWERS["labeller"], SENTENCE)


def test_where_there_is_a_reference_a_less_likely_one_is_harm() -> None:
    gold = {"base": np.array([-1.0, -1.0, -1.0]), "speaker": np.array([-0.5, -1.05, -1.2])}
    scores = {"finance-fiqa_qa": TaskScores([0, 2, 5], {}, gold, {})}
    found = [Routed(FreeForm("fiqa", f"q{row}", "finance-fiqa_qa", row), "speaker") for row in (0, 1, 2, 5)]
    verdicts = judged(found, None, "", {}, scores)
    assert [one.routed.request.row for one in verdicts] == [0, 2, 5]  # row 1 was not scored
    assert [one.is_harmed for one in verdicts] == [False, False, True]
    figures = flat(figures_of("by domain alone", found, verdicts))
    assert figures["by_domain_alone_less_likely_share"] == pytest.approx(1 / 3)


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "other.jsonl"
    file.write_text('{"text": 1}\n')
    with pytest.raises(InvalidInput, match=r"no answers of benchmarks\.harm"):
        KeptAnswers("http://nowhere", file)


def test_choices_are_written_by_rule(tmp_path: Path) -> None:
    path = tmp_path / "choices.jsonl"
    write_choices(
        path, {OURS: [Routed(FreeForm("own", "q"), None)], "by domain alone": [Routed(FreeForm("own", "q"), "x")]}
    )
    rows = [json.loads(line) for line in path.read_text().splitlines()]
    assert [(row["rule"], row["learnware"]) for row in rows] == [(OURS, None), ("by domain alone", "x")]
    assert rows[0]["prompt_sha256"] == prompt_hash("q")


@pytest.mark.skipif(data_folder() is None, reason="needs the task data: LEARNWARE_DATA=folder")
def test_requests_are_distinct_and_rows_say_where_they_stand() -> None:
    data = data_folder()
    assert data is not None
    starters = Starters(("finance-tfns", "finance-xbrl_term"), frozenset({"finance-xbrl_term"}))
    requests = read_requests(starters, data, None)
    assert len({one.prompt.strip() for one in requests}) == len(requests)
    sets = {one.set for one in requests}
    assert sets >= {"own", "harm_prompts", "other_asks", "reworded", "finance-xbrl_term", "finance-fiqa_qa", "everyday"}
    rows = [one for one in requests if one.task == "finance-xbrl_term"]
    lines = (data / "finance" / "xbrl_term.test.jsonl").read_text().splitlines()
    assert all(one.row is not None and json.loads(lines[one.row])["prompt"] == one.prompt for one in rows)
    assert sample_of(requests, 5) == sample_of(requests, 5)


async def test_a_stack_that_is_not_there_is_an_error_unless_nothing_is_wanted() -> None:
    answers = KeptAnswers("http://127.0.0.1:9", None)
    await answers.fetch([])
    with pytest.raises(InvalidInput, match=r"127\.0\.0\.1:9"):
        await answers.fetch([("What is 2 + 3?", "m")])
