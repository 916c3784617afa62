"""Reads questions with hand-given labels, other wordings and wrapped requests, by which the choice is tuned and
reported.

The files lie in `benchmarks/questions/`. All texts in them are our own. Users' questions from public data are there as
hashes with their label (`users_labels.json`, which states the rule of labelling), and are joined with the data's folder
when they are read. What is marked `tune` may be fitted to; figures are reported on `report`. Where no half is written
down, it follows from the text (`half_of`).
"""

import json
import random
import re
from collections.abc import Callable
from hashlib import sha256
from pathlib import Path
from typing import Annotated, Literal, NamedTuple, TypeVar

from pydantic import BaseModel, ConfigDict, StringConstraints, TypeAdapter, ValidationError

from benchmarks.common.tasks import QUESTIONS
from specs.compositions import bare_prompt
from specs.errors import InvalidInput

Half = Literal["tune", "report"]
Domain = Literal["finance", "healthcare", "mathematics", "general"]
FreeText = Literal["finance-xbrl_term", "healthcare-medquad_qa", "mathematics-gsm8k_solution"]
Labelling = Literal[
    "finance-australian_credit",
    "finance-fin_ner_type",
    "finance-fiqa_sa",
    "finance-tfns",
    "healthcare-medqa_usmle",
    "healthcare-mmlu_medical_subject",
    "healthcare-pubmed_section",
    "healthcare-pubmedqa",
    "mathematics-agieval_gaokao_mathqa",
    "mathematics-aqua_rat",
    "mathematics-gsm8k_first_operation",
    "mathematics-svamp_operation",
]
Starter = FreeText | Labelling
Asks = Starter | Literal["none"]
PromptHash = Annotated[str, StringConstraints(pattern="^[0-9a-f]{16}$")]

HASH_DIGITS = 16
"""Prompts are named by so many hexadecimal digits of their SHA-256: no two of ten thousand prompts share 64 bits by
chance."""
PASSAGES_CHARS = 6_000
"""A retrieval template puts so many characters of passages before the question, about ten passages of the usual
size."""
LETTER_INSTRUCTION = "Answer with the letter only."
"""The multiple-choice tasks repeat their ask in this line after the options."""


