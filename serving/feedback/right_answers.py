"""A right answer as feedback: what is asked of an engine to score it, and what its scores say.

It is scored as benchmarks and probes score the rows of a task (`serving.training.scoring`), under the base model and
the likeliest candidates of the request's choice, so that all three tell the same. Where the request names the answers
to choose from, by letters or in words, the log-probabilities of all tokens of each are summed, without the end of turn;
the likeliest one counts. Otherwise the right answer alone is scored, with the end of turn, and counts as right where
each token is the likeliest; of sentences without it, and the mean a token counts, of at most the first `MOST_TOKENS`.

The request is the kept prompt, so as it was redacted. One that was kept without its beginning is not scored, since
nobody knows what it was. Messages are told apart by the roles before them; the prompt of a completion has none.
"""

import math
import re
from collections.abc import Mapping, Sequence
from typing import Any, NamedTuple

from serving.feedback.pieces import BASE
from specs.answers.description import answer_kind
from specs.answers.form import asked_form
from specs.answers.options import offered_letters
from specs.canary import is_canary

MOST_TOKENS = 48
"""Tokens of an answer in sentences that are scored, the first ones: the mean of so many differs little from that of
all."""
MOST_CANDIDATES = 12
"""Learnwares under which an answer is scored at most, the likeliest ones."""
COMPLETIONS = "/v1/completions"
ROLES = ("system", "developer", "user", "assistant", "tool")
_ROLE = re.compile(rf"^({'|'.join(ROLES)}): ", re.MULTILINE)


class Question(NamedTuple):
    """A request and its right answer, as an engine scores them."""

    prompt: str | list[dict[str, str]]
    """The text of a completion, or the messages of a chat."""
    answers: list[str]
    """The answers to score, the right one among them."""
    gold: int
    """Number of the right one."""
    sentences: bool
    """Whether the right one is in sentences."""
    learnwares: list[str]
    """Ids of the learnwares under which it is scored, beside the base model."""

    def asked(self, learnware: str | None) -> dict[str, Any]:
        """Returns what a replica is asked (`serving.replica.likelihood.Likelihood.score`) of a learnware, or of the
        base model (None)."""
        return {
            "model": learnware,
            "prompt": self.prompt,
            "answers": self.answers,
            "end": len(self.answers) == 1 and not self.sentences,
            "most_tokens": MOST_TOKENS if self.sentences else None,
        }


def question(record: Mapping[str, Any], piece: Mapping[str, Any], kept_chars: int) -> Question | None:
    """Returns what to score for a piece of feedback on a recorded request; None where it has no right answer, has been
    scored, or where the prompt or the candidates are not known. A prompt of `kept_chars` characters may be cut."""
    if is_canary(str(record.get("learnware"))):  # judged for itself: learning passes over it
        return None
    answer = piece.get("answer")
    text, choice = record.get("text"), record.get("choice")
    if not isinstance(answer, str) or not answer.strip() or "measured" in piece or not isinstance(choice, Mapping):
        return None
    prompt = text.get("prompt") if isinstance(text, Mapping) else None
    if not isinstance(prompt, str) or not prompt.strip() or len(prompt) >= kept_chars:
        return None
    learnwares = [str(one["learnware"]) for one in choice.get("candidates") or ()][:MOST_CANDIDATES]
    if record.get("version") and record.get("learnware") not in (None, *learnwares):
        learnwares.append(str(record["learnware"]))
    if not learnwares:
        return None
    messages = None if record.get("path") == COMPLETIONS else messages_of(prompt)
    asked = prompt if messages is None else _last_of_user(messages)
    choices, gold = named_choices(asked, answer)
    if not choices:
        choices, gold = [answer.strip()], 0
    sentences = len(choices) == 1 and answer_kind([answer]) == "text"
    return Question(prompt if messages is None else messages, choices, gold, sentences, learnwares)


def messages_of(prompt: str) -> list[dict[str, str]]:
    """Returns the messages of a kept prompt (`serving.decisions.prompt_text`). Text before the first role is a system
    prompt; text without any is what a user says."""
    found = list(_ROLE.finditer(prompt))
    if not found:
        return [{"role": "user", "content": prompt}]
    ends = [*(one.start() for one in found[1:]), len(prompt)]
    messages = [
        {"role": one[1], "content": prompt[one.end() : end].rstrip("\n")} for one, end in zip(found, ends, strict=True)
    ]
    before = prompt[: found[0].start()].strip("\n")
    return [{"role": "system", "content": before}, *messages] if before else messages


def named_choices(asked: str, answer: str) -> tuple[list[str], int]:
    """Returns the answers that a text names to choose from, as it spells them, and the number of the right one; nothing
    where it names none, or the right one is not among them."""
    form, right = asked_form(asked), answer.strip()
    choices: list[str] = []
    if form.kind == "letter":
        choices = list(offered_letters(asked))
    elif form.kind == "label":
        spelled = (re.search(rf"(?<!\w){re.escape(label)}(?!\w)", asked, re.IGNORECASE) for label in form.labels)
        found = sorted((one.start(), one[0]) for one in spelled if one is not None)
        choices = [label for _, label in found]
    places = [number for number, one in enumerate(choices) if one.lower() == right.lower()]
    return (choices, places[0]) if places and len(choices) > 1 else ([], 0)


def measured(asked: Question, scores: Mapping[str | None, Mapping[str, Any]]) -> dict[str, dict[str, Any]]:
    """Returns what the scores of each learnware, and of the base model (None), say of the right answer, as
    `serving.feedback.pieces.read_pieces` reads it. They hold `version` and, for each of `answers`, `log_prob` (nats,
    summed), `tokens` and `greedy` (whether each token is the likeliest)."""
    return {BASE if name is None else name: _measured(asked, one) for name, one in scores.items()}


def _measured(asked: Question, score: Mapping[str, Any]) -> dict[str, Any]:
    answers = score["answers"]
    gold = answers[asked.gold]
    log_probs = [float(one["log_prob"]) for one in answers]
    found: dict[str, Any] = {"version": score.get("version") or "", "choices": len(answers) if len(answers) > 1 else 0}
    if len(answers) == 1:
        likelihood = log_probs[0] / (max(1, int(gold["tokens"])) if asked.sentences else 1)
        return found | {"right": bool(gold["greedy"]), "gold": likelihood, "among": math.exp(likelihood)}
    best = max(log_probs)
    among = math.exp(log_probs[asked.gold] - best) / sum(math.exp(one - best) for one in log_probs)
    return found | {
        "right": log_probs.index(best) == asked.gold,
        "gold": log_probs[asked.gold],
        "among": among,
    }


def _last_of_user(messages: Sequence[Mapping[str, str]]) -> str:
    return next((one["content"] for one in reversed(messages) if one["role"] == "user"), messages[-1]["content"])