class _Row(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class UserLabel(_Row):
    """The label of a user's question. `in_english` names the starter that would answer a translation, for a question
    that gets none because of its language; `near_line`: another careful reader may decide otherwise."""

    set: str
    asks: Asks
    domain: Domain
    near_line: bool = False
    language: str | None = None
    in_english: Starter | None = None


class UsersLabels(_Row):
    rule: list[str]
    labels: dict[PromptHash, UserLabel]


class UserQuestion(NamedTuple):
    prompt: str
    label: UserLabel
    half: Half


class FreeQuestion(_Row):
    prompt: str
    asks: Asks
    domain: Domain
    half: Half


class HarmPrompt(_Row):
    """A request that wants sentences: a bare label, or a phrase repeated, is a wrong answer to it."""

    prompt: str
    domain: Domain
    half: Half


class Material(NamedTuple):
    """A row's content without its ask; `about` is the entity or company that the ask names, or empty."""

    text: str
    about: str


class Wording(_Row):
    """An ask in other words, put before and after the material; `{about}` stands for the entity or company that the ask
    names."""

    before: str
    after: str
    half: Half

    def around(self, material: Material) -> str:
        about = (part.replace("{about}", material.about) for part in (self.before, self.after))
        return material.text.join(about)


class OtherAsk(Wording):
    """An ask for something else on a starter's content, which no learnware that labels may take. Without `starters` it
    fits all of them."""

    starters: list[Labelling] | None = None

    def fits(self, starter: str) -> bool:
        return self.starters is None or starter in self.starters


class SystemPrompt(_Row):
    """A system prompt. `starter` is the learnware whose ask it carries, with bare material as the user's turn; None: it
    is neutral."""

    half: Half
    text: str
    starter: Labelling | None = None


class SystemPrompts(_Row):
    neutral: list[SystemPrompt]
    with_ask: list[SystemPrompt]


class Explain(_Row):
    """A follow-up that asks to explain the previous turn's answer, which is the base model's task (`side`)."""

    text: str
    side: Literal["base"]
    half: Half
    language: str | None = None


class SameTask(Wording):
    """A follow-up that continues the previous turn's task on other material."""

    side: Literal["same"]


class NewTopic(_Row):
    """A follow-up that turns to another topic: one that a starter answers (`other`), or one that none answers
    (`base`)."""

    text: str
    side: Literal["base", "other"]
    asks: Asks
    domain: Domain
    half: Half


class Turn(_Row):
    text: str
    asks: Asks
    domain: Domain
    reply: str


class LongConversation(_Row):
    """A conversation that begins with a row of `first` and its answer and then stays on another topic to the end."""

    half: Half
    first: Labelling
    turns: list[Turn]


class FollowUps(_Row):
    explain: list[Explain]
    same_task: list[SameTask]
    new_topic: list[NewTopic]
    long_conversations: list[LongConversation]


class Message(_Row):
    role: Literal["system", "user", "assistant"]
    content: str


class Wrapper(_Row):
    """A template of a request as an agent or a chat interface sends it.

    `{request}`, `{answer}` and `{passages}` in its messages stand for the request, for an answer to it, and for about
    6,000 characters of passages on other matters. `expect`: `hold` - the same choice as without the wrapper; `base` -
    another task on the conversation; `hold_or_base` - either, but no other learnware.
    """

    name: str
    half: Half
    expect: Literal["hold", "base", "hold_or_base"]
    messages: list[Message]

    def around(self, request: str, answer: str = "", passages: str = "") -> list[dict[str, str]]:
        """Returns the messages of a chat request with the placeholders filled in. The inserted text may hold braces
        itself."""
        values = {"{request}": request, "{answer}": answer, "{passages}": passages}

        def fill(content: str) -> str:
            return re.sub(r"\{(?:request|answer|passages)\}", lambda match: values[match[0]], content)

        return [{"role": message.role, "content": fill(message.content)} for message in self.messages]


class ForeignQuestion(_Row):
    """A question in another language. It asks for no starter, since those that answer in sentences answer in
    English."""

    prompt: str
    asks: Literal["none"]
    in_english: FreeText
    language: str
    domain: Domain
    half: Half


class Wrappers(_Row):
    wrappers: list[Wrapper]
    other_languages: list[ForeignQuestion]
    passages: list[str]

    def passages_text(self, seed: int) -> str:
        """Returns at least 6,000 characters of passages, in an order that depends on the seed."""
        chosen: list[str] = []
        for passage in random.Random(seed).sample(self.passages, len(self.passages)):
            chosen.append(passage)
            if len("\n\n".join(chosen)) >= PASSAGES_CHARS:
                break
        return "\n\n".join(chosen)


Model = TypeVar("Model")


def prompt_hash(prompt: str) -> str:
    return sha256(prompt.encode()).hexdigest()[:HASH_DIGITS]


def half_of(prompt: str) -> Half:
    """Returns the half of a text for which none is written down: even hashes tune, odd ones report."""
    return "report" if int(sha256(prompt.encode()).hexdigest(), 16) % 2 else "tune"


def read_users_labels() -> UsersLabels:
    return _read("users_labels.json", UsersLabels)


def read_users_questions(prompts: Path) -> list[UserQuestion]:
    """Returns the labelled users' questions with their text, in the order of the data.

    Args:
        prompts: the folder of `users_questions.jsonl` and `finance_questions.txt` (a question a line).

    Raises:
        InvalidInput: a file cannot be read, or a labelled question is not in them.
    """
    labels = read_users_labels().labels
    texts = [json.loads(line)["prompt"] for line in _lines(prompts / "users_questions.jsonl")]
    texts += _lines(prompts / "finance_questions.txt")
    found = {name: text for text in texts if (name := prompt_hash(text)) in labels}
    if missing := sorted(labels.keys() - found.keys()):
        raise InvalidInput(
            f"{prompts}: {len(missing)} labelled questions are not there, the first is {missing[0]}; "
            f"the folder must hold the questions that users_labels.json was made from"
        )
    return [UserQuestion(text, labels[name], half_of(text)) for name, text in found.items()]


def read_free_questions() -> list[FreeQuestion]:
    return [_parse(line, FreeQuestion, "free_questions.jsonl") for line in _lines(QUESTIONS / "free_questions.jsonl")]


def read_harm_prompts() -> list[HarmPrompt]:
    return [_parse(line, HarmPrompt, "harm_prompts.jsonl") for line in _lines(QUESTIONS / "harm_prompts.jsonl")]


def read_rewordings() -> dict[Starter, list[Wording]]:
    return _read("rewordings.json", dict[Starter, list[Wording]])


def read_other_asks() -> list[OtherAsk]:
    return _read("other_asks.json", list[OtherAsk])


def read_system_prompts() -> SystemPrompts:
    return _read("system_prompts.json", SystemPrompts)


def read_follow_ups() -> FollowUps:
    return _read("follow_ups.json", FollowUps)


def read_wrappers() -> Wrappers:
    return _read("wrappers.json", Wrappers)


def material_of(starter: str, prompt: str) -> Material:
    """Returns the content of a starter's row without instruction line, answer cue and letter instruction.

    Raises:
        InvalidInput: the row's instruction does not name what this starter's asks are about.
    """
    if starter == "finance-xbrl_term":
        return Material(prompt.partition(": ")[2], "")
    if starter in ("healthcare-medquad_qa", "mathematics-gsm8k_solution"):
        return Material(prompt, "")
    instruction = prompt.partition("\n")[0]
    text = bare_prompt(prompt).removesuffix(LETTER_INSTRUCTION).rstrip()
    if starter not in _NAMED:
        return Material(text, "")
    if not (match := _NAMED[starter].search(instruction)):
        wanted = _NAMED[starter].pattern
        raise InvalidInput(f"{instruction!r} is not an instruction of {starter}: it must match {wanted!r}")
    return Material(text, match[1])


_NAMED = {
    "finance-fin_ner_type": re.compile("entity type of '(.+)' in this sentence"),
    "finance-fiqa_sa": re.compile(r" towards (.+)\? Answer with"),
}


def lower_case(text: str) -> str:
    return text.lower()


def three_typos(text: str) -> str:
    """Returns the text with typos in three words of four letters and more, or in fewer where it has fewer: a letter is
    left out, doubled, or swapped with the next one. The same text always gets the same typos."""
    draw = random.Random(prompt_hash(text))
    words = [match.span() for match in re.finditer(r"[^\W\d_]{4,}", text)]
    for start, end in sorted(draw.sample(words, min(3, len(words))), reverse=True):
        at = draw.randrange(start + 1, end - 1)
        text = text[:at] + draw.choice(_TYPOS)(text[at], text[at + 1]) + text[at + 2 :]
    return text


_TYPOS: tuple[Callable[[str, str], str], ...] = (
    lambda _, after: after,
    lambda letter, after: letter + letter + after,
    lambda letter, after: after + letter if after != letter else letter,
)


def _read(name: str, kind: type[Model]) -> Model:
    return _parse("\n".join(_lines(QUESTIONS / name)), kind, name)


def _parse(text: str, kind: type[Model], name: str) -> Model:
    try:
        return TypeAdapter(kind).validate_json(text)
    except ValidationError as error:
        raise InvalidInput(f"benchmarks/questions/{name}: {error}") from None


def _lines(path: Path) -> list[str]:
    """Returns the lines of a file. Only line feeds end a line, since questions may hold other separators."""
    try:
        return path.read_text(encoding="utf-8").removesuffix("\n").split("\n")
    except OSError as error:
        raise InvalidInput(f"{path}: {error.strerror}") from None
